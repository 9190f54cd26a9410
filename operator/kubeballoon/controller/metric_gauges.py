"""This module exports to Prometheus what the controller's last rounds decided, and what became of their events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.metrics import Gauge

_NODE = ("node",)
_LEADER = Gauge("kubeballoon_leader", "1 on the replica that leads; only this one exports what it decided.")
_LAST_ROUND = Gauge("kubeballoon_last_round_timestamp_seconds", "When the last round that decided ended, Unix time.")
_CAPACITY = Gauge(
    "kubeballoon_node_capacity_bytes",
    "Memory divided among a node's VMs: its total less other use, the reserve, overhead, and what is set aside for VMs "
    "that take no part.",
    _NODE,
)
_SHORTFALL = Gauge(
    "kubeballoon_node_entitlement_shortfall_bytes", "By how much the guaranteed minimums exceed that capacity.", _NODE
)
_RECLAIMED = Gauge("kubeballoon_node_reclaimed_bytes", "Memory reclaimed from a node's VMs.", _NODE)
_SILENT = Gauge(
    "kubeballoon_node_agent_silent", "1 while nothing is decided for a node because its agent is silent.", _NODE
)
_DEMAND = Gauge(
    "kubeballoon_vm_demand_bytes",
    "What a VM demands: its need and headroom, within its bounds.",
    ("node", "namespace", "name"),
)

_WITHHELD = Gauge(
    "kubeballoon_vm_withheld_bytes",
    "What a VM keeps beyond its part of the node, because its guest works with it and cannot give it.",
    ("node", "namespace", "name"),
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
        yield _DEMAND.family(
            ((node, *decision.vm.name.split("/", 1)), decision.vm.demand)
            for node, plan in plans.items()
            for decision in plan.decisions
        )
        yield _WITHHELD.family(
            ((node, *decision.vm.name.split("/", 1)), decision.withheld)
            for node, plan in plans.items()
            for decision in plan.decisions
        )
        yield _events(self._rounds.recorder.results)


def _events(results: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "kubeballoon_events",
        "Events by result: written, failed, or dropped because too many waited for the API server.",
        labels=("result",),
    )
    for result, count in results.items():
        family.add_metric((result,), count)
    return family
