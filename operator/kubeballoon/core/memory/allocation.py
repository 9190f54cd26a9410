"""From a snapshot of one node to a decision, with its reason, for each of its VMs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise, repeat
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from kubeballoon.core.decision import DecisionReason
from kubeballoon.core.entitlement import Claims, Ints, scale, share_out
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM, VMFigures
from kubeballoon.vocabulary import Mode, NodeState, ReclaimWhen

_PARTS_OF_CHANGE = 128  # of the capacity one that idle memory and headroom leave free: small changes then move nobody
_DEAD_BANDS_OF_IDLE = 8  # by which idle memory may be off its fair share for a while, as nobody needs it: 1/8 of size
COOL_DOWNS_BEFORE_REBALANCING = 60  # that while, since the target moved last


class _Fixed(NamedTuple):
    """A VM left out of the division.

    Attributes:
        charge: what is set aside for it, bytes.
        decision: what is decided nevertheless.
    """

    charge: int
    decision: MemoryDecision

    @classmethod
    def aside(cls, vm: MemoryVM, reason: DecisionReason, note: str) -> Self:
        """One that nothing is asked of, so that it may grow to all of its size."""
        charge = vm.charge(None)
        return cls(charge, MemoryDecision(vm, None, charge, reason, note=note))


def allocate_memory(node: MemoryNode) -> MemoryPlan:
    """Decide what every VM of the node may use.

    1. VMs that must not or cannot be moved have what they hold, and all of their size where nothing is asked of them;
       the rest share what is left of the capacity.
    2. While demands fit, no VM is taken below its demand; when they do not, none gets more than its demand: headroom is
       the first to go, then what only a guest's past asks for. In Scarce and Critical only minimums hold.
    3. Inside those bounds one price divides the capacity by shares and idle tax.
    4. A target moves only when that is worth it, and does not swing; but for minimums that do not fit, the targets of
       the VMs that share never exceed the capacity together.
    5. First take, then give: a grant waits until the memory for it has been freed.

    VMs of policies that only observe are immovable for the others; their own decisions say what would be if they
    were not, and carry no target.
    """
    observed = frozenset(vm.uid for vm in node.vms if vm.policy is not None and vm.policy.mode is Mode.OBSERVE)
    plan = _plan(node, observed)
    if not observed:
        return plan
    supposed = _plan(node, frozenset()).decisions
    return replace(
        plan,
        decisions=tuple(
            _suppose(what_would_be) if decision.vm.uid in observed else decision
            for decision, what_would_be in zip(plan.decisions, supposed, strict=True)
        ),
    )


def _suppose(decision: MemoryDecision) -> MemoryDecision:
    """A decision that is not carried out."""
    reason, vm = decision.reason, decision.vm
    if reason in _DIVIDED:
        reason = DecisionReason.SATISFIED if decision.entitlement >= vm.maximum else DecisionReason.RECLAIMED
        reason = DecisionReason.AT_MINIMUM if decision.entitlement <= vm.minimum < vm.maximum else reason
    return decision._replace(target=None, reason=reason)


def _plan(node: MemoryNode, bystanders: frozenset[str]) -> MemoryPlan:
    fixed = [_left_out(node, vm, bystanders) for vm in node.vms]
    sharers = [vm for vm, left_out in zip(node.vms, fixed, strict=True) if left_out is None]
    whole = node.capacity
    capacity = max(0, whole - sum([left_out.charge for left_out in fixed if left_out is not None]))
    decisions, shortfall = _share(node, sharers, capacity)
    if len(sharers) < len(fixed):
        shared = iter(decisions)
        decisions = [next(shared) if left_out is None else left_out.decision for left_out in fixed]
        decisions = _release(node, decisions) if node.state is NodeState.AMPLE else decisions
    usable = sum([_usable(decision) for decision in decisions])
    return MemoryPlan(node.name, capacity, shortfall, max(0, usable - whole), tuple(decisions))


def _usable(decision: MemoryDecision) -> int:
    """What a VM may come to hold, bytes."""
    if decision.target is None or decision.reason in (DecisionReason.UNRESPONSIVE, DecisionReason.DEMAND_UNKNOWN):
        return decision.entitlement
    return decision.target


def _left_out(node: MemoryNode, vm: MemoryVM, bystanders: frozenset[str]) -> _Fixed | None:
    """Say what is decided of a VM that takes no part in the division, by the first reason; None for one that does."""
    if vm.policy is None:
        return _Fixed.aside(vm, DecisionReason.NO_POLICY, "no policy selects this VM")
    if vm.excluded is not None:
        return _Fixed.aside(vm, DecisionReason.EXCLUDED, vm.excluded)
    if vm.uid in bystanders:
        return _Fixed.aside(vm, DecisionReason.STEADY, "its policy only observes")
    if not vm.responsive or vm.need is None:
        reason = DecisionReason.DEMAND_UNKNOWN if vm.responsive else DecisionReason.UNRESPONSIVE
        target = None if vm.target is None else max(vm.target, vm.minimum)
        charge = max(vm.charge(target), vm.minimum)  # what it is guaranteed and has not got is nobody else's
        return _Fixed(charge, MemoryDecision(vm, target, charge, reason))
    if node.state is NodeState.AMPLE and vm.policy.when is ReclaimWhen.UNDER_PRESSURE:
        decision = MemoryDecision(vm, vm.target, vm.maximum, DecisionReason.NOT_UNDER_PRESSURE, node.state)
        return _Fixed(vm.demand, decision)
    return None


def _release(node: MemoryNode, decisions: Sequence[MemoryDecision]) -> list[MemoryDecision]:
    """The decisions, with what was held back given back to VMs that are not to be held to anything in Ample.

    Only memory that is really free is given, once and by shares, so that Ample lasts; and nothing is turned at once.
    """
    vms = [decision.vm for decision in decisions if decision.reason is DecisionReason.NOT_UNDER_PRESSURE]
    if not vms:
        return list(decisions)
    columns = _columns(vms)
    floor = np.maximum(columns.minimum, np.minimum(columns.maximum, columns.held))
    free = max(0, node.available - node.reserve)
    claims = Claims([vm.uid for vm in vms], floor, columns.maximum, columns.weight, columns.maximum, columns.idle_tax)
    targets = share_out(claims, int(floor.sum()) + free)
    small = (targets - columns.target <= columns.dead_band) & (targets < columns.maximum)
    keeps = (columns.target >= floor) & (small | _moved(vms, node.cool_down, up=False))
    given = dict(zip([vm.uid for vm in vms], np.where(keeps, columns.target, targets).tolist(), strict=True))
    return [
        decision._replace(target=given[decision.vm.uid]) if decision.vm.uid in given else decision
        for decision in decisions
    ]


def _share(node: MemoryNode, vms: Sequence[MemoryVM], capacity: int) -> tuple[list[MemoryDecision], int]:
    """Divide the capacity among VMs with policies and known needs; also by how much their minimums exceed it."""
    if not vms:
        return [], 0
    columns = _columns(vms)
    shortfall = max(0, int(columns.minimum.sum()) - capacity)
    capacity = max(0, capacity - _off(columns))
    claims = _claims(node, vms, columns, capacity)
    room = _room(columns, claims, capacity)
    shares = share_out(claims, room)
    wanted = _calm(node, vms, columns, claims.minimum, shares)
    if wanted.sum() > capacity:
        wanted = _cut(wanted, shares, int(wanted.sum()) - room)
    targets = _grant(columns, claims, wanted, capacity)
    entitlements = scale(columns.minimum, capacity) if shortfall else shares
    reasons = map(_DIVIDED.__getitem__, _reasons(columns, wanted, targets).tolist())
    rows = zip(vms, targets.tolist(), entitlements.tolist(), reasons, repeat(node.state), repeat(""), strict=False)
    return list(map(MemoryDecision._make, rows)), shortfall


def _columns(vms: Sequence[MemoryVM]) -> VMFigures[Ints]:
    """Put the figures of many VMs into one array each."""
    width = len(VMFigures._fields)
    figures = chain.from_iterable([vm.figures for vm in vms])
    return VMFigures._make(np.fromiter(figures, np.int64, len(vms) * width).reshape(len(vms), width).T.copy())


def _off(columns: VMFigures[Ints]) -> int:
    """What balloons at rest leave their guests beyond the targets, being off by a little: nobody else can have it."""
    beyond = columns.actual - np.where(columns.target >= 0, columns.target, columns.actual)
    return int(beyond[(beyond > 0) & (beyond <= columns.dead_band)].sum())


def _claims(node: MemoryNode, vms: Sequence[MemoryVM], columns: VMFigures[Ints], capacity: int) -> Claims:
    levels = [columns.minimum, columns.maximum]
    if not node.state.only_minimums_hold:
        levels[1:1] = [columns.present, columns.working_set, columns.demand]
    minimum, maximum = _between(levels, capacity)
    return Claims([vm.uid for vm in vms], minimum, maximum, columns.weight, columns.demand, columns.idle_tax)


def _room(columns: VMFigures[Ints], claims: Claims, capacity: int) -> int:
    """What of the capacity is shared: a little of it is left free, unless somebody works with it or all would fit."""
    if claims.maximum.sum() <= capacity:
        return capacity
    needed = max(int(columns.working_set.sum()), int(claims.minimum.sum()))
    return max(capacity - capacity // _PARTS_OF_CHANGE, min(capacity, needed))


def _between(levels: Sequence[Ints], capacity: int) -> tuple[Ints, Ints]:
    """Of levels that rise VM by VM the two next to each other whose sums the capacity lies between; else the lowest."""
    for lower, upper in reversed(list(pairwise(levels))):
        if lower.sum() <= capacity:
            return lower, upper
    return levels[0], levels[1]


def _calm(node: MemoryNode, vms: Sequence[MemoryVM], columns: VMFigures[Ints], granted: Ints, shares: Ints) -> Ints:
    """The shares, but for changes that are too small or too early to be worth making.

    Args:
        node: the VMs'.
        vms: that share.
        columns: their figures.
        granted: what every one of them can have, bytes.
        shares: what they are to have, bytes.
    """
    change = shares - columns.target
    size = np.abs(change)
    lacking = columns.working_set - columns.held
    needed = node.state is not NodeState.AMPLE or bool((lacking > columns.dead_band).any())
    keeps = (size <= columns.dead_band) & (shares != columns.minimum) & (shares != columns.maximum)
    if node.state is NodeState.AMPLE:
        # Every other VM's demand moves the price of what is divided, hence everybody's share, and serves nobody by it.
        enough = np.maximum(granted, np.minimum(columns.working_set + columns.dead_band, columns.demand))
        idle = (enough <= columns.target) & (columns.target <= columns.maximum) & (shares != columns.maximum)
        keeps |= (size <= columns.dead_band * _DEAD_BANDS_OF_IDLE) & idle & ~_rested(vms, node.cool_down)
    if not needed:
        keeps |= (change < 0) & _moved(vms, node.cool_down, up=True)
    keeps |= (change > 0) & (lacking <= 0) & _moved(vms, node.cool_down, up=False)
    within = (columns.minimum <= columns.target) & (columns.target <= columns.maximum)
    return np.where(keeps & within, columns.target, shares)


def _cut(settled: Ints, shares: Ints, surplus: int) -> Ints:
    """Without the surplus: from as few VMs as can be, those furthest above their shares."""
    above = np.maximum(settled - shares, 0)
    furthest = (-above).argsort(kind="stable")
    last = above[furthest].cumsum().searchsorted(surplus)
    cut = settled.copy()
    chosen = furthest[: last + 1]
    cut[chosen] = np.minimum(settled, shares)[chosen]
    return cut


def _moved(vms: Sequence[MemoryVM], cool_down: float, *, up: bool) -> npt.NDArray[np.bool_]:
    """Which VMs' targets last moved up (or down), and less than the cool-down ago."""
    changes = [vm.last_change for vm in vms]
    return np.array([change is not None and change.up is up and change.age < cool_down for change in changes])


def _rested(vms: Sequence[MemoryVM], cool_down: float) -> npt.NDArray[np.bool_]:
    """Which VMs' targets have stood long enough to be put right for fairness alone; not those only just taken over."""
    changes = [vm.last_change for vm in vms]
    return np.array(
        [change is not None and change.age >= COOL_DOWNS_BEFORE_REBALANCING * cool_down for change in changes]
    )


def _grant(columns: VMFigures[Ints], claims: Claims, wanted: Ints, capacity: int) -> Ints:
    """Lower at once; raise only into memory that is free by now: minimums, then what is in use, then working sets.

    Of what is free beyond working sets, too little to be worth a change of target is left.
    """
    holds = np.maximum(np.maximum(columns.minimum, columns.actual), np.minimum(wanted, columns.held))
    rises = np.maximum(holds, wanted)
    if rises.sum() <= capacity:
        return wanted
    urgent = [np.maximum(holds, np.minimum(wanted, level)) for level in (columns.present, columns.working_set)]
    minimum, maximum = _between([holds, *urgent, rises], capacity)
    granted = np.minimum(wanted, share_out(claims._replace(minimum=minimum, maximum=maximum), capacity))
    change = granted - columns.target
    small = (change > 0) & (change <= columns.dead_band) & (granted < wanted)
    idle = (columns.target >= columns.minimum) & (columns.target >= columns.working_set)
    return np.where(small & idle, columns.target, granted)


_DIVIDED = (DecisionReason.RECLAIMED, DecisionReason.AT_MINIMUM, DecisionReason.SATISFIED, DecisionReason.WAITING)


def _reasons(columns: VMFigures[Ints], wanted: Ints, targets: Ints) -> Ints:
    """Why VMs that share in the division have these targets: indices of ``_DIVIDED``."""
    reasons = np.where(targets <= columns.minimum, 1, 0)
    reasons[targets >= columns.maximum] = 2
    if (columns.actual - wanted > columns.dead_band).any():  # memory is on its way
        reasons[wanted - targets > columns.dead_band] = 3
    return reasons
