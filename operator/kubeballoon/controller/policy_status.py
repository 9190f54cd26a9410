"""This module computes the status of a policy from what the controller knows; its functions are pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from kubeballoon.api.conditions import ConditionReason, ConditionType
from kubeballoon.api.meta import Condition, ConditionStatus, set_conditions
from kubeballoon.api.names import RELEASE
from kubeballoon.api.quantity import POD_REQUEST
from kubeballoon.api.v1alpha1 import Exclusion, NodePolicy, NodePolicyStatus, Policy, PolicyStatus
from kubeballoon.controller.condition_finding import Finding, conditions_now, find_conflict, in_order
from kubeballoon.controller.policy_counts import PolicyCounts
from kubeballoon.controller.policy_store import UnreadablePolicy
from kubeballoon.controller.rounds import AnyPlan, RoundResult
from kubeballoon.core.formatting import counted, human
from kubeballoon.core.memory.model import MemoryDecision, MemoryPlan
from kubeballoon.governance.policy_types import MEMORY, PolicyType
from kubeballoon.vocabulary import DEFAULT_MINIMUM_PERCENT

_FIGURE = re.compile(r"([0-9]+(?:[.][0-9]+)?) ?(?:[KMGTPE]iB|bytes)")
_STALE_FIGURE = 0.1
"""The part by which a figure in a message must have moved to be written anew: each report moves it a little."""


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
        conditions=set_conditions(present, _steadied(present, _conditions(policy_type, policy, counts, results, now))),
    )
    return policy_type.status(common, counts.vms.reclaimed)


def is_news(before: PolicyStatus | NodePolicyStatus | None, after: PolicyStatus | NodePolicyStatus) -> bool:
    """Whether a status differs from the present one by more than figures and words.

    It does if it is about another generation of the policy, if another number of VMs or nodes is governed or left
    alone, or if a condition's status or reason differs.
    """
    return before is None or _news(before) != _news(after)


def _news(status: PolicyStatus | NodePolicyStatus) -> tuple[object, ...]:
    conditions = [(each.type, each.status, each.reason) for each in status.conditions]
    excluded = status.excluded if isinstance(status, PolicyStatus) else None
    return status.observed_generation, status.matched, status.governed, excluded, conditions


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
        ConditionType.READY: _ready(policy, counts, results, reclaimable),
        ConditionType.DEGRADED: _degraded(policy_type, counts, results),
        ConditionType.SHORTFALL: _shortfall(policy_type, counts, results),
        **(_memory_findings(counts, results) if policy_type is MEMORY else {}),
        ConditionType.CONFLICTED: find_conflict(policy.metadata.name, counts.tied_with, "VMs"),
        ConditionType.SELF_SERVICE: _self_service(policy_type, policy),
    }
    return conditions_now(findings, policy.metadata.generation, now)


def _steadied(present: Iterable[Condition], new: Iterable[Condition]) -> list[Condition]:
    """Return the new conditions, with present messages where only figures differ, and little.

    Otherwise every report would cause a write of every policy's status.
    """
    before = {condition.type: condition.message for condition in present}
    return [
        condition.model_copy(update={"message": _steady_message(before.get(condition.type, ""), condition.message)})
        for condition in new
    ]


def _steady_message(before: str, now: str) -> str:
    if _FIGURE.sub("", before) != _FIGURE.sub("", now):
        return now
    pairs = [tuple(map(float, pair)) for pair in zip(_FIGURE.findall(before), _FIGURE.findall(now), strict=True)]
    return before if all(abs(old - new) <= _STALE_FIGURE * max(old, new) for old, new in pairs) else now


def unreadable_status(policy: UnreadablePolicy, now: datetime) -> PolicyStatus | NodePolicyStatus:
    """Compute the status of a policy that this version cannot read."""
    ready = Condition(
        type=ConditionType.READY,
        status=ConditionStatus.FALSE,
        reason=ConditionReason.UNREADABLE,
        message=f"this version of the controller cannot read it, so it governs nothing: {policy.fault}",
        observed_generation=policy.metadata.generation,
        last_transition_time=now,
    )
    present = policy.status.conditions if policy.status is not None else []
    model = NodePolicyStatus if policy.kind == NodePolicy.__name__ else PolicyStatus
    return model(observed_generation=policy.metadata.generation, conditions=set_conditions(present, [ready]))


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


def _ready(
    policy: Policy, counts: PolicyCounts, results: Mapping[str, RoundResult], reclaimable: int | None
) -> Finding:
    """Find whether a policy is accepted and carried out, which one that selects nothing yet is too.

    Who waits for the condition waits for the policy, not for every node of a cluster: it is unknown only where no agent
    answers. Single silent agents are counted in its message, and make the policy degraded.

    ``reclaimable`` is None for policies that do not reclaim memory.
    """
    if policy.metadata.released:
        message = f"requests nothing of its VMs while its annotation {RELEASE} is true"
        return ConditionStatus.FALSE, ConditionReason.RELEASED, message
    if not counts.matched:
        message = "it is accepted; its selector selects no running VM on a node with an agent yet"
        return ConditionStatus.TRUE, ConditionReason.NO_VIRTUAL_MACHINES, message
    if not counts.vms.governed:
        message = f"it is accepted; every VM it selects is governed by {in_order(counts.governed_by)}"
        return ConditionStatus.TRUE, ConditionReason.NOT_GOVERNING, message
    silent = _silent(counts, results)
    nodes = len(counts.vms.nodes)
    if len(silent) == nodes:
        message = f"no recent report from the agents of {in_order(silent)}: whether it is carried out is not known"
        return ConditionStatus.UNKNOWN, ConditionReason.AGENT_SILENT, message
    where = f"{counted(counts.vms.governed, 'VM')} on {counted(nodes, 'node')}"
    where += _requested_text(counts) + _silent_text(silent)
    if policy.spec.mode.only_observes:
        effect = "" if reclaimable is None else f"; it would reclaim {human(reclaimable)}"
        message = f"computes and reports for {where}, and changes nothing{effect}"
        return ConditionStatus.TRUE, ConditionReason.OBSERVING, message
    return ConditionStatus.TRUE, ConditionReason.ENFORCING, f"governs {where}"


def _requested_text(counts: PolicyCounts) -> str:
    """Say from how many VMs nothing can be reclaimed, because their pods have requested all of their memory."""
    if not counts.fully_requested:
        return ""
    return f", of which the pods of {counts.fully_requested} have requested all of their memory: they keep it"


def _silent_text(silent: Sequence[str]) -> str:
    """Say on how many nodes it is not known what is carried out."""
    if not silent:
        return ""
    return f"; the agents of {len(silent)} of these nodes are silent: what is carried out there is not known"


def _silent(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> list[str]:
    """List the nodes with governed VMs whose agents have not reported lately."""
    return [name for name, result in _results(counts, results) if result.silent]


def _degraded(policy_type: PolicyType[Any, Any], counts: PolicyCounts, results: Mapping[str, RoundResult]) -> Finding:
    """Find the worst that keeps requests from being written or followed: first errors, then agents, then guests."""
    last_rounds = _results(counts, results)
    failures = [failure for _, result in last_rounds for failure in result.failures]
    if failures:
        return ConditionStatus.TRUE, ConditionReason.PATCH_FAILED, failures[0]
    misreported = {name: result.misreported for name, result in last_rounds if result.misreported}
    if misreported:
        texts = [f"{name} reports VMs that it does not run: {in_order(vms)}" for name, vms in misreported.items()]
        return ConditionStatus.TRUE, ConditionReason.MISREPORTED, "; ".join(texts)
    faults = [result.fault for _, result in last_rounds if result.fault is not None]
    if faults:
        return ConditionStatus.TRUE, ConditionReason.ROUND_FAILED, faults[0]
    silent = _silent(counts, results)
    if silent:
        return (
            ConditionStatus.TRUE,
            ConditionReason.AGENT_SILENT,
            f"no recent report from the agents of {in_order(silent)}: requests there stand still",
        )
    if counts.vms.unresponsive:
        return (
            ConditionStatus.TRUE,
            ConditionReason.UNRESPONSIVE,
            f"{in_order(counts.vms.unresponsive)} do not follow requests",
        )
    if any(map(_withheld, _plans(policy_type, counts, results).values())):
        message = "all agents report, and no guest has stopped following; what some keep is in condition Contended"
        return ConditionStatus.FALSE, ConditionReason.AS_EXPECTED, message
    return ConditionStatus.FALSE, ConditionReason.AS_EXPECTED, "all agents report, all guests follow"


def _shortfall(policy_type: PolicyType[Any, Any], counts: PolicyCounts, results: Mapping[str, RoundResult]) -> Finding:
    """Find whether the guaranteed minimums exceed a node's capacity."""
    shortfalls = {name: plan.shortfall for name, plan in _plans(policy_type, counts, results).items() if plan.shortfall}
    if not shortfalls:
        fit = ConditionReason.MINIMUMS_FIT, "the guaranteed minimums fit on every node"
        return _false_if_known(counts, results, *fit)
    texts = [f"{name} by {policy_type.amount_text(shortfall)}" for name, shortfall in shortfalls.items()]
    return (
        ConditionStatus.TRUE,
        ConditionReason.MINIMUMS_EXCEED_CAPACITY,
        f"the guaranteed minimums exceed the capacity of {in_order(texts)}",
    )


def _memory_findings(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> dict[ConditionType, Finding]:
    """Find the conditions that only policies for memory have."""
    return {ConditionType.AT_RISK: _at_risk(counts, results), ConditionType.CONTENDED: _contended(counts, results)}


def _withheld(plan: AnyPlan) -> list[MemoryDecision]:
    """List the decisions about VMs whose guests keep more than their fair shares of the node."""
    decisions = plan.decisions if isinstance(plan, MemoryPlan) else ()
    return [decision for decision in decisions if decision.withheld]


def _contended(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> Finding:
    """Find whether demands exceed a node's memory, and guests keep more than their fair shares of it."""
    withheld = {name: _withheld(plan) for name, plan in _plans(MEMORY, counts, results).items()}
    texts = [
        f"{human(decision.withheld)} by {decision.vm.name} on {name}"
        for name, decisions in withheld.items()
        for decision in decisions
    ]
    if not texts:
        nothing = ConditionReason.NOTHING_WITHHELD, "no guest keeps more than its fair share of a node"
        return _false_if_known(counts, results, *nothing)
    return (
        ConditionStatus.TRUE,
        ConditionReason.MEMORY_WITHHELD,
        f"guests work with more than their fair shares, and give none of it: {in_order(texts)}",
    )


def _at_risk(counts: PolicyCounts, results: Mapping[str, RoundResult]) -> Finding:
    """Find whether a node's VMs could use more than it has all at once.

    That is possible where memory is not reclaimed before the node runs short, or cannot be reclaimed.
    """
    plans = _plans(MEMORY, counts, results)
    risks = {name: plan.risk for name, plan in plans.items() if isinstance(plan, MemoryPlan) and plan.risk}
    if not risks:
        suffices = ConditionReason.CAPACITY_SUFFICES, "the VMs of no node could use more than it has"
        return _false_if_known(counts, results, *suffices)
    texts = [f"{human(risk)} on {name}" for name, risk in risks.items()]
    return (
        ConditionStatus.TRUE,
        ConditionReason.CAPACITY_EXCEEDED,
        f"all VMs at once could use more than there is: {in_order(texts)}",
    )


def _false_if_known(
    counts: PolicyCounts, results: Mapping[str, RoundResult], reason: ConditionReason, message: str
) -> Finding:
    """Find that a condition is false, unless a node's silent agent keeps that from being known."""
    silent = _silent(counts, results)
    if silent:
        message = f"no recent report from the agents of {in_order(silent)}"
        return ConditionStatus.UNKNOWN, ConditionReason.AGENT_SILENT, message
    return ConditionStatus.FALSE, reason, message


def _self_service(policy_type: PolicyType[Any, Any], policy: Any) -> Finding:
    """Find whether whoever may label a VM can give it more than VMs get by default: labels are no boundary."""
    selector = policy.spec.selector
    settings = policy.spec.memory if policy_type is MEMORY else policy.spec.processors
    raises = settings.shares > type(settings)().shares or _raises_minimum(settings.min)
    if raises and selector.any_namespace and selector.virtual_machine_selector.keys:
        message = "whoever may label a VM gets its shares or min: only a namespaceSelector bounds who does"
        return ConditionStatus.TRUE, ConditionReason.LABELS_ALONE, message
    return ConditionStatus.FALSE, ConditionReason.BOUNDED, "it raises neither shares nor min by VM labels alone"


def _raises_minimum(text: str | None) -> bool:
    """Whether a minimum may be more than the default; what a VM's pod requests is bounded by its namespace's quota."""
    if text is None or text == POD_REQUEST:
        return False
    if text.endswith("%"):
        return float(text.removesuffix("%")) > DEFAULT_MINIMUM_PERCENT
    return text != "0"
