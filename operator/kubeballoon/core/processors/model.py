"""This module models the processors of a node and its VMs, as the allocation sees them, and the decisions it makes."""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.core.decision_reason import DecisionReason, TargetChange
from kubeballoon.vocabulary import DEFAULT_MINIMUM_PERCENT, Mode, ReclaimWhen

COOL_DOWN = 300.0  # seconds: guests move tasks and interrupts at every change, so changes are kept rare
SHARES = 1000  # of each processor, by default and where no policy governs the VM


@dataclass(frozen=True, slots=True)
class Count:
    """A Count is a number of processors as users write it: a number, or a percentage of a VM's processors.

    Attributes:
        number, percent: the count; one of them is set.
        limit: the count that this one does not exceed; None if there is none.

    Raises:
        ValueError: not exactly one of the two is set.
    """

    number: int | None = None
    percent: int | None = None
    limit: Count | None = None

    def __post_init__(self) -> None:
        """Check that the count is given in exactly one form."""
        if (self.number is None) == (self.percent is None):
            raise ValueError(f"a count is a number or a percentage, not {self}")

    def of(self, size: int) -> int:
        """Return the number for a VM of ``size`` processors: at least one, and rounded up."""
        number = -(-size * (self.percent or 0) // 100) if self.number is None else self.number
        return max(1, number if self.limit is None else min(number, self.limit.of(size)))


@dataclass(frozen=True, slots=True)
class Hysteresis:
    """A Hysteresis is a pair of thresholds in percent, ``end`` <= ``start``, between which nothing starts or ends."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ProcessorPressure:
    """A ProcessorPressure says how short of processors a node is.

    Attributes:
        stall: percent of the last ten seconds in which some task waited for a processor.
        usage: percent of the processors in use.
    """

    stall: float = 0.0
    usage: float = 0.0


@dataclass(frozen=True, slots=True)
class ProcessorTrigger:
    """A ProcessorTrigger says when a policy reclaims processors.

    Attributes:
        when: Overcommitted reclaims always, UnderPressure between the thresholds below.
        stall: thresholds for ``ProcessorPressure.stall``.
        usage: thresholds for ``ProcessorPressure.usage``.
    """

    when: ReclaimWhen = ReclaimWhen.UNDER_PRESSURE
    stall: Hysteresis = Hysteresis(25, 10)
    usage: Hysteresis = Hysteresis(90, 70)

    def is_active(self, pressure: ProcessorPressure, *, was_active: bool) -> bool:
        """Whether processors are to be reclaimed now.

        The trigger becomes active when tasks wait and the processors are in use. Either alone is no shortage: tasks
        also wait because of a pod's own limit, and a busy node may simply be used well. It stays active until both have
        fallen, because once VMs have fewer processors the node may be busy without any task waiting.
        """
        if not self.when.waits_for_pressure:
            return True
        if was_active:
            return pressure.stall >= self.stall.end or pressure.usage >= self.usage.end
        return pressure.stall >= self.stall.start and pressure.usage >= self.usage.start


@dataclass(frozen=True, slots=True)
class ProcessorTerms:
    """ProcessorTerms are what a ProcessorPolicy says about the VMs that it governs.

    Attributes:
        minimum: what each VM is guaranteed.
        maximum: what each VM may use at most.
        shares: the relative claim of each of a VM's processors.
        cool_down: for how long a VM's processors stay as they are after a change, seconds.
    """

    name: str
    minimum: Count = Count(percent=DEFAULT_MINIMUM_PERCENT)
    maximum: Count = Count(percent=100)
    shares: int = SHARES
    mode: Mode = Mode.ENFORCE
    trigger: ProcessorTrigger = ProcessorTrigger()
    cool_down: float = COOL_DOWN


@dataclass(frozen=True, slots=True)
class ProcessorVM:
    """A ProcessorVM is one VM as its node's agent last reported it, with the terms of the policy that governs it.

    Attributes:
        uid: the VMI's uid: unique for ever, so a VM recreated under its name is another VM.
        size: how many processors the VM was given.
        online: how many processors the guest uses now; None while that is not known.
        target: the request in force; None when there is none.
        excluded: why the VM must be left alone, or None.
        dedicated: whether the VM has processors of the node to itself, which nobody else may use.
        responsive: False while the guest does not follow requests.
        policy: the governing policy's terms; None if no policy selects the VM.
        last_change: the target's last change; None when it has not changed yet.
    """

    uid: str
    name: str
    size: int
    online: int | None = None
    target: int | None = None
    excluded: str | None = None
    dedicated: bool = False
    responsive: bool = True
    policy: ProcessorTerms | None = None
    last_change: TargetChange | None = None

    @property
    def observed(self) -> bool:
        """Whether the policy that governs the VM only observes."""
        return self.policy is not None and self.policy.mode.only_observes

    @property
    def minimum(self) -> int:
        """How many processors the VM is guaranteed: at most its size, and all of that without a policy."""
        return self.size if self.policy is None else min(self.size, self.policy.minimum.of(self.size))

    @property
    def maximum(self) -> int:
        """How many processors the VM may use: never below its minimum, which comes first, and never above its size."""
        if self.policy is None:
            return self.size
        return max(self.minimum, min(self.size, self.policy.maximum.of(self.size)))

    @property
    def guarantee(self) -> int:
        """How many processors nobody else may have: its minimum if it can be moved; else only those dedicated to it."""
        movable = self.policy is not None and self.excluded is None and not self.observed and self.responsive
        return self.minimum if movable else self.size if self.dedicated else 0

    @property
    def is_reduced(self) -> bool:
        """Whether the request in force leaves the VM fewer processors than its maximum."""
        return self.target is not None and self.target < self.maximum


@dataclass(frozen=True, slots=True)
class ProcessorNode:
    """A ProcessorNode is one node with its VMs at one moment.

    Attributes:
        count: how many processors the node has.
    """

    name: str
    count: int
    pressure: ProcessorPressure = ProcessorPressure()
    vms: tuple[ProcessorVM, ...] = ()

    @property
    def shortfall(self) -> int:
        """By how many processors the VMs' guarantees exceed the node's; 0 when they fit."""
        return max(0, sum(vm.guarantee for vm in self.vms) - self.count)


@dataclass(frozen=True, slots=True)
class ProcessorDecision:
    """A ProcessorDecision says how many processors one VM may use, and why.

    Attributes:
        target: the request to make, or None if none is to be made.
        message: the reason in words an administrator understands.
    """

    vm: ProcessorVM
    target: int | None
    reason: DecisionReason
    message: str


@dataclass(frozen=True, slots=True)
class ProcessorPlan:
    """A ProcessorPlan holds the decisions for all VMs of one node.

    Attributes:
        shortfall: by how many processors the minimums exceed the node's; 0 when they fit.
        decisions: one for each VM, in the order of the node's VMs.
    """

    node: str
    shortfall: int = 0
    decisions: tuple[ProcessorDecision, ...] = ()
