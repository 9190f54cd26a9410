"""What a policy's status says: pure functions of what the controller knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubeballoon.api.meta import Condition, Status, set_conditions
from kubeballoon.api.names import RELEASE
from kubeballoon.api.v1alpha1 import Exclusion, Policy, PolicyStatus, VirtualMachineReport
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_store import PolicyStore, UnreadablePolicy
from kubeballoon.controller.rounds import AnyPlan, RoundResult
from kubeballoon.core.memory.model import MemoryPlan
from kubeballoon.core.wording import human, listed
from kubeballoon.governance.exclusion import Excluded, ExclusionReason
from kubeballoon.governance.loaded_policy import P, Terms
from kubeballoon.governance.policy_types import MEMORY, PolicyType
from kubeballoon.vocabulary import Mode


@dataclass(slots=True)
class PolicyCounts:
    """What was counted for one policy."""

    matched: int = 0
    governed: int = 0
    reclaimed: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    nodes: set[str] = field(default_factory=set)
    unresponsive: list[str] = field(default_factory=list)
    governed_by: set[str] = field(default_factory=set)
    tied_with: set[str] = field(default_factory=set)


def count_policies(state: ClusterState, store: PolicyStore[P, Terms]) -> dict[str, PolicyCounts]:
    """Count every VM of every node once, for each of the book's policies by name."""
    counts_by_policy = {name: PolicyCounts() for name in store.policies}
    for name, pressure in state.nodes.items():
        for report in pressure.status.virtual_machines if pressure.status is not None else ():
            governance = state.governance(store, report)
            for policy in governance.policies:
                counts_by_policy[policy.name].matched += 1
            if governance.governing is None:
                continue
            excluded = store.policy_type.exclusion(
                report, governance.governing.resource, node_released=pressure.metadata.released
            )
            _count(store.policy_type, counts_by_policy[governance.governing.name], name, report, excluded)
            for other in governance.policies[1:]:
                counts_by_policy[other.name].governed_by.add(governance.governing.name)
            tied = {policy.name for policy in governance.tied}
            for each in tied:
                counts_by_policy[each].tied_with |= tied - {each}
    return counts_by_policy


def _count(
    policy_type: PolicyType[P, Any],
    counts: PolicyCounts,
    node: str,
    report: VirtualMachineReport,
    excluded: Excluded | None,
) -> None:
    counts.governed += 1
    counts.nodes.add(node)
    if excluded is not None:
        counts.excluded[excluded.reason] += 1
    elif not policy_type.responsive(report):
        counts.unresponsive.append(f"{report.namespace}/{report.name}")
    counts.reclaimed += policy_type.reclaimed(report)


def policy_status(
    policy_type: PolicyType[Any, Any],
    policy: Policy,
    counts: PolicyCounts,
    results: Mapping[str, RoundResult],
    now: datetime,
) -> PolicyStatus:
    """The status of one policy, keeping the transition times of conditions that did not change."""
    wanted = [
        Condition(
            type=each,
            status=Status.TRUE if holds else Status.FALSE,
            reason=reason,
            message=message,
            observed_generation=policy.metadata.generation,
            last_transition_time=now,
        )
        for each, (holds, reason, message) in {
            "Ready": _ready(policy, counts, _would_take(policy, counts, results) if policy_type is MEMORY else None),
            "Degraded": _degraded(counts, results),
            "Shortfall": _shortfall(policy_type, counts, results),
            **({"AtRisk": _at_risk(counts, results)} if policy_type is MEMORY else {}),
            "Conflicted": _conflicted(policy, counts),
        }.items()
    ]
    present = policy.status.conditions if policy.status is not None else []
    common = PolicyStatus(
        observed_generation=policy.metadata.generation,
        matched=counts.matched,
        governed=counts.governed,
        excluded=[Exclusion(reason=reason, count=count) for reason, count in sorted(counts.excluded.items())],
        conditions=set_conditions(present, wanted),
    )
    return policy_type.status(common, counts.reclaimed)


def unreadable_status(policy: UnreadablePolicy, now: datetime) -> PolicyStatus:
    """The status of a policy that this version cannot read."""
    ready = Condition(
        type="Ready",
        status=Status.FALSE,
        reason="Unreadable",
        message=f"this version of the controller cannot read it, so it governs no VM: {policy.fault}",
        observed_generation=policy.metadata.generation,
        last_transition_time=now,
    )
    present = policy.status.conditions if policy.status is not None else []
    return PolicyStatus(observed_generation=policy.metadata.generation, conditions=set_conditions(present, [ready]))


def _plans(
    policy_type: PolicyType[Any, Any], counts: PolicyCounts, results: Mapping[str, RoundResult]
) -> dict[str, AnyPlan]:
    """What was last decided on the nodes with VMs of the policy, by node."""
    return {
        name: results[name].plans[policy_type.model.plural]
        for name in sorted(counts.nodes)
        if name in results and policy_type.model.plural in results[name].plans
    }


def _would_take(policy: Policy, counts: PolicyCounts, results: Mapping[str, RoundResult]) -> int:
    """The memory that a policy would take from its VMs if it did not only observe, bytes."""
    plans = _plans(MEMORY, counts, results).values()
    return sum(
        max(0, decision.vm.size - decision.entitlement)
        for plan in plans
        if isinstance(plan, MemoryPlan)
        for decision in plan.decisions
        if decision.vm.policy is not None and decision.vm.policy.name == policy.metadata.name
    )


def _ready(policy: Policy, counts: PolicyCounts, would_take: int | None) -> tuple[bool, str, str]:
    if policy.metadata.released:
        return False, ExclusionReason.RELEASED, f"requests nothing of its VMs while its annotation {RELEASE} is true"
    if not counts.matched:
        return False, "NoVirtualMachines", "its selector selects no running VM on a node with an agent"
    if not counts.governed:
        return False, "NotGoverning", f"every VM it selects is governed by {_names(counts.governed_by)}"
    where = f"{counts.governed} VMs on {len(counts.nodes)} nodes"
    if policy.spec.mode is Mode.OBSERVE:
        supposed = "" if would_take is None else f"; it would take back {human(would_take)}"
        return True, "Observing", f"computes and reports for {where}, and changes nothing{supposed}"
    return True, "Enforcing", f"governs {where}"


def _degraded(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> tuple[bool, str, str]:
    mine = [(name, results[name]) for name in sorted(counts.nodes) if name in results]
    failures = [failure for _, result in mine for failure in result.failures]
    if failures:
        return True, "PatchFailed", failures[0]
    faults = [result.fault for _, result in mine if result.fault is not None]
    if faults:
        return True, "RoundFailed", faults[0]
    silent = [name for name, result in mine if result.silent]
    if silent:
        return True, "AgentSilent", f"no recent report from the agents of {_names(silent)}: requests there stand still"
    if counts.unresponsive:
        return True, "Unresponsive", f"{_names(counts.unresponsive)} do not follow requests"
    return False, "AsExpected", "all agents report, all guests follow"


def _shortfall(
    policy_type: PolicyType[Any, Any], counts: PolicyCounts, results: Mapping[str, RoundResult]
) -> tuple[bool, str, str]:
    short = {name: plan.shortfall for name, plan in _plans(policy_type, counts, results).items() if plan.shortfall}
    if not short:
        return False, "MinimumsFit", "the guaranteed minimums fit on every node"
    said = [f"{name} by {policy_type.amount_text(shortfall)}" for name, shortfall in short.items()]
    return True, "MinimumsExceedCapacity", f"the guaranteed minimums exceed the capacity of {_names(said)}"


def _at_risk(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> tuple[bool, str, str]:
    """Whether VMs could use more at once than their node has: what is not held back before the node runs short."""
    plans = _plans(MEMORY, counts, results)
    risks = {name: plan.risk for name, plan in plans.items() if isinstance(plan, MemoryPlan) and plan.risk}
    if not risks:
        return False, "CapacitySuffices", "the VMs of no node could use more than it has"
    said = [f"{human(risk)} on {name}" for name, risk in risks.items()]
    return True, "CapacityExceeded", f"all VMs at once could use more than there is: {_names(said)}"


def _conflicted(policy: Policy, counts: PolicyCounts) -> tuple[bool, str, str]:
    if not counts.tied_with:
        return False, "NoConflict", "no policy of the same priority selects the same VMs"
    first = min([policy.metadata.name, *counts.tied_with])
    others = _names(counts.tied_with)
    return True, "SamePriority", f"some of its VMs are selected at the same priority by {others}; {first} governs them"


def _names(items: Iterable[str]) -> str:
    return listed(sorted(items))
