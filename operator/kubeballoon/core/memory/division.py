"""This module divides a node's capacity among VMs, and decides which of their targets move, and how far now."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise, repeat

import numpy as np
import numpy.typing as npt

from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.entitlement import Claims, Ints, divide_columns, scale_minimums
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryVM, VMFigures
from kubeballoon.core.memory.pacing import TOLERANCE
from kubeballoon.vocabulary import NodeState

# Up to 1/128 of the capacity is not given out as idle memory or headroom: other processes' memory and guests' needs
# waver by about as much, and then no target has to move.
_SLACK_DIVISOR = 128

# Idle memory may be 8 dead bands, which is 1/8 of the VM's size, off its entitlement for a while: nobody needs it.
_IDLE_DEAD_BANDS = 8

# A guest in trouble is helped by 1/8 of a dead band already, which is 1/512 of the VM's size.
_SMALLEST_HELP_DIVISOR = 8

# That while, counted from the target's last change: an hour by default. Fairness among idle VMs is not urgent, and
# every correction disturbs guests.
COOL_DOWNS_BEFORE_REBALANCING = 60

# Why VMs that share in the division have their targets; the constants below are places in this tuple.
SHARERS_REASONS = (
    DecisionReason.RECLAIMED,
    DecisionReason.AT_MINIMUM,
    DecisionReason.SATISFIED,
    DecisionReason.WAITING,
    DecisionReason.WITHHOLDING,
)
_RECLAIMED, _AT_MINIMUM, _SATISFIED, _WAITING, _WITHHOLDING = range(len(SHARERS_REASONS))


def divide_capacity(
    node: MemoryNode, vms: Sequence[MemoryVM], capacity: int, unheld: int
) -> tuple[list[MemoryDecision], int]:
    """Divide the capacity among VMs with policies and known needs.

    Args:
        node: the VMs' node.
        vms: the VMs that share.
        capacity: what they may have in the end, bytes.
        unheld: the part of it that other VMs do not hold now, bytes; negative if they hold more than the node has.

    Returns:
        A decision for each VM, and by how many bytes the minimums, and what guests keep, exceed the capacity.
    """
    if not vms:
        return [], 0
    columns = figure_columns(vms)
    residual = _residual_above_targets(columns)
    divided = max(0, capacity - residual)
    claims, divisible = _claims(node, vms, columns, divided)
    entitlements = divide_columns(claims, divisible)
    kept, withheld = _kept_beyond(columns, entitlements, divided)
    if kept.any():
        # What guests keep cannot be divided, so it is divided anew with that as a lower bound.
        claims, divisible = _claims(node, vms, columns, divided, kept)
        entitlements = divide_columns(claims, divisible)
    desired = _damp(node, vms, columns, claims.minimum, entitlements)
    if desired.sum() > divided:
        desired = _remove_surplus(desired, entitlements, int(desired.sum()) - divisible)
    desired = _help_troubled(vms, columns, desired, entitlements, divided - int(desired.sum()))
    targets = _limit_to_free_memory(columns, claims, desired, unheld)
    if columns.minimum.sum() > capacity:
        entitlements = scale_minimums(columns.minimum, divided)
    least = np.maximum(columns.minimum, kept)
    reasons = _reasons(columns, desired, targets, withheld)
    withheld = np.minimum(withheld, entitlements)
    return _decisions(node, vms, targets, entitlements, reasons, withheld), max(0, int(least.sum()) - capacity)


def _decisions(
    node: MemoryNode, vms: Sequence[MemoryVM], targets: Ints, entitlements: Ints, reasons: Ints, withheld: Ints
) -> list[MemoryDecision]:
    """Put arrays with one figure for each VM into decisions; reasons are places in ``SHARERS_REASONS``."""
    named = map(SHARERS_REASONS.__getitem__, reasons.tolist())
    figures = targets.tolist(), entitlements.tolist(), named, repeat(node.state), repeat(""), withheld.tolist()
    return list(map(MemoryDecision._make, zip(vms, *figures, strict=False)))


def _kept_beyond(columns: VMFigures[Ints], fair_shares: Ints, capacity: int) -> tuple[Ints, Ints]:
    """Find what guests keep beyond their fair shares of the capacity.

    A guest keeps what it works with, and its margin. If its fair share is less than what it works with, its memory may
    be requested all the same, provided that it can swap. Margins give way where they do not fit, and those of guests
    that may be asked for them do so before others lack what they use.

    Returns:
        What each VM keeps because no more may be requested of it, and by how much that exceeds its fair share if it
        works with more than that; bytes, 0 for other VMs.
    """
    lacking = fair_shares < columns.present - columns.dead_band  # less is not worth swapping
    keeps = (columns.kept > fair_shares) & ~(lacking & (columns.gives_working_set > 0))
    withholds = keeps & lacking
    # A margin is no claim to more than the policy's maximum.
    kept = np.where(keeps, np.where(withholds, columns.kept, np.minimum(columns.kept, columns.maximum)), 0)
    if np.maximum(columns.in_use, kept).sum() > capacity:
        # A guest that may be asked for what it works with gives its margin first. Else others would swap for it.
        kept = np.where(withholds | (columns.gives_working_set == 0), kept, 0)
    if np.maximum(columns.minimum, kept).sum() > capacity:
        kept = np.where(withholds, columns.kept, 0)
    return kept, np.where(withholds, columns.kept - fair_shares, 0)


def figure_columns(vms: Sequence[MemoryVM]) -> VMFigures[Ints]:
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


def _claims(
    node: MemoryNode, vms: Sequence[MemoryVM], columns: VMFigures[Ints], capacity: int, kept: Ints | int = 0
) -> tuple[Claims, int]:
    """Build the VMs' claims, with the bounds that the node's state and the capacity allow; none is below ``kept``.

    Returns:
        The claims, and how much of the capacity is divided, in bytes: all of it but a little slack that nobody works
        with. There is no slack where everything fits.
    """
    between = [] if node.state.only_minimums_hold else [columns.in_use, columns.working_set, columns.demand]
    levels = [columns.minimum, *between, columns.maximum]
    minimum, maximum = choose_bounds([np.maximum(level, kept) for level in levels], capacity)
    claims = Claims(
        key=[vm.uid for vm in vms],
        minimum=minimum,
        maximum=maximum,
        weight=columns.weight,
        active=columns.demand,
        idle_tax=columns.idle_tax,
    )
    if maximum.sum() <= capacity:
        return claims, capacity
    needed = max(int(columns.working_set.sum()), int(minimum.sum()))
    return claims, max(capacity - capacity // _SLACK_DIVISOR, min(capacity, needed))


def choose_bounds(levels: Sequence[Ints], capacity: int) -> tuple[Ints, Ints]:
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
        stays |= (change < 0) & moved_recently(vms, node.cool_down, up=True)
    # A guest has its headroom back at once where memory is free; the cool-down is for what nobody demands.
    content = (lacking <= 0) & (columns.demand - columns.committed <= columns.dead_band)
    stays |= (change > 0) & content & moved_recently(vms, node.cool_down, up=False)
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


def _help_troubled(
    vms: Sequence[MemoryVM], columns: VMFigures[Ints], desired: Ints, entitlements: Ints, unallocated: int
) -> Ints:
    """Raise desired targets of guests in trouble toward their entitlements, even by less than a dead band.

    They get only what no VM has, ``unallocated`` bytes: if others gave it, guests could take it from each other in
    turn. A guest that still has more than that lacks nothing of it yet.
    """
    unallocated -= TOLERANCE * len(vms)  # each balloon may come to rest that far above its target
    if unallocated <= 0 or not any(vm.troubled for vm in vms):
        return desired
    lacks = np.array([vm.troubled for vm in vms]) & (columns.actual <= desired + columns.dead_band)
    lacking = np.where(lacks, np.maximum(entitlements - desired, 0), 0)
    share = min(1.0, unallocated / max(1, int(lacking.sum())))
    raised = (lacking * share).astype(np.int64)
    return desired + np.where(raised >= columns.dead_band // _SMALLEST_HELP_DIVISOR, raised, 0)


def moved_recently(vms: Sequence[MemoryVM], cool_down: float, *, up: bool) -> npt.NDArray[np.bool_]:
    """Find the VMs whose targets last moved up (or down), less than the cool-down ago."""
    changes = [vm.last_change for vm in vms]
    return np.array([change is not None and change.up is up and change.age < cool_down for change in changes])


def _due_for_rebalancing(vms: Sequence[MemoryVM], cool_down: float) -> npt.NDArray[np.bool_]:
    """Find the VMs whose targets have stayed long enough to be corrected for fairness alone.

    A target whose age is not known is not due.
    """
    changes = [vm.last_change for vm in vms]
    wait = COOL_DOWNS_BEFORE_REBALANCING * cool_down
    return np.array([change is not None and change.age >= wait for change in changes])


def _limit_to_free_memory(columns: VMFigures[Ints], claims: Claims, desired: Ints, capacity: int) -> Ints:
    """Lower targets at once, but raise them only into memory that is free already.

    Free memory goes to minimums first, then to memory in use, then to working sets, then to headroom. Of the rest, a VM
    gets nothing if its part would be too small to be worth a change of its target.
    """
    # A VM counts as what it has until its guest has given some up; a grant that it has not used yet can be withdrawn.
    floor = np.maximum(np.maximum(columns.minimum, columns.actual), np.minimum(desired, columns.committed))
    ceiling = np.maximum(floor, desired)
    if ceiling.sum() <= capacity:
        return desired
    levels = columns.in_use, columns.working_set, columns.demand
    urgent = [np.maximum(floor, np.minimum(desired, level)) for level in levels]
    minimum, maximum = choose_bounds([floor, *urgent, ceiling], capacity)
    granted = np.minimum(desired, divide_columns(claims._replace(minimum=minimum, maximum=maximum), capacity))
    change = granted - columns.target
    small = (change > 0) & (change <= columns.dead_band) & (granted < desired)
    idle = (columns.target >= columns.minimum) & (columns.target >= columns.working_set)
    return np.where(small & idle, columns.target, granted)


def _reasons(columns: VMFigures[Ints], desired: Ints, targets: Ints, withheld: Ints) -> Ints:
    """Say why VMs that share in the division have these targets: places in ``SHARERS_REASONS``."""
    reasons = np.where(targets <= columns.minimum, _AT_MINIMUM, _RECLAIMED)
    reasons[targets >= columns.maximum] = _SATISFIED
    if (columns.actual - desired > columns.dead_band).any():  # some guest is still giving memory up
        reasons[desired - targets > columns.dead_band] = _WAITING
    reasons[withheld > 0] = _WITHHOLDING
    return reasons
