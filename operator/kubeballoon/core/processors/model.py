"""How many processors each VM of a node may use: the division of memory, in whole processors.

What ``entitlement`` finds to a fraction is rounded by largest remainder. A processor can be taken from a guest and
given back at once and costs it no data, so there is no pacing, no waiting for what others give, and no idle tax; there
is a trigger with hysteresis, and calm after each change.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.core.decision import DecisionReason, TargetChange
from kubeballoon.vocabulary import Mode, ReclaimWhen

COOL_DOWN = 300.0  # seconds
SHARES = 1000  # of each processor of a VM without a policy


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
class Hysteresis:
    """Percentages between which what has started goes on, and what has ended stays ended; ``end`` <= ``start``."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ProcessorPressure:
    """How short of processors a node is.

    Attributes:
        stall: percent of the last ten seconds in which some task waited for a processor.
        usage: percent of the processors in use.
    """

    stall: float = 0.0
    usage: float = 0.0


@dataclass(frozen=True, slots=True)
class ProcessorTrigger:
    """When a policy takes processors."""

    when: ReclaimWhen = ReclaimWhen.UNDER_PRESSURE
    stall: Hysteresis = Hysteresis(25, 10)
    usage: Hysteresis = Hysteresis(90, 70)

    def pulled(self, pressure: ProcessorPressure, *, before: bool) -> bool:
        """Whether processors are to be taken now, where they were ``before``.

        It starts when tasks wait and the processors are in use: either alone is some pod's limit, or a node well used.
        It ends when neither is left, since a node whose VMs are held back may be busy and yet let nobody wait.
        """
        if self.when is ReclaimWhen.OVERCOMMITTED:
            return True
        if before:
            return pressure.stall >= self.stall.end or pressure.usage >= self.usage.end
        return pressure.stall >= self.stall.start and pressure.usage >= self.usage.start


@dataclass(frozen=True, slots=True)
class ProcessorTerms:
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
    trigger: ProcessorTrigger = ProcessorTrigger()
    cool_down: float = COOL_DOWN


@dataclass(frozen=True, slots=True)
class ProcessorVM:
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
    policy: ProcessorTerms | None = None
    last_change: TargetChange | None = None

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
class ProcessorNode:
    """One node and its VMs at one moment.

    Attributes:
        count: its processors.
    """

    name: str
    count: int
    pressure: ProcessorPressure = ProcessorPressure()
    vms: tuple[ProcessorVM, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessorDecision:
    """How many processors one VM may use, and why.

    Attributes:
        target: the request to make, or None where none is to be made.
        message: the reason in words an administrator understands.
    """

    vm: ProcessorVM
    target: int | None
    reason: DecisionReason
    message: str


@dataclass(frozen=True, slots=True)
class ProcessorPlan:
    """The decisions for one node.

    Attributes:
        shortfall: by how many processors the minimums exceed the node's; 0 when they fit.
    """

    node: str
    shortfall: int = 0
    decisions: tuple[ProcessorDecision, ...] = ()
