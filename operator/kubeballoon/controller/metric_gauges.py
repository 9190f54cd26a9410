"""This module exports to Prometheus what the controller's last rounds decided, and what became of their events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from kubeballoon.cluster.events import EventResult
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.rounds import RoundResult, RoundRunner
from kubeballoon.core.memory.model import MemoryDecision, MemoryPlan
from kubeballoon.core.migration import MigrationPlan
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.metrics import Gauge, Sample, describe_results
from kubeballoon.vocabulary import RemedyMode

_NODE = ("node",)
_LEADER = Gauge("kubeballoon_leader", "1 on the replica that leads; only this one exports what it decided.")
_LAST_ROUND = Gauge("kubeballoon_last_round_timestamp_seconds", "When the last round that decided ended, Unix time.")
_CAPACITY = Gauge(
    "kubeballoon_node_capacity_bytes",
    "Memory that all guests of a node may use together: its total less other use, the reserve and the VMs' overhead.",
    _NODE,
)
_SHORTFALL = Gauge(
    "kubeballoon_node_shortfall_bytes",
    "By how much the guaranteed minimums exceed that capacity, less what is set aside for VMs that take no part.",
    _NODE,
)
_RECLAIMED = Gauge("kubeballoon_node_reclaimed_bytes", "Memory reclaimed from a node's VMs.", _NODE)
_SILENT = Gauge(
    "kubeballoon_node_agent_silent", "1 while nothing is decided for a node because its agent is silent.", _NODE
)
_VM = ("node", "namespace", "name", "policy")
_DEMAND = Gauge("kubeballoon_vm_demand_bytes", "What a VM demands: its need and headroom, within its bounds.", _VM)
_ENTITLEMENT = Gauge(
    "kubeballoon_vm_entitlement_bytes", "What a VM will have once every other VM has followed its own request.", _VM
)
_WITHHELD = Gauge(
    "kubeballoon_vm_withheld_bytes",
    "What a VM keeps beyond its fair share of the node, because its guest works with it and cannot give it.",
    _VM,
)
_GUARANTEED = Gauge(
    "kubeballoon_node_guaranteed_bytes", "The guaranteed minimums of a node's VMs that policies govern.", _NODE
)
_GOVERNED = Gauge("kubeballoon_policy_virtual_machines", "How many VMs a policy governs.", ("kind", "policy"))
_TAINTED = Gauge(
    "kubeballoon_node_tainted",
    "1 for a node that is tainted because of a NodePolicy, with the taint's effect; not while policies only observe.",
    ("node", "effect"),
)
_CONTENDED = Gauge(
    "kubeballoon_policy_contended_nodes",
    "Nodes whose VMs have needed more memory than there is for as long as their NodePolicy says, by whether migrations "
    "would mend them: mendable or unmended.",
    ("policy", "result"),
)
_POLICY_MEMORY = Gauge(
    "kubeballoon_policy_memory_bytes",
    "Memory of the VMs that a MemoryPolicy governs: their size, what is guaranteed (min), their demand, what they are "
    "entitled to (entitlement), and what their balloons leave them (actual).",
    ("policy", "kind"),
)


class ControllerGauges(Collector):
    """ControllerGauges are collected when Prometheus scrapes them: gauges, and the count of events."""

    def __init__(self, state: ClusterState, rounds: RoundRunner, leads: Callable[[], bool]) -> None:
        """Export what ``rounds`` decided over ``state``; ``leads`` says whether this replica leads."""
        self._state = state
        self._rounds = rounds
        self._leads = leads

    def collect(self) -> Iterator[Metric]:
        """Collect the present values."""
        results = self._rounds.results
        plans = {node: plan for node, result in results.items() if (plan := result.memory) is not None}
        yield _LEADER.family([((), float(self._leads()))])
        decided_at = self._rounds.last_decided_at
        yield _LAST_ROUND.family([((), None if decided_at is None else decided_at.timestamp())])
        yield _CAPACITY.family(((node,), plan.capacity) for node, plan in plans.items())
        yield _SHORTFALL.family(((node,), plan.shortfall) for node, plan in plans.items())
        yield _RECLAIMED.family(
            ((node,), sum(vm.reclaimed for vm in status.virtual_machines))
            for node, pressure in self._state.nodes.items()
            if node in results and (status := pressure.status) is not None
        )
        yield _SILENT.family(((node,), float(result.silent)) for node, result in results.items())
        decisions = [(_labels(node, each), each) for node, plan in plans.items() for each in plan.decisions]
        yield _DEMAND.family((labels, decision.vm.demand) for labels, decision in decisions)
        yield _ENTITLEMENT.family((labels, decision.entitlement) for labels, decision in decisions)
        yield _WITHHELD.family((labels, decision.withheld) for labels, decision in decisions)
        yield _GUARANTEED.family(
            ((node,), sum(each.vm.minimum for each in plan.decisions if each.vm.policy is not None))
            for node, plan in plans.items()
        )
        yield _GOVERNED.family(_governed(results.values()))
        yield _POLICY_MEMORY.family(_memory_of_policies(plans.values()))
        yield _TAINTED.family(_tainted(self._state))
        yield _CONTENDED.family(_contended(self._state.migration_plans))
        yield _events(self._rounds.recorder.results)


def _labels(node: str, decision: MemoryDecision) -> tuple[str, ...]:
    """Return the values of the labels of a VM's series; the policy is empty where none governs the VM."""
    policy = decision.vm.policy
    return (node, *decision.vm.name.split("/", 1), "" if policy is None else policy.name)


def _governed(results: Iterable[RoundResult]) -> Iterator[Sample]:
    """Count the VMs that each policy governs, over all nodes."""
    counts: Counter[tuple[str, str]] = Counter()
    for result in results:
        for policy_type in (MEMORY, PROCESSORS):
            plan = result.plans.get(policy_type.model.plural)
            for decision in () if plan is None else plan.decisions:
                if decision.vm.policy is not None:
                    counts[policy_type.model.__name__, decision.vm.policy.name] += 1
    return iter(counts.items())


def _memory_of_policies(plans: Iterable[MemoryPlan]) -> Iterator[Sample]:
    """Sum up the memory of the VMs that each policy governs, over all nodes."""
    sums: Counter[tuple[str, str]] = Counter()
    for decision in (decision for plan in plans for decision in plan.decisions):
        vm = decision.vm
        if vm.policy is not None:
            sums[vm.policy.name, "size"] += vm.size
            sums[vm.policy.name, "min"] += vm.minimum
            sums[vm.policy.name, "demand"] += vm.demand
            sums[vm.policy.name, "entitlement"] += decision.entitlement
            sums[vm.policy.name, "actual"] += vm.actual
    return iter(sums.items())


def _tainted(state: ClusterState) -> Iterator[Sample]:
    """List the nodes that are to have the taint, where NodePolicies enforce it."""
    for policy, names in state.pools().items() if state.taints_enabled else ():
        if state.node_policies.policies[policy].taints.mode is RemedyMode.ENFORCE:
            yield from (((name, state.taints[name]), 1.0) for name in names if name in state.taints)


def _contended(plans: Mapping[str, MigrationPlan]) -> Iterator[Sample]:
    """Count for each NodePolicy that seeks migrations the nodes that they would mend, and the others."""
    for policy, plan in plans.items():
        yield (policy, "mendable"), len({each.source for each in plan.migrations} | set(plan.waiting))
        yield (policy, "unmended"), len(plan.unmended)


def _events(results: Mapping[EventResult, int]) -> Metric:
    family = CounterMetricFamily("kubeballoon_events", describe_results("Events", EventResult), labels=("result",))
    for result, count in results.items():
        family.add_metric((result,), count)
    return family
