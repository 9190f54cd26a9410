"""How many processors each VM of a node may use: the division of memory, in whole processors.

What ``entitlement`` finds to a fraction is rounded by largest remainder. A processor can be taken from a guest and
given back at once and costs it no data, so there is no pacing, no waiting for what others give, and no idle tax; there
is a trigger with hysteresis, and calm after each change.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from kubeballoon.core.entitlement import Claim, divide
from kubeballoon.core.model import Change, Mode, Reason, When

COOL_DOWN = 300.0  # seconds
SHARES = 1000  # of each processor of a VM without a policy
_UNIT = 1 << 20  # parts of a processor the division is exact to


@dataclass(frozen=True, slots=True)
class Count:
    """Processors as users write them: a number, or a percentage of the VM's."""

    number: int | None = None
    percent: int | None = None

    def of(self, size: int) -> int:
        """Resolve against a VM of ``size`` processors: at least one, and rounded up."""
        if self.number is not None:
            return max(1, self.number)
        return max(1, -(-size * (self.percent or 0) // 100))


@dataclass(frozen=True, slots=True)
class Threshold:
    """Percentages between which what has started goes on, and what has ended stays ended; ``end`` <= ``start``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """How short of processors a node is.

    Attributes:
        stall: percent of the last ten seconds in which some task waited for a processor.
        usage: percent of the processors in use.
    """

    stall: float = 0.0
    usage: float = 0.0


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a policy takes processors."""

    when: When = When.UNDER_PRESSURE
    stall: Threshold = Threshold(25, 10)
    usage: Threshold = Threshold(90, 70)

    def pulled(self, pressure: Pressure, *, before: bool) -> bool:
        """Whether processors are to be taken now, where they were ``before``.

        It starts when tasks wait and the processors are in use: either alone is some pod's limit, or a node well used.
        It ends when neither is left, since a node whose VMs are held back may be busy and yet let nobody wait.
        """
        if self.when is When.OVERCOMMITTED:
            return True
        if before:
            return pressure.stall >= self.stall.end or pressure.usage >= self.usage.end
        return pressure.stall >= self.stall.start and pressure.usage >= self.usage.start


@dataclass(frozen=True, slots=True)
class Policy:
    """What the governing ProcessorPolicy says.

    Attributes:
        shares: the relative claim of each of a VM's processors.
        cool_down: seconds in which a VM's processors stay as they are after a change.
    """

    name: str
    minimum: Count = Count(percent=50)
    maximum: Count = Count(percent=100)
    shares: int = SHARES
    mode: Mode = Mode.ENFORCE
    trigger: Trigger = Trigger()
    cool_down: float = COOL_DOWN


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """One VM as its node's agent last reported it, with the policy that governs it.

    Attributes:
        size: how many processors it was given.
        online: how many its guest uses now, None while that is not known.
        target: the request in force, None when there is none.
        excluded: why it must be left alone, or None.
        dedicated: whether its processors are the node's own, which nobody else may use.
        responsive: False while its guest does not follow requests.
        last_change: the target's last move, None when it has not moved yet.
    """

    uid: str
    name: str
    size: int
    online: int | None = None
    target: int | None = None
    excluded: str | None = None
    dedicated: bool = False
    responsive: bool = True
    policy: Policy | None = None
    last_change: Change | None = None

    @property
    def minimum(self) -> int:
        """The guarantee, within the VM's size; the whole size without a policy."""
        return self.size if self.policy is None else min(self.size, self.policy.minimum.of(self.size))

    @property
    def maximum(self) -> int:
        """The limit: never below the minimum, for the guarantee comes first, and never above the size."""
        if self.policy is None:
            return self.size
        return max(self.minimum, min(self.size, self.policy.maximum.of(self.size)))

    @property
    def held_back(self) -> bool:
        """Whether less is asked of it than it could have."""
        return self.target is not None and self.target < self.maximum


@dataclass(frozen=True, slots=True)
class Node:
    """One node and its VMs at one moment.

    Attributes:
        count: its processors.
    """

    name: str
    count: int
    pressure: Pressure = Pressure()
    vms: tuple[VirtualMachine, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """How many processors one VM may use, and why.

    Attributes:
        target: the request to make, or None where none is to be made.
        message: the reason in words an administrator understands.
    """

    vm: VirtualMachine
    target: int | None
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions for one node.

    Attributes:
        shortfall: by how many processors the minimums exceed the node's; 0 when they fit.
    """

    node: str
    shortfall: int = 0
    decisions: tuple[Decision, ...] = ()


def allocate(node: Node) -> Plan:
    """Decide how many processors every VM of the node may use.

    1. VMs that must not or cannot be moved keep what they have; their part of the node is what default shares come to,
       and dedicated processors are nobody else's. A trigger stays pulled only by those that take part.
    2. Where a policy's trigger is pulled, shares divide the node's processors inside each VM's bounds.
    3. A target stays as it is for the cool-down after a change, unless its bounds forbid.

    VMs of policies that only observe are immovable for the others; their own decisions say what would be if they were
    not, and carry no target.
    """
    observed = frozenset(vm.uid for vm in node.vms if vm.policy is not None and vm.policy.mode is Mode.OBSERVE)
    plan = _plan(node, observed)
    if not observed:
        return plan
    supposed = _plan(node, frozenset()).decisions
    decisions = (
        replace(what_if, target=None) if what_if.vm.uid in observed else decision
        for decision, what_if in zip(plan.decisions, supposed, strict=True)
    )
    return replace(plan, decisions=tuple(decisions))


def divide_whole(claims: Sequence[Claim], capacity: int) -> list[int]:
    """Divide ``capacity`` processors among the claims, in their order, by largest remainder.

    Every allocation is within its bounds, and the sum is the capacity, or the sum of the bounds where that is nearer.
    """
    fine = [
        claim._replace(
            minimum=claim.minimum * _UNIT, maximum=claim.maximum * _UNIT, active=max(claim.active, 0) * _UNIT
        )
        for claim in claims
    ]
    parts = divide(fine, capacity * _UNIT)
    whole = [part // _UNIT for part in parts]
    left = sum(parts) // _UNIT - sum(whole)
    by_remainder = sorted(range(len(parts)), key=lambda index: (-(parts[index] % _UNIT), claims[index].key))
    for index in by_remainder[:left]:
        whole[index] += 1
    return whole


def _plan(node: Node, bystanders: frozenset[str]) -> Plan:
    left_alone = [_left_alone(vm, bystanders) for vm in node.vms]
    claims = [_claim(vm, movable=alone is None) for vm, alone in zip(node.vms, left_alone, strict=True)]
    shares = divide_whole(claims, node.count)
    taking = {
        vm.policy.name
        for vm, alone in zip(node.vms, left_alone, strict=True)
        if vm.policy is not None and alone is None and vm.held_back
    }
    pulled = _pulled_triggers(node, taking)
    decisions = (
        alone if alone is not None else _decide(vm, vm.policy, share, pulled)
        for vm, alone, share in zip(node.vms, left_alone, shares, strict=True)
    )
    return Plan(node.name, max(0, sum(claim.minimum for claim in claims) - node.count), tuple(decisions))


def _left_alone(vm: VirtualMachine, bystanders: frozenset[str]) -> Decision | None:
    """What is decided of a VM that takes no part, with the first reason why it does not."""
    if vm.policy is None:
        return Decision(vm, None, Reason.NO_POLICY, "no policy selects this VM")
    if vm.excluded is not None:
        return Decision(vm, None, Reason.EXCLUDED, vm.excluded)
    if vm.uid in bystanders:
        return Decision(vm, None, Reason.STEADY, "its policy only observes")
    if not vm.responsive:
        return Decision(vm, vm.target, Reason.UNRESPONSIVE, "its guest does not follow requests")
    return None


def _claim(vm: VirtualMachine, *, movable: bool) -> Claim:
    shares = vm.policy.shares if movable and vm.policy is not None else SHARES
    bounds = (vm.minimum, vm.maximum) if movable else (vm.size if vm.dedicated else 0, vm.size)
    return Claim(vm.uid, *bounds, weight=max(1, shares * vm.size), active=bounds[1])


def _pulled_triggers(node: Node, taking: Collection[str]) -> frozenset[str]:
    """The policies, by name, that take processors on this node now, given those that did before."""
    policies = [vm.policy for vm in node.vms if vm.policy is not None]
    return frozenset(
        policy.name for policy in policies if policy.trigger.pulled(node.pressure, before=policy.name in taking)
    )


def _decide(vm: VirtualMachine, policy: Policy | None, share: int, pulled: frozenset[str]) -> Decision:
    short = policy is not None and policy.name in pulled
    wanted = share if short else vm.maximum
    target = _settle(vm, policy, wanted)
    if target != wanted:
        message = f"changed less than {0 if policy is None else policy.cool_down:.0f} s ago: stays at {target} for now"
        return Decision(vm, target, Reason.STEADY, message)
    if not short:
        message = f"the node is not short of processors: may use {_said(vm, target)}"
        return Decision(vm, target, Reason.NOT_UNDER_PRESSURE, message)
    if target == vm.maximum:
        return Decision(vm, target, Reason.SATISFIED, f"may use {_said(vm, target)}")
    message = f"the node's processors are divided by shares: {vm.size - target} of {vm.size} taken"
    if target == vm.minimum:
        return Decision(vm, target, Reason.AT_MINIMUM, f"{message}; at its guaranteed minimum {target}")
    return Decision(vm, target, Reason.RECLAIMED, message)


def _settle(vm: VirtualMachine, policy: Policy | None, wanted: int) -> int:
    """What is wanted, or the present target where that is to stay."""
    recent = vm.last_change is not None and policy is not None and vm.last_change.age < policy.cool_down
    if vm.target is None or not recent:
        return wanted
    return max(vm.minimum, min(vm.maximum, vm.target))


def _said(vm: VirtualMachine, target: int) -> str:
    return f"all of its {target}" if target == vm.size else f"its policy's maximum of {target}"
