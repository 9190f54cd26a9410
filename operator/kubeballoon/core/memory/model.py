"""What the core decides about, and what it decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from kubeballoon.core.decision import DecisionReason, TargetChange
from kubeballoon.core.memory.guard import FLOOR
from kubeballoon.core.units import MIB
from kubeballoon.core.wording import human
from kubeballoon.vocabulary import AgentAction, Mode, NodeState, ReclaimWhen

COOL_DOWN = 60.0  # seconds


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
class MemoryTerms:
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
    when: ReclaimWhen = ReclaimWhen.OVERCOMMITTED
    max_rate: int | None = None


def dead_band(size: int) -> int:
    """A change of the target of a VM of ``size`` that is not worth making, bytes."""
    return size // 64


Figure = TypeVar("Figure")


class VMFigures(NamedTuple, Generic[Figure]):
    """VMFigures are what an allocation reads of a VM, worked out once, in bytes.

    Each is an int, or for many VMs an array.

    Attributes:
        present: what the guest uses of its working set at this moment.
        working_set: the demand without headroom; all of the demand where the guest is in trouble.
        target: -1 where there is none.
        weight: the VM's shares.
        idle_tax: percent.
    """

    minimum: Figure
    maximum: Figure
    present: Figure
    working_set: Figure
    demand: Figure
    actual: Figure
    held: Figure
    target: Figure
    dead_band: Figure
    weight: Figure
    idle_tax: Figure


@dataclass(frozen=True, slots=True)
class MemoryVM:
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
        agent_action: what its agent does about it; unless it is excluded or not responsive, it follows the request.
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
    policy: MemoryTerms | None = None
    last_change: TargetChange | None = None
    agent_action: AgentAction = AgentAction.FOLLOWS

    figures: VMFigures[int] = field(init=False, repr=False, compare=False)

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
        figures = VMFigures(
            minimum=minimum,
            maximum=maximum,
            present=present,
            working_set=working_set,
            demand=demand,
            actual=self.actual,
            held=held,
            target=-1 if self.target is None else self.target,
            dead_band=dead_band(size),
            weight=weight,
            idle_tax=idle_tax,
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

    def charge(self, target: int | None) -> int:
        """What the node must be able to back where ``target`` is asked of the VM, bytes: without a request it grows."""
        given = self.agent_action is AgentAction.RETURNS_ALL or (
            self.agent_action is AgentAction.FOLLOWS and target is None
        )
        return self.size if given else self.held

    @property
    def dead_band(self) -> int:
        """See ``dead_band``."""
        return self.figures.dead_band


@dataclass(frozen=True, slots=True)
class MemoryNode:
    """One node and its VMs at one moment.

    Attributes:
        total: memory of the node that its workloads may use.
        available: of that, what could be had now without swapping.
        other: memory in use by whatever is not a VM.
        reserve: memory to keep free: the threshold of Ample.
        cool_down: seconds in which a target does not change direction, unless its guest or its node needs it to.
    """

    name: str
    total: int
    available: int
    other: int
    reserve: int
    state: NodeState = NodeState.AMPLE
    cool_down: float = COOL_DOWN
    vms: tuple[MemoryVM, ...] = ()

    @property
    def capacity(self) -> int:
        """What the guests may hold together: total - other - reserve - the VMs' overhead."""
        return max(0, self.total - self.other - self.reserve - sum(vm.overhead for vm in self.vms))


class MemoryDecision(NamedTuple):
    """What one VM may use, and why; a tuple, for thousands are made a second.

    Attributes:
        target: the request to make, or None where none is to be made.
        entitlement: what the VM would have once every other VM has followed its own request.
        state: the node's, when this was decided.
        note: what the reason alone does not say.
    """

    vm: MemoryVM
    target: int | None
    entitlement: int
    reason: DecisionReason
    state: NodeState = NodeState.AMPLE
    note: str = ""

    @property
    def message(self) -> str:
        """The reason in words an administrator understands."""
        if self.note:
            return self.note
        vm = self.vm
        if self.reason is DecisionReason.UNRESPONSIVE:
            return f"its driver does not follow requests: {human(self.entitlement)} counted as used"
        if self.reason is DecisionReason.DEMAND_UNKNOWN:
            return f"no fresh guest statistics: {human(self.entitlement)} counted as used"
        target = self.entitlement if self.target is None else self.target
        if self.reason is DecisionReason.NOT_UNDER_PRESSURE:
            return f"node {self.state}, its policy reclaims under pressure only: may use {human(target)}"
        if self.reason is DecisionReason.WAITING:
            waits = human(self.entitlement - target)
            return f"entitled to {human(self.entitlement)}; {waits} of it waits until other VMs have given theirs"
        if self.reason is DecisionReason.SATISFIED:
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
        return message + at_minimum if self.reason is DecisionReason.AT_MINIMUM else message


@dataclass(frozen=True, slots=True)
class MemoryPlan:
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
    decisions: tuple[MemoryDecision, ...] = field(default=())
