"""This module computes the status of a policy from what the controller knows; its functions are pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubeballoon.api.conditions import ConditionReason, ConditionType
from kubeballoon.api.meta import Condition, Status, set_conditions
from kubeballoon.api.names import RELEASE
from kubeballoon.api.v1alpha1 import Exclusion, Policy, PolicyStatus
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_store import PolicyStore, UnreadablePolicy
from kubeballoon.controller.rounds import AnyPlan, RoundResult
from kubeballoon.core.formatting import human, listed
from kubeballoon.core.memory.model import MemoryPlan
from kubeballoon.governance.loaded_policy import P, Terms
from kubeballoon.governance.policy_types import MEMORY, PolicyType
from kubeballoon.governance.vm_counts import CountedVM, VMCounts, count_vms
from kubeballoon.vocabulary import Mode

_Finding = tuple[bool, ConditionReason, str]
"""Whether a condition holds, its reason and its message."""


@dataclass(slots=True)
class PolicyCounts:
    """PolicyCounts are what was counted for one policy.

    Attributes:
        matched: the VMs that the policy selects.
        vms: counts of the VMs that the policy governs.
        governed_by: the policies that govern VMs which this policy selects too.
        tied_with: the policies of the same priority that select VMs which this policy selects too.
    """

    matched: int = 0
    vms: VMCounts = field(default_factory=VMCounts)
    governed_by: set[str] = field(default_factory=set)
    tied_with: set[str] = field(default_factory=set)


def count_policies(state: ClusterState, store: PolicyStore[P, Terms]) -> dict[str, PolicyCounts]:
    """Count the VMs of all nodes for each policy of a store, by the policy's name."""
    counts = {name: PolicyCounts() for name in store.policies}
    governed: dict[str, list[CountedVM[P]]] = {name: [] for name in store.policies}
    for pressure in state.nodes.values():
        for report in pressure.status.virtual_machines if pressure.status is not None else ():
            governance = state.governance(store, report)
            for policy in governance.policies:
                counts[policy.name].matched += 1
            governing = governance.governing
            if governing is None:
                continue
            governed[governing.name].append(CountedVM(pressure, report, governing.resource))
            for other in governance.policies[1:]:
                counts[other.name].governed_by.add(governing.name)
            tied = {policy.name for policy in governance.tied}
            for name in tied:
                counts[name].tied_with |= tied - {name}
    for name, vms in governed.items():
        counts[name].vms = count_vms(store.policy_type, vms)
    return counts


def policy_status(
    policy_type: PolicyType[Any, Any],
    policy: Policy,
    counts: PolicyCounts,
    results: Mapping[str, RoundResult],
    now: datetime,
) -> PolicyStatus:
    """Compute the status of a policy; conditions whose status has not changed keep their transition times.

    Args:
        policy_type: the policy's type.
        policy: the policy, with its present status.
        counts: what was counted for the policy.
        results: the result of each node's last round.
        now: the transition time of conditions that have changed.
    """
    present = policy.status.conditions if policy.status is not None else []
    common = PolicyStatus(
        observed_generation=policy.metadata.generation,
        matched=counts.matched,
        governed=counts.vms.governed,
        excluded=[Exclusion(reason=reason, count=count) for reason, count in sorted(counts.vms.excluded.items())],
        conditions=set_conditions(present, _conditions(policy_type, policy, counts, results, now)),
    )
    return policy_type.status(common, counts.vms.reclaimed)


def _conditions(
    policy_type: PolicyType[Any, Any],
    policy: Policy,
    counts: PolicyCounts,
    results: Mapping[str, RoundResult],
    now: datetime,
) -> list[Condition]:
    """Find all conditions of a policy, as if each had changed ``now``."""
    reclaimable = _reclaimable(policy, counts, results) if policy_type is MEMORY else None
    findings = {
        ConditionType.READY: _ready(policy, counts, reclaimable),
        ConditionType.DEGRADED: _degraded(counts, results),
        ConditionType.SHORTFALL: _shortfall(policy_type, counts, results),
        **({ConditionType.AT_RISK: _at_risk(counts, results)} if policy_type is MEMORY else {}),
        ConditionType.CONFLICTED: _conflicted(policy, counts),
    }
    return [
        Condition(
            type=condition_type,
            status=Status.TRUE if holds else Status.FALSE,
            reason=reason,
            message=message,
            observed_generation=policy.metadata.generation,
            last_transition_time=now,
        )
        for condition_type, (holds, reason, message) in findings.items()
    ]


def unreadable_status(policy: UnreadablePolicy, now: datetime) -> PolicyStatus:
    """Compute the status of a policy that this version cannot read."""
    ready = Condition(
        type=ConditionType.READY,
        status=Status.FALSE,
        reason=ConditionReason.UNREADABLE,
        message=f"this version of the controller cannot read it, so it governs no VM: {policy.fault}",
        observed_generation=policy.metadata.generation,
        last_transition_time=now,
    )
    present = policy.status.conditions if policy.status is not None else []
    return PolicyStatus(observed_generation=policy.metadata.generation, conditions=set_conditions(present, [ready]))


def _plans(
    policy_type: PolicyType[Any, Any], counts: PolicyCounts, results: Mapping[str, RoundResult]
) -> dict[str, AnyPlan]:
    """Find the last plans of the nodes on which the policy governs VMs, by the node's name."""
    plural = policy_type.model.plural
    return {name: result.plans[plural] for name, result in _results(counts, results) if plural in result.plans}


def _results(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> list[tuple[str, RoundResult]]:
    """Find the last rounds of the nodes on which the policy governs VMs, sorted by the node's name."""
    return [(name, results[name]) for name in sorted(counts.vms.nodes) if name in results]


def _reclaimable(policy: Policy, counts: PolicyCounts, results: Mapping[str, RoundResult]) -> int:
    """Sum up the memory that an observing policy would reclaim from its VMs if it were enforced, bytes."""
    return sum(
        max(0, decision.vm.size - decision.entitlement)
        for plan in _plans(MEMORY, counts, results).values()
        if isinstance(plan, MemoryPlan)
        for decision in plan.decisions
        if decision.vm.policy is not None and decision.vm.policy.name == policy.metadata.name
    )


def _ready(policy: Policy, counts: PolicyCounts, reclaimable: int | None) -> _Finding:
    """Find whether a policy governs VMs; ``reclaimable`` is None for policies that do not reclaim memory."""
    if policy.metadata.released:
        return False, ConditionReason.RELEASED, f"requests nothing of its VMs while its annotation {RELEASE} is true"
    if not counts.matched:
        return False, ConditionReason.NO_VIRTUAL_MACHINES, "its selector selects no running VM on a node with an agent"
    if not counts.vms.governed:
        return False, ConditionReason.NOT_GOVERNING, f"every VM it selects is governed by {_listed(counts.governed_by)}"
    where = f"{counts.vms.governed} VMs on {len(counts.vms.nodes)} nodes"
    if policy.spec.mode is Mode.OBSERVE:
        effect = "" if reclaimable is None else f"; it would reclaim {human(reclaimable)}"
        return True, ConditionReason.OBSERVING, f"computes and reports for {where}, and changes nothing{effect}"
    return True, ConditionReason.ENFORCING, f"governs {where}"


def _degraded(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> _Finding:
    """Find the worst that keeps requests from being written or followed: first errors, then agents, then guests."""
    last_rounds = _results(counts, results)
    failures = [failure for _, result in last_rounds for failure in result.failures]
    if failures:
        return True, ConditionReason.PATCH_FAILED, failures[0]
    misreported = {name: result.misreported for name, result in last_rounds if result.misreported}
    if misreported:
        texts = [f"{name} reports VMs that it does not run: {_listed(vms)}" for name, vms in misreported.items()]
        return True, ConditionReason.MISREPORTED, "; ".join(texts)
    faults = [result.fault for _, result in last_rounds if result.fault is not None]
    if faults:
        return True, ConditionReason.ROUND_FAILED, faults[0]
    silent = [name for name, result in last_rounds if result.silent]
    if silent:
        return (
            True,
            ConditionReason.AGENT_SILENT,
            f"no recent report from the agents of {_listed(silent)}: requests there stand still",
        )
    if counts.vms.unresponsive:
        return True, ConditionReason.UNRESPONSIVE, f"{_listed(counts.vms.unresponsive)} do not follow requests"
    return False, ConditionReason.AS_EXPECTED, "all agents report, all guests follow"


def _shortfall(policy_type: PolicyType[Any, Any], counts: PolicyCounts, results: Mapping[str, RoundResult]) -> _Finding:
    """Find whether the guaranteed minimums exceed a node's capacity."""
    shortfalls = {name: plan.shortfall for name, plan in _plans(policy_type, counts, results).items() if plan.shortfall}
    if not shortfalls:
        return False, ConditionReason.MINIMUMS_FIT, "the guaranteed minimums fit on every node"
    texts = [f"{name} by {policy_type.amount_text(shortfall)}" for name, shortfall in shortfalls.items()]
    return (
        True,
        ConditionReason.MINIMUMS_EXCEED_CAPACITY,
        f"the guaranteed minimums exceed the capacity of {_listed(texts)}",
    )


def _at_risk(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> _Finding:
    """Find whether a node's VMs could use more than it has all at once.

    That is possible where memory is not reclaimed before the node runs short, or cannot be reclaimed.
    """
    plans = _plans(MEMORY, counts, results)
    risks = {name: plan.risk for name, plan in plans.items() if isinstance(plan, MemoryPlan) and plan.risk}
    if not risks:
        return False, ConditionReason.CAPACITY_SUFFICES, "the VMs of no node could use more than it has"
    texts = [f"{human(risk)} on {name}" for name, risk in risks.items()]
    return True, ConditionReason.CAPACITY_EXCEEDED, f"all VMs at once could use more than there is: {_listed(texts)}"


def _conflicted(policy: Policy, counts: PolicyCounts) -> _Finding:
    """Find whether only their names order this policy and others that select the same VMs."""
    if not counts.tied_with:
        return False, ConditionReason.NO_CONFLICT, "no policy of the same priority selects the same VMs"
    first = min([policy.metadata.name, *counts.tied_with])
    others = _listed(counts.tied_with)
    return (
        True,
        ConditionReason.SAME_PRIORITY,
        f"some of its VMs are selected at the same priority by {others}; {first} governs them",
    )


def _listed(items: Iterable[str]) -> str:
    return listed(sorted(items))
