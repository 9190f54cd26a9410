"""This module allocates a node's memory: from one snapshot it makes a decision, with its reason, for each VM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise, repeat
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from kubeballoon.core.decision_reason import DecisionReason, merge_observed
from kubeballoon.core.entitlement import Claims, Ints, divide_columns, scale_minimums
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM, VMFigures
from kubeballoon.vocabulary import NodeState, ReclaimWhen

# Up to 1/128 of the capacity is not given out as idle memory or headroom: other processes' memory and guests' needs
# waver by about as much, and then no target has to move.
_SLACK_DIVISOR = 128

# Idle memory may be 8 dead bands, which is 1/8 of the VM's size, off its entitlement for a while: nobody needs it.
_IDLE_DEAD_BANDS = 8

# That while, counted from the target's last change: an hour by default. Fairness among idle VMs is not urgent, and
# every correction disturbs guests.
COOL_DOWNS_BEFORE_REBALANCING = 60

# Why VMs that share in the division have their targets; the constants below are places in this tuple.
_SHARERS_REASONS = (
    DecisionReason.RECLAIMED,
    DecisionReason.AT_MINIMUM,
    DecisionReason.SATISFIED,
    DecisionReason.WAITING,
)
_RECLAIMED, _AT_MINIMUM, _SATISFIED, _WAITING = range(len(_SHARERS_REASONS))


class _LeftOut(NamedTuple):
    """A _LeftOut is what is decided about a VM that does not share in the division.

    Attributes:
        charge: node memory that is set aside for the VM, bytes.
    """

    charge: int
    decision: MemoryDecision

    @classmethod
    def without_request(cls, vm: MemoryVM, reason: DecisionReason, note: str) -> Self:
        """Leave out a VM of which nothing is requested, so that it may grow to all of its size."""
        charge = vm.charge(None)
        return cls(charge, MemoryDecision(vm, None, charge, reason, note=note))


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
    if reason in _SHARERS_REASONS:
        reason = DecisionReason.SATISFIED if decision.entitlement >= vm.maximum else DecisionReason.RECLAIMED
        reason = DecisionReason.AT_MINIMUM if decision.entitlement <= vm.minimum < vm.maximum else reason
    return decision._replace(target=None, reason=reason)


def _plan(node: MemoryNode, *, as_if_enforced: bool = False) -> MemoryPlan:
    """Decide for all VMs; those of policies that only observe are left out, unless treated as if enforced."""
    left_out = [_left_out(node, vm, as_if_enforced=as_if_enforced) for vm in node.vms]
    sharers = [vm for vm, found in zip(node.vms, left_out, strict=True) if found is None]
    node_capacity = node.capacity
    capacity = max(0, node_capacity - sum([found.charge for found in left_out if found is not None]))
    decisions, shortfall = _divide_capacity(node, sharers, capacity)
    if len(sharers) < len(left_out):
        sharers_decisions = iter(decisions)
        decisions = [next(sharers_decisions) if found is None else found.decision for found in left_out]
        if node.state is NodeState.AMPLE:
            decisions = _return_free_memory(node, decisions)
    usable = sum([_usable(decision) for decision in decisions])
    return MemoryPlan(node.name, capacity, shortfall, max(0, usable - node_capacity), tuple(decisions))


def _usable(decision: MemoryDecision) -> int:
    """Return the most that a VM can come to hold under this decision, in bytes."""
    if decision.target is None or decision.reason in (DecisionReason.UNRESPONSIVE, DecisionReason.DEMAND_UNKNOWN):
        return decision.entitlement
    return decision.target


def _left_out(node: MemoryNode, vm: MemoryVM, *, as_if_enforced: bool) -> _LeftOut | None:
    """Decide about a VM that does not share in the division, by the first reason why; None if it does share."""
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
        charge = max(vm.charge(target), vm.minimum)
        return _LeftOut(charge, MemoryDecision(vm, target, charge, reason))
    if node.state is NodeState.AMPLE and vm.policy.when is ReclaimWhen.UNDER_PRESSURE:
        decision = MemoryDecision(vm, vm.target, vm.maximum, DecisionReason.NOT_UNDER_PRESSURE, node.state)
        return _LeftOut(vm.demand, decision)
    return None


def _return_free_memory(node: MemoryNode, decisions: Sequence[MemoryDecision]) -> list[MemoryDecision]:
    """Raise the targets of VMs whose policies reclaim under pressure only, now that the node is Ample.

    Only memory that is really free is given, once and by shares, so that the node stays Ample. A target that was
    lowered within the cool-down is not raised yet.
    """
    vms = [decision.vm for decision in decisions if decision.reason is DecisionReason.NOT_UNDER_PRESSURE]
    if not vms:
        return list(decisions)
    columns = _columns(vms)
    floor = np.maximum(columns.minimum, np.minimum(columns.maximum, columns.committed))
    free = max(0, node.available - node.reserve)
    claims = Claims(
        key=[vm.uid for vm in vms],
        minimum=floor,
        maximum=columns.maximum,
        weight=columns.weight,
        active=columns.maximum,  # the tax does not count while there is memory to give
        idle_tax=columns.idle_tax,
    )
    targets = divide_columns(claims, int(floor.sum()) + free)
    small = (targets - columns.target <= columns.dead_band) & (targets < columns.maximum)
    stays = (columns.target >= floor) & (small | _moved_recently(vms, node.cool_down, up=False))
    by_uid = dict(zip([vm.uid for vm in vms], np.where(stays, columns.target, targets).tolist(), strict=True))
    return [
        decision._replace(target=by_uid[decision.vm.uid]) if decision.vm.uid in by_uid else decision
        for decision in decisions
    ]


def _divide_capacity(node: MemoryNode, vms: Sequence[MemoryVM], capacity: int) -> tuple[list[MemoryDecision], int]:
    """Divide the capacity among VMs with policies and known needs.

    Returns:
        A decision for each VM, and by how many bytes the minimums exceed the capacity.
    """
    if not vms:
        return [], 0
    columns = _columns(vms)
    shortfall = max(0, int(columns.minimum.sum()) - capacity)
    capacity = max(0, capacity - _residual_above_targets(columns))
    claims = _claims(node, vms, columns, capacity)
    divisible = _divisible(columns, claims, capacity)
    entitlements = divide_columns(claims, divisible)
    desired = _damp(node, vms, columns, claims.minimum, entitlements)
    if desired.sum() > capacity:
        desired = _remove_surplus(desired, entitlements, int(desired.sum()) - divisible)
    targets = _limit_to_free_memory(columns, claims, desired, capacity)
    if shortfall:
        entitlements = scale_minimums(columns.minimum, capacity)
    reasons = map(_SHARERS_REASONS.__getitem__, _reasons(columns, desired, targets).tolist())
    rows = zip(vms, targets.tolist(), entitlements.tolist(), reasons, repeat(node.state), repeat(""), strict=False)
    return list(map(MemoryDecision._make, rows)), shortfall


def _columns(vms: Sequence[MemoryVM]) -> VMFigures[Ints]:
    """Put the figures of many VMs into one array for each figure."""
    width = len(VMFigures._fields)
    figures = chain.from_iterable([vm.figures for vm in vms])
    return VMFigures._make(np.fromiter(figures, np.int64, len(vms) * width).reshape(len(vms), width).T.copy())


def _residual_above_targets(columns: VMFigures[Ints]) -> int:
    """Return the memory that balloons at rest leave their guests above the targets, in bytes.

    Balloons come to rest a little off their targets. That is not corrected, so nobody else can have it.
    """
    excess = columns.actual - np.where(columns.target >= 0, columns.target, columns.actual)
    return int(excess[(excess > 0) & (excess <= columns.dead_band)].sum())


def _claims(node: MemoryNode, vms: Sequence[MemoryVM], columns: VMFigures[Ints], capacity: int) -> Claims:
    """Build the VMs' claims, with the bounds that the node's state and the capacity allow."""
    levels = [columns.minimum, columns.maximum]
    if not node.state.only_minimums_hold:
        levels[1:1] = [columns.in_use, columns.working_set, columns.demand]
    minimum, maximum = _choose_bounds(levels, capacity)
    return Claims(
        key=[vm.uid for vm in vms],
        minimum=minimum,
        maximum=maximum,
        weight=columns.weight,
        active=columns.demand,
        idle_tax=columns.idle_tax,
    )


def _divisible(columns: VMFigures[Ints], claims: Claims, capacity: int) -> int:
    """Return how much of the capacity is divided, in bytes: all of it but a little slack that nobody works with.

    There is no slack where everything fits.
    """
    if claims.maximum.sum() <= capacity:
        return capacity
    needed = max(int(columns.working_set.sum()), int(claims.minimum.sum()))
    return max(capacity - capacity // _SLACK_DIVISOR, min(capacity, needed))


def _choose_bounds(levels: Sequence[Ints], capacity: int) -> tuple[Ints, Ints]:
    """Pick the lower and upper bounds of the division from ``levels``, which rise for every VM.

    Returns:
        The highest level whose sum fits the capacity and the level above it, or the lowest two if none fits.
    """
    for lower, upper in reversed(list(pairwise(levels))):
        if lower.sum() <= capacity:
            return lower, upper
    return levels[0], levels[1]


def _damp(
    node: MemoryNode, vms: Sequence[MemoryVM], columns: VMFigures[Ints], minimums: Ints, entitlements: Ints
) -> Ints:
    """Return the entitlements, but the present target where a change is too small or too early to be worth making.

    Args:
        node: the VMs' node.
        vms: the VMs that share.
        columns: their figures.
        minimums: the lower bounds of the division, which every VM can have, bytes.
        entitlements: the outcome of the division, bytes.
    """
    change = entitlements - columns.target
    distance = np.abs(change)
    lacking = columns.working_set - columns.committed
    needed = node.state is not NodeState.AMPLE or bool((lacking > columns.dead_band).any())
    stays = (distance <= columns.dead_band) & (entitlements != columns.minimum) & (entitlements != columns.maximum)
    if node.state is NodeState.AMPLE:
        # Every change of one VM's demand moves the price, hence all others' entitlements. To follow would help nobody.
        enough = np.maximum(minimums, np.minimum(columns.working_set + columns.dead_band, columns.demand))
        idle = (enough <= columns.target) & (columns.target <= columns.maximum) & (entitlements != columns.maximum)
        tolerated = distance <= columns.dead_band * _IDLE_DEAD_BANDS
        stays |= tolerated & idle & ~_due_for_rebalancing(vms, node.cool_down)
    if not needed:
        stays |= (change < 0) & _moved_recently(vms, node.cool_down, up=True)
    stays |= (change > 0) & (lacking <= 0) & _moved_recently(vms, node.cool_down, up=False)
    within_bounds = (columns.minimum <= columns.target) & (columns.target <= columns.maximum)
    return np.where(stays & within_bounds, columns.target, entitlements)


def _remove_surplus(desired: Ints, entitlements: Ints, surplus: int) -> Ints:
    """Reduce the desired targets by at least ``surplus`` bytes, and as few of them as can be.

    The ones furthest above their entitlements are reduced to these.
    """
    excess = np.maximum(desired - entitlements, 0)
    furthest_first = (-excess).argsort(kind="stable")
    last = excess[furthest_first].cumsum().searchsorted(surplus)
    chosen = furthest_first[: last + 1]
    reduced = desired.copy()
    reduced[chosen] = np.minimum(desired, entitlements)[chosen]
    return reduced


def _moved_recently(vms: Sequence[MemoryVM], cool_down: float, *, up: bool) -> npt.NDArray[np.bool_]:
    """Find the VMs whose targets last moved up (or down), less than the cool-down ago."""
    changes = [vm.last_change for vm in vms]
    return np.array([change is not None and change.up is up and change.age < cool_down for change in changes])


def _due_for_rebalancing(vms: Sequence[MemoryVM], cool_down: float) -> npt.NDArray[np.bool_]:
    """Find the VMs whose targets have stayed long enough to be corrected for fairness alone.

    A target whose last change is not known is not due: a controller that has just started does not know its age.
    """
    changes = [vm.last_change for vm in vms]
    wait = COOL_DOWNS_BEFORE_REBALANCING * cool_down
    return np.array([change is not None and change.age >= wait for change in changes])


def _limit_to_free_memory(columns: VMFigures[Ints], claims: Claims, desired: Ints, capacity: int) -> Ints:
    """Lower targets at once, but raise them only into memory that is free already.

    Free memory goes to minimums first, then to memory in use, then to working sets. Of the rest, a VM gets nothing if
    its part would be too small to be worth a change of its target.
    """
    # A VM counts as what it has until its guest has given some up; a grant that it has not used yet can be withdrawn.
    floor = np.maximum(np.maximum(columns.minimum, columns.actual), np.minimum(desired, columns.committed))
    ceiling = np.maximum(floor, desired)
    if ceiling.sum() <= capacity:
        return desired
    urgent = [np.maximum(floor, np.minimum(desired, level)) for level in (columns.in_use, columns.working_set)]
    minimum, maximum = _choose_bounds([floor, *urgent, ceiling], capacity)
    granted = np.minimum(desired, divide_columns(claims._replace(minimum=minimum, maximum=maximum), capacity))
    change = granted - columns.target
    small = (change > 0) & (change <= columns.dead_band) & (granted < desired)
    idle = (columns.target >= columns.minimum) & (columns.target >= columns.working_set)
    return np.where(small & idle, columns.target, granted)


def _reasons(columns: VMFigures[Ints], desired: Ints, targets: Ints) -> Ints:
    """Say why VMs that share in the division have these targets: places in ``_SHARERS_REASONS``."""
    reasons = np.where(targets <= columns.minimum, _AT_MINIMUM, _RECLAIMED)
    reasons[targets >= columns.maximum] = _SATISFIED
    if (columns.actual - desired > columns.dead_band).any():  # some guest is still giving memory up
        reasons[desired - targets > columns.dead_band] = _WAITING
    return reasons
