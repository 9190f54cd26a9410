"""What the core decides about, and what it decided."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from kubeballoon.core.guard import FLOOR
from kubeballoon.core.wording import human

GIB = 1 << 30
MIB = 1 << 20
COOL_DOWN = 60.0  # seconds


class State(enum.StrEnum):
    """How short of memory a node is: ESX's four reclamation states, from ample to desperate."""

    HIGH = "High"
    SOFT = "Soft"
    HARD = "Hard"
    LOW = "Low"

    @property
    def severity(self) -> int:
        """0 for High to 3 for Low."""
        return _SEVERITY[self]

    @property
    def desperate(self) -> bool:
        """Whether only the guaranteed minimums hold."""
        return self in (State.HARD, State.LOW)


_SEVERITY = {State.HIGH: 0, State.SOFT: 1, State.HARD: 2, State.LOW: 3}


class Mode(enum.StrEnum):
    """Whether a policy's decisions are carried out or only reported."""

    ENFORCE = "Enforce"
    OBSERVE = "Observe"


class When(enum.StrEnum):
    """When a policy takes memory back.

    Overcommitted keeps the sum of the targets within the node's capacity at all times; UnderPressure leaves its
    VMs at their maximum until the node leaves High.
    """

    OVERCOMMITTED = "Overcommitted"
    UNDER_PRESSURE = "UnderPressure"


class Course(enum.StrEnum):
    """What a node's agent does about a VM's memory.

    It carries out the request, and without one gives the VM all of its memory; or it leaves the VM exactly as it is; or
    it gives it all, whatever is asked.
    """

    REQUEST = "Request"
    STAYS = "Stays"
    WHOLE = "Whole"


class Reason(enum.StrEnum):
    """Why a VM has the target it has: the machine-readable half of every decision."""

    SATISFIED = "Satisfied"
    RECLAIMED = "Reclaimed"
    AT_MINIMUM = "AtMinimum"
    WAITING = "WaitingForMemory"
    STEADY = "Steady"
    NOT_UNDER_PRESSURE = "NotUnderPressure"
    DEMAND_UNKNOWN = "DemandUnknown"
    UNRESPONSIVE = "Unresponsive"
    EXCLUDED = "Excluded"
    NO_POLICY = "NoPolicy"


@dataclass(frozen=True, slots=True)
class Amount:
    """A size as users write it: bytes, or a percentage of the VM's memory."""

    bytes: int | None = None
    percent: int | None = None

    def of(self, size: int) -> int:
        """Resolve against a VM of ``size`` bytes, rounded down to a byte."""
        if self.bytes is not None:
            return self.bytes
        return size * (self.percent or 0) // 100


@dataclass(frozen=True, slots=True)
class Policy:
    """What the governing MemoryPolicy says.

    Attributes:
        idle_tax: percent of an idle byte's worth that is taxed away, 0 to 99 (Waldspurger, OSDI 2002, section 5).
        shares_per_gib: the relative claim of each GiB of a VM's memory.
        max_rate: the fastest reclaim from one VM, bytes per second; None leaves it to the guest's own pace.
    """

    name: str
    minimum: Amount = Amount(percent=50)
    maximum: Amount = Amount(percent=100)
    headroom: Amount = Amount(percent=10)
    shares_per_gib: int = 1000
    idle_tax: int = 75
    mode: Mode = Mode.ENFORCE
    when: When = When.OVERCOMMITTED
    max_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """The last time a VM's target moved: up (True) or down, ``age`` seconds ago."""

    up: bool
    age: float


def dead_band(size: int) -> int:
    """A change of the target of a VM of ``size`` that is not worth making, bytes."""
    return size // 64


class Figures(NamedTuple):
    """What an allocation reads of a VM, worked out once; bytes.

    Attributes:
        present: of its working set, what it uses at this moment.
        working_set: its demand without headroom; all of the demand where the guest is in trouble.
        target: -1 when there is none.
        weight: its shares.
        idle_tax: percent.
    """

    minimum: int
    maximum: int
    present: int
    working_set: int
    demand: int
    actual: int
    held: int
    target: int
    dead_band: int
    weight: int
    idle_tax: int


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """One VM as its node's agent last reported it, with the policy that governs it.

    Attributes:
        uid: the VMI's uid: unique for ever, so a VM recreated under its name is another VM.
        size: the memory the guest was booted with (plus hotplugged).
        actual: what the balloon leaves the guest; the most it can use now.
        overhead: memory of QEMU and its pod beyond the guest's own.
        need: what the guest's statistics say it works with; None when they are missing or stale.
        present_need: of that, what it works with at this moment; None when that is not known apart.
        target: the request in force, None when there is none.
        troubled: the guest swaps, refaults or stalls for want of memory.
        excluded: why the VM must not be ballooned, or None.
        responsive: False while its driver does not follow requests.
        last_change: the target's last move, None when it has not moved yet.
        course: what its agent does about it; only one that is excluded or not responsive does not follow its request.
    """

    uid: str
    name: str
    size: int
    actual: int
    overhead: int = 0
    need: int | None = None
    present_need: int | None = None
    target: int | None = None
    troubled: bool = False
    excluded: str | None = None
    responsive: bool = True
    policy: Policy | None = None
    last_change: Change | None = None
    course: Course = Course.REQUEST

    figures: Figures = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Resolve what the policy says against the VM."""
        size, policy = self.size, self.policy
        minimum = maximum = size
        weight, idle_tax = 1, 0
        held = self.actual if self.target is None else max(self.actual, min(size, self.target))
        present = working_set = demand = held
        if policy is not None:
            weight, idle_tax = max(1, policy.shares_per_gib * size // MIB), policy.idle_tax
            minimum = min(size, max(FLOOR, policy.minimum.of(size)))
            maximum = max(minimum, min(size, policy.maximum.of(size)))
            if self.need is not None:
                base = max(self.need, self.actual) if self.troubled else self.need
                demand = max(minimum, min(maximum, base + policy.headroom.of(size)))
                working_set = demand if self.troubled else max(minimum, min(maximum, base))
                present = working_set
                if self.present_need is not None:
                    present = max(minimum, min(working_set, self.present_need))
        target = -1 if self.target is None else self.target
        figures = Figures(
            minimum, maximum, present, working_set, demand, self.actual, held, target, dead_band(size), weight, idle_tax
        )
        object.__setattr__(self, "figures", figures)  # the dataclass is frozen for everyone else

    @property
    def minimum(self) -> int:
        """The guarantee: the policy's minimum, from the guard's floor to the size; all of it without a policy."""
        return self.figures.minimum

    @property
    def maximum(self) -> int:
        """The limit: never below the minimum, for the guarantee comes first, and never above the size."""
        return self.figures.maximum

    @property
    def demand(self) -> int:
        """Need plus headroom within the bounds; what the VM holds while its need is unknown.

        A guest in trouble holds too little, so it demands at least its headroom above what it holds.
        """
        return self.figures.demand

    @property
    def held(self) -> int:
        """What the node must be able to back: a grant under way counts as already held."""
        return self.figures.held

    def backed(self, target: int | None) -> int:
        """What the node must be able to back where ``target`` is asked of the VM, bytes: without a request it grows."""
        given = self.course is Course.WHOLE or (self.course is Course.REQUEST and target is None)
        return self.size if given else self.held

    @property
    def dead_band(self) -> int:
        """See ``dead_band``."""
        return self.figures.dead_band


@dataclass(frozen=True, slots=True)
class Node:
    """One node and its VMs at one moment.

    Attributes:
        total: memory of the node that its workloads may use.
        available: of that, what could be had now without swapping.
        other: memory in use by whatever is not a VM.
        reserve: memory to keep free: the threshold of High.
        cool_down: seconds in which a target does not change direction, unless its guest or its node needs it to.
    """

    name: str
    total: int
    available: int
    other: int
    reserve: int
    state: State = State.HIGH
    cool_down: float = COOL_DOWN
    vms: tuple[VirtualMachine, ...] = ()

    @property
    def capacity(self) -> int:
        """What the guests may hold together: total - other - reserve - the VMs' overhead."""
        return max(0, self.total - self.other - self.reserve - sum(vm.overhead for vm in self.vms))


class Decision(NamedTuple):
    """What one VM may use, and why; a tuple, for thousands are made a second.

    Attributes:
        target: the request to make, or None where none is to be made.
        entitlement: what the VM would have once every other VM has followed its own request.
        state: the node's, when this was decided.
        note: what the reason alone does not say.
    """

    vm: VirtualMachine
    target: int | None
    entitlement: int
    reason: Reason
    state: State = State.HIGH
    note: str = ""

    @property
    def message(self) -> str:
        """The reason in words an administrator understands."""
        if self.note:
            return self.note
        vm = self.vm
        if self.reason is Reason.UNRESPONSIVE:
            return f"its driver does not follow requests: {human(self.entitlement)} counted as used"
        if self.reason is Reason.DEMAND_UNKNOWN:
            return f"no fresh guest statistics: {human(self.entitlement)} counted as used"
        target = self.entitlement if self.target is None else self.target
        if self.reason is Reason.NOT_UNDER_PRESSURE:
            return f"node {self.state}, its policy reclaims under pressure only: may use {human(target)}"
        if self.reason is Reason.WAITING:
            waits = human(self.entitlement - target)
            return f"entitled to {human(self.entitlement)}; {waits} of it waits until other VMs have given theirs"
        if self.reason is Reason.SATISFIED:
            limit = "all of its" if vm.maximum == vm.size else "its policy's maximum of"
            return f"may use {limit} {human(vm.maximum)}"
        return self._reclaimed(target)

    def _reclaimed(self, target: int) -> str:
        vm, demand = self.vm, self.vm.demand
        tax = 0 if vm.policy is None else vm.policy.idle_tax
        why = "all VMs' demands do not fit"
        if target >= demand and vm.maximum > demand:
            why = f"idle {human(vm.maximum - demand)} taxed at {tax} %"
        taken = "would be reclaimed" if self.target is None else "reclaimed"
        message = f"{why}, node {self.state}: {human(vm.size - target)} {taken}, demand {human(demand)}"
        at_minimum = f"; at its guaranteed minimum {human(vm.minimum)}"
        return message + at_minimum if self.reason is Reason.AT_MINIMUM else message


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions for one node.

    Attributes:
        capacity: what the governed VMs share, after what cannot be moved is set aside.
        shortfall: by how much the minimums exceed that capacity; 0 when they fit.
        risk: how much more than the capacity the VMs could use at once, as ``UnderPressure`` and VMs that cannot be
            ballooned, or of which nothing is asked, allow.
    """

    node: str
    capacity: int
    shortfall: int = 0
    risk: int = 0
    decisions: tuple[Decision, ...] = field(default=())
