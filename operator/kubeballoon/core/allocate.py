"""From a snapshot of one node to a decision, with its reason, for each of its VMs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kubeballoon.core.entitlement import Claim, divide, scale
from kubeballoon.core.model import Decision, Mode, Node, Plan, Policy, Reason, State, VirtualMachine, When
from kubeballoon.core.wording import human


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A VM left out of the division: what is set aside for it, and what is decided nevertheless."""

    backed: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class _Sharer:
    """A VM that shares in the division, with what is only known of such VMs."""

    vm: VirtualMachine
    policy: Policy
    demand: int

    @property
    def hungry(self) -> bool:
        return self.demand - self.vm.held > self.vm.dead_band


def allocate(node: Node) -> Plan:
    """Decide what every VM of the node may use.

    1. VMs that must not or cannot be moved keep what they have; the rest share what is left of the capacity.
    2. While demands fit, no VM is taken below its demand; when they do not, none gets more than its demand. In Hard
       and Low only minimums hold.
    3. Inside those bounds one price divides the capacity by shares and idle tax.
    4. A target moves only when that is worth it, and does not swing.
    5. First take, then give: a grant waits until the memory for it has been freed.

    VMs of policies that only observe are immovable for the others; their own decisions say what would be if they
    were not, and carry no target.
    """
    observed = frozenset(vm.uid for vm in node.vms if vm.policy is not None and vm.policy.mode is Mode.OBSERVE)
    plan = _plan(node, observed)
    if not observed:
        return plan
    supposed = {decision.vm.uid: decision for decision in _plan(node, frozenset()).decisions}
    return replace(
        plan,
        decisions=tuple(
            replace(supposed[decision.vm.uid], target=None) if decision.vm.uid in observed else decision
            for decision in plan.decisions
        ),
    )


def _plan(node: Node, bystanders: frozenset[str]) -> Plan:
    sorted_out = [_sort(node, vm, bystanders) for vm in node.vms]
    fixed = [entry for entry in sorted_out if isinstance(entry, _Fixed)]
    sharers = [entry for entry in sorted_out if isinstance(entry, _Sharer)]
    capacity = max(0, node.capacity - sum(entry.backed for entry in fixed))
    decisions = {entry.decision.vm.uid: entry.decision for entry in fixed}
    decisions |= {decision.vm.uid: decision for decision in _share(node, sharers, capacity)}
    ordered = tuple(decisions[vm.uid] for vm in node.vms)
    usable = sum(decision.vm.held if decision.target is None else decision.target for decision in ordered)
    return Plan(
        node=node.name,
        capacity=capacity,
        shortfall=max(0, sum(sharer.vm.minimum for sharer in sharers) - capacity),
        risk=max(0, usable - node.capacity),
        decisions=ordered,
    )


def _sort(node: Node, vm: VirtualMachine, bystanders: frozenset[str]) -> _Fixed | _Sharer:
    """Whether a VM shares in the division and, if not, the first reason why."""

    def keep(backed: int, target: int | None, reason: Reason, message: str) -> _Fixed:
        return _Fixed(backed, Decision(vm, target, backed, reason, message))

    if vm.policy is None:
        return keep(vm.actual, None, Reason.NO_POLICY, "no policy selects this VM")
    if vm.excluded is not None:
        return keep(vm.actual, None, Reason.EXCLUDED, vm.excluded)
    if vm.uid in bystanders:
        return keep(vm.actual, None, Reason.STEADY, "its policy only observes")
    if not vm.responsive:
        message = f"its driver does not follow requests: {human(vm.held)} counted as used"
        return keep(vm.held, vm.target, Reason.UNRESPONSIVE, message)
    demand = vm.demand
    if demand is None:
        message = f"no fresh guest statistics: keeps its {human(vm.held)}"
        return keep(vm.held, vm.target, Reason.DEMAND_UNKNOWN, message)
    if vm.policy.when is When.UNDER_PRESSURE and node.state is State.HIGH:
        # What it held back before is given back only out of memory that is really free, so that High lasts.
        target = max(vm.minimum, min(vm.maximum, vm.held + max(0, node.available - node.reserve)))
        message = f"node {node.state}, its policy reclaims under pressure only: may use {human(target)}"
        return _Fixed(demand, Decision(vm, target, vm.maximum, Reason.NOT_UNDER_PRESSURE, message))
    return _Sharer(vm, vm.policy, demand)


def _share(node: Node, sharers: Sequence[_Sharer], capacity: int) -> list[Decision]:
    claims = _claims(node, sharers, capacity)
    shares = divide(claims, capacity)
    minimums_fit = sum(sharer.vm.minimum for sharer in sharers) <= capacity
    entitlements = shares if minimums_fit else scale(claims, capacity)
    targets = _grant(sharers, claims, _calm(node, sharers, shares, capacity), capacity)
    return [
        Decision(sharer.vm, target, entitlement, *_explain(node, sharer, share, target))
        for sharer, share, entitlement, target in zip(sharers, shares, entitlements, targets, strict=True)
    ]


def _claims(node: Node, sharers: Sequence[_Sharer], capacity: int) -> list[Claim]:
    desperate = node.state in (State.HARD, State.LOW)
    met = sum(sharer.demand for sharer in sharers) <= capacity
    return [
        Claim(
            key=sharer.vm.uid,
            minimum=sharer.demand if met and not desperate else sharer.vm.minimum,
            maximum=sharer.vm.maximum if met or desperate else sharer.demand,
            weight=max(1, sharer.policy.shares_per_gib * sharer.vm.size),
            active=sharer.demand,
            idle_tax=sharer.policy.idle_tax,
        )
        for sharer in sharers
    ]


def _calm(node: Node, sharers: Sequence[_Sharer], shares: Sequence[int], capacity: int) -> list[int]:
    """The shares, but for changes that are too small or too early to be worth making."""
    needed = node.state is not State.HIGH or any(sharer.hungry for sharer in sharers)
    settled = [
        _settle(sharer, share, node.cool_down, needed=needed) for sharer, share in zip(sharers, shares, strict=True)
    ]
    # The reserve beyond the capacity is several times this, and a node's other memory is never quite still.
    if sum(settled) > capacity + capacity // 64:
        return [min(calm, share) for calm, share in zip(settled, shares, strict=True)]
    return settled


def _settle(sharer: _Sharer, share: int, cool_down: float, *, needed: bool) -> int:
    """The share, or the present target where that is to stay; ``needed``: others need what this VM would give."""
    vm = sharer.vm
    if vm.target is None:
        return share
    change = share - vm.target
    if abs(change) <= vm.dead_band and share not in (vm.minimum, vm.maximum):
        return vm.target
    turns = vm.last_change is not None and vm.last_change.age < cool_down and vm.last_change.up != (change > 0)
    urgent = needed if change < 0 else vm.troubled or sharer.demand > vm.held
    return vm.target if turns and not urgent else share


def _grant(sharers: Sequence[_Sharer], claims: Sequence[Claim], wanted: Sequence[int], capacity: int) -> list[int]:
    """Lower at once; raise only into memory that is free by now, minimums first."""
    holds = [
        max(sharer.vm.minimum, sharer.vm.actual, min(want, sharer.vm.held))
        for sharer, want in zip(sharers, wanted, strict=True)
    ]
    rises = [
        replace(claim, minimum=hold, maximum=max(hold, want))
        for claim, hold, want in zip(claims, holds, wanted, strict=True)
    ]
    return [min(want, grant) for want, grant in zip(wanted, divide(rises, capacity), strict=True)]


def _explain(node: Node, sharer: _Sharer, share: int, target: int) -> tuple[Reason, str]:
    """Why the target is what it is."""
    vm = sharer.vm
    if share - target > vm.dead_band:
        waits = human(share - target)
        return (
            Reason.WAITING,
            f"entitled to {human(share)}; {waits} of it waits until other VMs have given theirs",
        )
    if target >= vm.maximum:
        limit = "all of its" if vm.maximum == vm.size else "its policy's maximum of"
        return Reason.SATISFIED, f"may use {limit} {human(vm.maximum)}"
    idle = vm.maximum - sharer.demand
    why = f"idle {human(idle)} taxed at {sharer.policy.idle_tax} %" if idle > 0 else "all VMs' demands do not fit"
    message = f"{why}, node {node.state}: {human(vm.size - target)} reclaimed, demand {human(sharer.demand)}"
    if target <= vm.minimum:
        return Reason.AT_MINIMUM, f"{message}; at its guaranteed minimum {human(vm.minimum)}"
    return Reason.RECLAIMED, message
