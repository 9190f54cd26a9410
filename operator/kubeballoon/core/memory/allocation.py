"""This module allocates a node's memory: from one snapshot it makes a decision, with its reason, for each VM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np

from kubeballoon.core.decision_reason import DecisionReason, merge_observed
from kubeballoon.core.entitlement import Claims, divide_columns
from kubeballoon.core.memory.division import (
    SHARERS_REASONS,
    choose_bounds,
    divide_capacity,
    figure_columns,
    moved_recently,
)
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM
from kubeballoon.vocabulary import AgentAction, NodeState


class _LeftOut(NamedTuple):
    """A _LeftOut is what is decided about a VM that does not share in the division.

    Attributes:
        charge: node memory that is set aside for the VM, bytes.
        needed: the part of the charge that the VMs which share do not get even for their demands, bytes.
        held: what the VM holds of the node's memory, or may hold at any moment, bytes.
    """

    charge: int
    needed: int
    held: int
    decision: MemoryDecision

    @classmethod
    def without_request(cls, vm: MemoryVM, reason: DecisionReason, note: str) -> Self:
        """Leave out a VM of which nothing is requested, so that it may grow to all of its size."""
        charge = vm.charge(None)
        return cls(charge, charge, charge, MemoryDecision(vm, None, charge, reason, note=note))


def allocate_memory(node: MemoryNode) -> MemoryPlan:
    """Decide how much memory every VM of the node may use.

    1. VMs that must not or cannot be moved keep what they have; where nothing is requested of them, they count as all
       of their size. The others share the rest of the capacity.
    2. While all demands fit, no VM gets less than its demand. When they do not, no VM gets more than its demand:
       headroom goes first, then memory that a guest used lately but does not use now. In Scarce and Critical only
       minimums are guaranteed.
    3. Inside those bounds one price divides the capacity by shares and idle tax.
    4. A target changes only when that is worth it, and does not swing. Unless minimums do not fit, the targets of the
       VMs that share never exceed the capacity together.
    5. Memory is reclaimed first, then granted: a grant waits until the memory for it is free.

    VMs of policies that only observe count as immovable for the others. Their own decisions carry no target and say
    what would be decided if their policies were enforced.
    """
    plan = _plan(node)
    if not any(vm.observed for vm in node.vms):
        return plan
    hypothetical = map(_not_carried_out, _plan(node, as_if_enforced=True).decisions)
    return replace(plan, decisions=merge_observed(plan.decisions, hypothetical))


def _not_carried_out(decision: MemoryDecision) -> MemoryDecision:
    """Turn a decision into one that requests nothing; its reason tells where the VM would end."""
    reason, vm = decision.reason, decision.vm
    if reason in SHARERS_REASONS:
        reason = DecisionReason.SATISFIED if decision.entitlement >= vm.maximum else DecisionReason.RECLAIMED
        reason = DecisionReason.AT_MINIMUM if decision.entitlement <= vm.minimum < vm.maximum else reason
    return decision._replace(target=None, reason=reason)


def _plan(node: MemoryNode, *, as_if_enforced: bool = False) -> MemoryPlan:
    """Decide for all VMs; those of policies that only observe are left out, unless treated as if enforced."""
    calm = node.state is NodeState.AMPLE and not any(_lacks_memory_unseen(node, vm) for vm in node.vms)
    left_out = [_left_out(node, vm, calm=calm, as_if_enforced=as_if_enforced) for vm in node.vms]
    sharers = [vm for vm, found in zip(node.vms, left_out, strict=True) if found is None]
    set_aside = [found for found in left_out if found is not None]
    node_capacity = node.capacity  # a sum over all VMs
    sharers_capacity = _sharers_capacity(node_capacity, sharers, set_aside)
    unheld = min(sharers_capacity, node_capacity - sum([found.held for found in set_aside]))
    decisions, shortfall = divide_capacity(node, sharers, sharers_capacity, unheld)
    if len(sharers) < len(left_out):
        sharers_decisions = iter(decisions)
        decisions = [next(sharers_decisions) if found is None else found.decision for found in left_out]
        if node.state is NodeState.AMPLE:
            decisions = _return_free_memory(node, node_capacity, decisions)
    usable = sum([_usable(decision) for decision in decisions])
    risk = max(0, usable - node_capacity)
    return MemoryPlan(node.name, node_capacity, sharers_capacity, shortfall, risk, tuple(decisions))


def _sharers_capacity(node_capacity: int, sharers: Sequence[MemoryVM], left_out: Sequence[_LeftOut]) -> int:
    """Return the memory that is divided among the VMs that share, bytes.

    What other VMs have is not divided as idle memory. What they do not need is, as far as the sharers need it.
    """
    unclaimed = node_capacity - sum([found.charge for found in left_out])
    not_needed = node_capacity - sum([found.needed for found in left_out])
    return max(0, unclaimed, min(not_needed, sum([vm.demand for vm in sharers])))


def _usable(decision: MemoryDecision) -> int:
    """Return the most that a VM can come to hold under this decision, in bytes."""
    if decision.target is None or decision.reason in (DecisionReason.UNRESPONSIVE, DecisionReason.DEMAND_UNKNOWN):
        return decision.entitlement
    return decision.target


def _lacks_memory_unseen(node: MemoryNode, vm: MemoryVM) -> bool:
    """Whether a VM is to have back what was reclaimed from it, for its guest does not tell any more how it fares."""
    follows = vm.enforced and vm.responsive and vm.agent_action is AgentAction.FOLLOWS and vm.target is not None
    return node.state is NodeState.AMPLE and follows and vm.need is None and vm.committed < vm.maximum


def _left_out(node: MemoryNode, vm: MemoryVM, *, calm: bool, as_if_enforced: bool) -> _LeftOut | None:
    """Decide about a VM that does not share in the division, by the first reason why; None if it does share.

    ``calm`` says that nothing is to be reclaimed from VMs of policies that reclaim under pressure only.
    """
    if vm.policy is None:
        return _LeftOut.without_request(vm, DecisionReason.NO_POLICY, "no policy selects this VM")
    if vm.excluded is not None:
        return _LeftOut.without_request(vm, DecisionReason.EXCLUDED, vm.excluded)
    if vm.observed and not as_if_enforced:
        return _LeftOut.without_request(vm, DecisionReason.STEADY, "its policy only observes")
    if not vm.responsive or vm.need is None:
        reason = DecisionReason.DEMAND_UNKNOWN if vm.responsive else DecisionReason.UNRESPONSIVE
        target = None if vm.target is None else max(vm.target, vm.minimum)
        # A guaranteed minimum that the VM has not got yet must not be given to others meanwhile.
        needed = max(vm.charge(target), vm.minimum)
        decision = MemoryDecision(vm, target, needed, reason)
        # A guest of which nothing is known any more may need all of its memory: nobody fills that with idle memory.
        charge = max(needed, vm.maximum) if _lacks_memory_unseen(node, vm) else needed
        return _LeftOut(charge, needed, needed, decision)
    if calm and vm.policy.when.waits_for_pressure:
        decision = MemoryDecision(vm, vm.target, vm.maximum, DecisionReason.NOT_UNDER_PRESSURE, node.state)
        # A VM that was squeezed before has been promised no more than its target. What it does not need it may lose
        # once the node is short, so others may need it, but must not fill it with what they do not need.
        if vm.target is None:
            return _LeftOut(vm.demand, vm.demand, vm.demand, decision)
        return _LeftOut(max(vm.demand, vm.target), vm.demand, max(vm.demand, vm.committed), decision)
    return None


def _return_free_memory(
    node: MemoryNode, node_capacity: int, decisions: Sequence[MemoryDecision]
) -> list[MemoryDecision]:
    """Raise targets from which nothing is reclaimed now that the node is Ample.

    These are the targets of VMs whose policies reclaim under pressure only, and of VMs whose guests do not tell any
    more how they fare. Demands that are known are met from memory that is really free. More than that is given only
    from memory that has been promised to nobody, and that nobody holds: guests fill what they are given with caches,
    and the node would be short again. A target that was lowered within the cool-down is raised only if it is less than
    its guest demands.
    """
    vms = [decision.vm for decision in decisions if _may_be_returned(decision)]
    if not vms:
        return list(decisions)
    columns = figure_columns(vms)
    # What was requested of a VM while the node was short it gives, though the node has become Ample meanwhile.
    present = np.where(columns.target >= 0, columns.target, columns.committed)
    floor = np.maximum(columns.minimum, np.minimum(columns.maximum, present))
    unknown = np.array([vm.need is None for vm in vms])
    needed = np.maximum(floor, np.where(unknown, floor, columns.demand))
    free, unpromised = _unused_memory(node, node_capacity, decisions)
    capacity = int(floor.sum()) + min(free, max(unpromised - int(floor.sum()), int((needed - floor).sum())))
    minimum, maximum = choose_bounds([floor, needed, columns.maximum], capacity)
    claims = Claims(
        key=[vm.uid for vm in vms],
        minimum=minimum,
        maximum=maximum,
        weight=columns.weight,
        active=columns.maximum,  # the tax does not count while there is memory to give
        idle_tax=columns.idle_tax,
    )
    targets = divide_columns(claims, capacity)
    small = (targets - columns.target <= columns.dead_band) & (targets < columns.maximum)
    waits = moved_recently(vms, node.cool_down, up=False) & (needed - columns.target <= columns.dead_band)
    stays = (columns.target >= floor) & (small | waits)
    by_uid = dict(zip([vm.uid for vm in vms], np.where(stays, columns.target, targets).tolist(), strict=True))
    return [
        decision._replace(target=by_uid[decision.vm.uid]) if decision.vm.uid in by_uid else decision
        for decision in decisions
    ]


def _unused_memory(node: MemoryNode, node_capacity: int, decisions: Sequence[MemoryDecision]) -> tuple[int, int]:
    """Return what is really free on a node, and what of its capacity targets that stay as they are leave, in bytes."""
    others = [decision for decision in decisions if not _may_be_returned(decision)]
    granted = sum([max(0, _usable(decision) - decision.vm.committed) for decision in others])
    held = sum([max(_usable(decision), decision.vm.charge(decision.target)) for decision in others])
    return max(0, node.spare - granted - _untouched_demands(node, decisions)), node_capacity - held


def _untouched_demands(node: MemoryNode, decisions: Sequence[MemoryDecision]) -> int:
    """Add up what guests have been left of their demands, and may touch at any moment, bytes.

    What a guest has had for long without touching it is lent, if its policy reclaims under pressure only: otherwise the
    headrooms that all others do not use would keep a guest from memory that it lacks. What such a guest was given
    within the cool-down it is about to touch.
    """
    present = [decision for decision in decisions if decision.vm.need is not None and decision.vm.enforced]
    grown = moved_recently([decision.vm for decision in present], node.cool_down, up=True)
    return sum(
        [
            decision.vm.untouched_demand
            for decision, has_grown in zip(present, grown, strict=True)
            if has_grown or not _may_be_returned(decision)
        ]
    )


def _may_be_returned(decision: MemoryDecision) -> bool:
    if decision.reason is DecisionReason.NOT_UNDER_PRESSURE:
        return True
    return decision.reason is DecisionReason.DEMAND_UNKNOWN and decision.target is not None
