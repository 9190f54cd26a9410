"""What a policy's status says: pure functions of what the controller knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubeballoon.api.meta import Condition, Status, set_conditions
from kubeballoon.api.names import RELEASE
from kubeballoon.api.v1alpha1 import Exclusion, Mode, Policy, PolicyStatus, VirtualMachineReport
from kubeballoon.cluster.snapshot import RELEASED, P
from kubeballoon.controller.kinds import MEMORY, Kind
from kubeballoon.controller.round import AnyPlan, Outcome
from kubeballoon.controller.world import Book, Unread, World
from kubeballoon.core.model import Plan
from kubeballoon.core.wording import human, listed


@dataclass(slots=True)
class Tally:
    """What was counted for one policy."""

    matched: int = 0
    governed: int = 0
    taken: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    nodes: set[str] = field(default_factory=set)
    unresponsive: list[str] = field(default_factory=list)
    governed_by: set[str] = field(default_factory=set)
    tied_with: set[str] = field(default_factory=set)


def tally(world: World, book: Book[P]) -> dict[str, Tally]:
    """Count every VM of every node once, for each of the book's policies by name."""
    tallies = {name: Tally() for name in book.policies}
    for name, pressure in world.nodes.items():
        for report in pressure.status.virtual_machines if pressure.status is not None else ():
            governance = world.governance(book, report)
            for policy in governance.policies:
                tallies[policy.metadata.name].matched += 1
            if governance.governing is None:
                continue
            excluded = book.kind.exclusion(report, governance.governing, pressure.metadata.released)
            _count(book.kind, tallies[governance.governing.metadata.name], name, report, excluded)
            for other in governance.policies[1:]:
                tallies[other.metadata.name].governed_by.add(governance.governing.metadata.name)
            tied = {policy.metadata.name for policy in governance.tied}
            for each in tied:
                tallies[each].tied_with |= tied - {each}
    return tallies


def _count(
    kind: Kind[P], counts: Tally, node: str, report: VirtualMachineReport, excluded: tuple[str, str] | None
) -> None:
    counts.governed += 1
    counts.nodes.add(node)
    if excluded is not None:
        counts.excluded[excluded[0]] += 1
    elif not kind.responsive(report):
        counts.unresponsive.append(f"{report.namespace}/{report.name}")
    counts.taken += kind.taken(report)


def policy_status(
    kind: Kind[Any], policy: Policy, counts: Tally, outcomes: Mapping[str, Outcome], now: datetime
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
            "Ready": _ready(policy, counts, _would_take(policy, counts, outcomes) if kind is MEMORY else None),
            "Degraded": _degraded(counts, outcomes),
            "Overcommitted": _overcommitted(kind, counts, outcomes),
            **({"AtRisk": _at_risk(counts, outcomes)} if kind is MEMORY else {}),
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
    return kind.status(common, counts.taken)


def unread_status(policy: Unread, now: datetime) -> PolicyStatus:
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


def _plans(kind: Kind[Any], counts: Tally, outcomes: Mapping[str, Outcome]) -> dict[str, AnyPlan]:
    """What was last decided on the nodes with VMs of the policy, by node."""
    return {
        name: outcomes[name].plans[kind.path]
        for name in sorted(counts.nodes)
        if name in outcomes and kind.path in outcomes[name].plans
    }


def _would_take(policy: Policy, counts: Tally, outcomes: Mapping[str, Outcome]) -> int:
    """The memory that a policy would take from its VMs if it did not only observe, bytes."""
    plans = _plans(MEMORY, counts, outcomes).values()
    return sum(
        max(0, decision.vm.size - decision.entitlement)
        for plan in plans
        if isinstance(plan, Plan)
        for decision in plan.decisions
        if decision.vm.policy is not None and decision.vm.policy.name == policy.metadata.name
    )


def _ready(policy: Policy, counts: Tally, would_take: int | None) -> tuple[bool, str, str]:
    if policy.metadata.released:
        return False, RELEASED, f"requests nothing of its VMs while its annotation {RELEASE} is true"
    if not counts.matched:
        return False, "NoVirtualMachines", "its selector selects no running VM on a node with an agent"
    if not counts.governed:
        return False, "NotGoverning", f"every VM it selects is governed by {_names(counts.governed_by)}"
    where = f"{counts.governed} VMs on {len(counts.nodes)} nodes"
    if policy.spec.mode is Mode.OBSERVE:
        supposed = "" if would_take is None else f"; it would take back {human(would_take)}"
        return True, "Observing", f"computes and reports for {where}, and changes nothing{supposed}"
    return True, "Enforcing", f"governs {where}"


def _degraded(counts: Tally, outcomes: Mapping[str, Outcome]) -> tuple[bool, str, str]:
    mine = [(name, outcomes[name]) for name in sorted(counts.nodes) if name in outcomes]
    failures = [failure for _, outcome in mine for failure in outcome.failures]
    if failures:
        return True, "PatchFailed", failures[0]
    faults = [outcome.fault for _, outcome in mine if outcome.fault is not None]
    if faults:
        return True, "RoundFailed", faults[0]
    silent = [name for name, outcome in mine if outcome.silent]
    if silent:
        return True, "AgentSilent", f"no recent report from the agents of {_names(silent)}: requests there stand still"
    if counts.unresponsive:
        return True, "Unresponsive", f"{_names(counts.unresponsive)} do not follow requests"
    return False, "AsExpected", "all agents report, all guests follow"


def _overcommitted(kind: Kind[Any], counts: Tally, outcomes: Mapping[str, Outcome]) -> tuple[bool, str, str]:
    short = {name: plan.shortfall for name, plan in _plans(kind, counts, outcomes).items() if plan.shortfall}
    if not short:
        return False, "MinimumsFit", "the guaranteed minimums fit on every node"
    said = [f"{name} by {kind.said(shortfall)}" for name, shortfall in short.items()]
    return True, "MinimumsExceedCapacity", f"the guaranteed minimums exceed the capacity of {_names(said)}"


def _at_risk(counts: Tally, outcomes: Mapping[str, Outcome]) -> tuple[bool, str, str]:
    """Whether VMs could use more at once than their node has: what is not held back before the node runs short."""
    plans = _plans(MEMORY, counts, outcomes)
    risks = {name: plan.risk for name, plan in plans.items() if isinstance(plan, Plan) and plan.risk}
    if not risks:
        return False, "CapacitySuffices", "the VMs of no node could use more than it has"
    said = [f"{human(risk)} on {name}" for name, risk in risks.items()]
    return True, "CapacityExceeded", f"all VMs at once could use more than there is: {_names(said)}"


def _conflicted(policy: Policy, counts: Tally) -> tuple[bool, str, str]:
    if not counts.tied_with:
        return False, "NoConflict", "no policy of the same priority selects the same VMs"
    first = min([policy.metadata.name, *counts.tied_with])
    others = _names(counts.tied_with)
    return True, "SamePriority", f"some of its VMs are selected at the same priority by {others}; {first} governs them"


def _names(items: Iterable[str]) -> str:
    return listed(sorted(items))
