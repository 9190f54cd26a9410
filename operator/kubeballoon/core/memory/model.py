"""This module models the memory of a node and its VMs, as the allocation sees it, and the decisions it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar, assert_never

from kubeballoon.core.decision_reason import DecisionReason, TargetChange
from kubeballoon.core.formatting import human
from kubeballoon.core.memory.request_checks import FLOOR
from kubeballoon.core.units import MIB
from kubeballoon.vocabulary import (
    DEFAULT_MINIMUM_PERCENT,
    AgentAction,
    Mode,
    NodeState,
    ReclaimWhen,
    SwapAbility,
    WorkingSetReclaim,
)

COOL_DOWN = 60.0  # seconds: by then a guest has usually followed a change, and reported several times how it fares


@dataclass(frozen=True, slots=True)
class Amount:
    """An Amount is a size as users write it: bytes, a percentage of a VM's or node's memory, or a pod's request.

    Attributes:
        bytes, percent: the size; both are None where the pod's request is meant.
        pod_request: whether what the VM's pod has requested from the scheduler for the guest is meant.
        limit: the amount that this one does not exceed; None if there is none.

    Raises:
        ValueError: not exactly one of the three forms is given. An amount without any would be a guarantee of nothing.
    """

    bytes: int | None = None
    percent: int | None = None
    pod_request: bool = False
    limit: Amount | None = None

    def __post_init__(self) -> None:
        """Check that the amount is given in exactly one form."""
        if (self.bytes is not None) + (self.percent is not None) + self.pod_request != 1:
            raise ValueError(f"an amount is bytes, a percentage, or a pod's request, not {self}")

    def of(self, size: int, pod_request: int | None = None) -> int:
        """Return the amount in bytes, rounded down.

        Args:
            size: the size of the VM or node, bytes.
            pod_request: what the VM's pod has requested for the guest, bytes. None if it has requested nothing: then
                the scheduler was told nothing less than the size.
        """
        if self.bytes is not None:
            amount = self.bytes
        elif self.pod_request:
            amount = size if pod_request is None else min(size, pod_request)
        else:
            amount = size * (self.percent or 0) // 100
        return amount if self.limit is None else min(amount, self.limit.of(size))


@dataclass(frozen=True, slots=True)
class MemoryTerms:
    """MemoryTerms are what a MemoryPolicy says about the VMs that it governs.

    Attributes:
        minimum: what each VM is guaranteed.
        maximum: what each VM may use at most.
        headroom: what each VM is to have beyond its working set while memory suffices.
        idle_tax: percent of an idle byte's worth that is taxed away, 0 to 99 (Waldspurger, OSDI 2002, section 5).
        shares_per_gib: the relative claim of each GiB of a VM's memory.
        max_rate: the fastest reclaim from one VM, bytes per second; None leaves it to the guest's own pace.
        working_set: whether memory that a guest works with is reclaimed from it, once nothing else is left.
        working_set_delay: seconds for which that memory is lacking elsewhere before it is reclaimed.
    """

    name: str
    minimum: Amount = Amount(percent=DEFAULT_MINIMUM_PERCENT)
    maximum: Amount = Amount(percent=100)
    headroom: Amount = Amount(percent=10)
    shares_per_gib: int = 1000
    idle_tax: int = 75
    mode: Mode = Mode.ENFORCE
    when: ReclaimWhen = ReclaimWhen.OVERCOMMITTED
    max_rate: int | None = None
    working_set: WorkingSetReclaim = WorkingSetReclaim.IF_SWAPPABLE
    working_set_delay: float = 10.0


def guest_margin(size: int) -> int:
    """Return what a guest of ``size`` bytes keeps free of what it could spare, in bytes.

    A guest's statistics are seconds old, and do not show all that its kernel needs.
    """
    return size // 32  # twice the dead band, so that a guest at its margin does not count as short


def dead_band(size: int) -> int:
    """Return the largest change of a target that is not worth making, in bytes, for a VM of ``size`` bytes."""
    return size // 64  # less would help nobody, and each new target costs a patch that makes KubeVirt sync the VM


Figure = TypeVar("Figure")


class VMFigures(NamedTuple, Generic[Figure]):
    """VMFigures are the numbers of one VM that an allocation reads, or of many VMs as one array each.

    They are computed once for each VM. All but ``weight`` and ``idle_tax`` are bytes.

    Attributes:
        minimum: the guarantee.
        maximum: the limit.
        in_use: the part of the working set that the guest uses at this moment.
        working_set: the demand without headroom; all of the demand where the guest is in trouble.
        demand: the working set and headroom.
        present: what the guest works with at this moment, whatever its policy says; 0 where that is not known.
        kept: what the guest does not give as long as it gives nothing that it works with.
        gives_working_set: 1 if more than that may be requested of it, else 0.
        actual: how much of the guest's memory the node has to back now.
        committed: what the node must be able to provide: ``actual``, or a target above it.
        target: the request in force; -1 where there is none.
        dead_band: the largest change of the target that is not worth making.
        weight: the VM's claim in the division: its policy's shares times its size.
        idle_tax: percent.
    """

    minimum: Figure
    maximum: Figure
    in_use: Figure
    working_set: Figure
    demand: Figure
    present: Figure
    kept: Figure
    gives_working_set: Figure
    actual: Figure
    committed: Figure
    target: Figure
    dead_band: Figure
    weight: Figure
    idle_tax: Figure


@dataclass(frozen=True, slots=True)
class MemoryVM:
    """A MemoryVM is one VM as its node's agent last reported it, with the terms of the policy that governs it.

    Attributes:
        uid: the VMI's uid: unique for ever, so a VM recreated under its name is another VM.
        size: the memory the guest was booted with, and what was hotplugged since, bytes.
        actual: how much of the guest's memory the node has to back now, bytes: what the balloon leaves the guest; more
            where the VM's process is known to hold more; the size while nothing is known.
        overhead: memory of QEMU and its pod beyond the guest's own, bytes.
        need: what the guest works with according to its statistics, bytes; None while they are missing or stale.
        present_need: the part of the need that the guest works with at this moment, bytes; None if it is not known.
        target: the request in force, bytes; None when there is none.
        troubled: whether the guest swaps or refaults because it lacks memory.
        excluded: why the VM must not be ballooned, or None.
        responsive: False while the guest's driver does not follow requests.
        policy: the governing policy's terms; None if no policy selects the VM.
        last_change: the target's last change; None when it has not changed yet.
        agent_action: what the VM's agent does about it; it follows requests unless the VM is excluded or unresponsive.
        swap_ability: whether the guest was seen to swap.
        pod_request: what the VM's pod has requested from the scheduler for the guest, bytes; None if nothing.
        pooled: whether its memory is in a pool of hugepages, which is no part of the node's memory here.
        untouched: the part of ``actual`` that the guest has not touched yet, so that the node still has it free, bytes;
            0 where that is not known.
        observed: whether the policy only observes; computed once, because every allocation asks.
        figures: the numbers that an allocation reads, computed once from the above.
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
    swap_ability: SwapAbility = SwapAbility.UNKNOWN
    pod_request: int | None = None
    pooled: bool = False
    untouched: int = 0

    observed: bool = field(init=False, repr=False, compare=False)
    figures: VMFigures[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the figures: resolve the policy's amounts against the VM's size."""
        size, policy = self.size, self.policy
        minimum = maximum = size
        weight = idle_tax = present = kept = 0  # they do not count without a policy and a known need
        committed = self.actual if self.target is None else max(self.actual, min(size, self.target))
        in_use = working_set = demand = committed
        if policy is not None:
            weight, idle_tax = max(1, policy.shares_per_gib * size // MIB), policy.idle_tax
            minimum = min(size, max(FLOOR, policy.minimum.of(size, self.pod_request)))
            maximum = max(minimum, min(size, policy.maximum.of(size)))
            if self.need is not None:
                # A guest in trouble works with more than it holds, so what it is seen to need is too little.
                need, headroom = self.need, policy.headroom.of(size)
                if self.troubled:
                    need, headroom = max(need, self.actual), max(headroom, guest_margin(size))
                demand = max(minimum, min(maximum, need + headroom))
                working_set = demand if self.troubled else max(minimum, min(maximum, need))
                present = self.need if self.present_need is None else self.present_need
                in_use = working_set if self.present_need is None else max(minimum, min(working_set, present))
                kept = min(self.actual, present + guest_margin(size))
        figures = VMFigures(
            minimum=minimum,
            maximum=maximum,
            in_use=in_use,
            working_set=working_set,
            demand=demand,
            present=present,
            kept=kept,
            gives_working_set=int(self.gives_working_set),
            actual=self.actual,
            committed=committed,
            target=-1 if self.target is None else self.target,
            dead_band=dead_band(size),
            weight=weight,
            idle_tax=idle_tax,
        )
        # Fields of a frozen dataclass can be set only in this way.
        object.__setattr__(self, "observed", policy is not None and policy.mode.only_observes)
        object.__setattr__(self, "figures", figures)

    @property
    def enforced(self) -> bool:
        """Whether a policy is enforced on the VM, and neither its kind nor people want it left alone."""
        return self.policy is not None and self.excluded is None and not self.observed

    @property
    def gives_working_set(self) -> bool:
        """Whether memory that the guest works with may be requested of it: its policy allows that, and it may swap."""
        return self.policy is not None and self.policy.working_set.allowed and self.swap_ability.may_swap

    @property
    def minimum(self) -> int:
        """The VM's guarantee, bytes: its policy's minimum, but at least the absolute floor and at most its size.

        A VM without a policy is guaranteed its size.
        """
        return self.figures.minimum

    @property
    def maximum(self) -> int:
        """The VM's limit, bytes: never below its minimum, for the guarantee comes first, and never above its size."""
        return self.figures.maximum

    @property
    def demand(self) -> int:
        """The VM's need and headroom within its bounds, bytes; what it has been promised while its need is unknown.

        A guest in trouble has too little, so it demands at least its headroom above what its balloon leaves it, and a
        margin where the policy gives it no headroom.
        """
        return self.figures.demand

    @property
    def committed(self) -> int:
        """What the node must be able to provide for the VM, bytes: what it has, or a higher target already set."""
        return self.figures.committed

    @property
    def untouched_demand(self) -> int:
        """What the guest has been left of its demand and has not touched yet, bytes: it may touch it at any moment."""
        return max(0, min(self.actual, self.demand) - self.actual + self.untouched)

    def charge(self, target: int | None) -> int:
        """Return the node memory to count for the VM if ``target`` is requested of it, in bytes.

        That is all of its size if its agent will give it everything, which it does without a request; otherwise what
        it has, or has been promised. Memory in a pool of hugepages does not count at all.
        """
        if self.pooled:
            return 0
        match self.agent_action:
            case AgentAction.RETURNS_ALL:
                return self.size
            case AgentAction.FOLLOWS:
                return self.size if target is None else self.committed
            case AgentAction.HOLDS:
                return self.committed
        assert_never(self.agent_action)

    @property
    def dead_band(self) -> int:
        """The largest change of the VM's target that is not worth making, bytes."""
        return self.figures.dead_band

    @property
    def most_demanded(self) -> int:
        """The most that an allocation sets aside for the VM, or must give it, while everybody's demands fit, bytes."""
        charge = self.charge(self.target if self.enforced else None)
        # A balloon may rest within the dead band above its target, and nobody else can have that memory.
        return max(charge, self.minimum, self.demand) + self.dead_band


@dataclass(frozen=True, slots=True)
class MemoryNode:
    """A MemoryNode is one node with its VMs at one moment; amounts are bytes.

    Attributes:
        total: the memory that workloads on the node may use.
        available: the part of the total that could be allocated now without swapping.
        other: memory that pods and processes other than VMs use.
        reserve: memory to keep free: below it the node is no longer Ample.
        cool_down: seconds for which a target does not change direction, unless its guest or its node needs it to.
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
        """The memory that all guests may use together, bytes: total - other - reserve - the VMs' overhead."""
        return max(0, self.total - self.other - self.reserve - sum(vm.overhead for vm in self.vms))

    @property
    def spare(self) -> int:
        """The memory that is available now beyond the reserve, bytes."""
        return max(0, self.available - self.reserve)

    @property
    def fits_demands(self) -> bool:
        """Whether all demands are met at once, and no guest works with more than its policy lets it demand.

        Then an allocation finds no shortfall, and no guest that withholds memory. It need not be made to know that.
        """
        if self.state.only_minimums_hold or any(vm.figures.present > vm.demand for vm in self.vms):
            return False
        return sum(vm.most_demanded for vm in self.vms) <= self.capacity


class MemoryDecision(NamedTuple):
    """A MemoryDecision says how much memory one VM may use, in bytes, and why.

    It is a tuple, not a dataclass, because thousands are made a second.

    Attributes:
        target: the request to make, or None if none is to be made.
        entitlement: what the VM will have once every other VM has followed its own request.
        state: the state of the node when this was decided.
        note: the message where nothing is requested: why the VM is left out.
        withheld: the part of the entitlement that the VM has only because its guest would not give it.
    """

    vm: MemoryVM
    target: int | None
    entitlement: int
    reason: DecisionReason
    state: NodeState = NodeState.AMPLE
    note: str = ""
    withheld: int = 0

    @property
    def message(self) -> str:
        """The decision's reason in words that an administrator understands."""
        vm = self.vm
        target = self.entitlement if self.target is None else self.target
        match self.reason:
            case DecisionReason.NO_POLICY | DecisionReason.EXCLUDED | DecisionReason.STEADY:
                return self.note
            case DecisionReason.UNRESPONSIVE | DecisionReason.DEMAND_UNKNOWN:
                unresponsive = self.reason is DecisionReason.UNRESPONSIVE
                why = "its driver does not follow requests" if unresponsive else "no fresh guest statistics"
                return f"{why}: {human(self.entitlement)} counted as used"
            case DecisionReason.NOT_UNDER_PRESSURE:
                return f"node {self.state}, its policy reclaims under pressure only: may use {human(target)}"
            case DecisionReason.WAITING:
                missing = human(self.entitlement - target)
                return f"entitled to {human(self.entitlement)}; {missing} of it waits until other VMs have given theirs"
            case DecisionReason.WITHHOLDING:
                return self._withholding()
            case DecisionReason.SATISFIED:
                limit = "all of its" if vm.maximum == vm.size else "its policy's maximum of"
                return f"may use {limit} {human(vm.maximum)}{self._why_guaranteed}"
            case DecisionReason.RECLAIMED:
                return self._reclaimed(target)
            case DecisionReason.AT_MINIMUM:
                return f"{self._reclaimed(target)}; at its guaranteed minimum {human(vm.minimum)}"
        assert_never(self.reason)

    def _withholding(self) -> str:
        policy = self.vm.policy
        allowed = policy is None or policy.working_set.allowed
        why = "it cannot swap" if allowed else "its policy reclaims no working set"
        fair_share, withheld = human(self.entitlement - self.withheld), human(self.withheld)
        return f"its fair share is {fair_share}; its guest works with {withheld} more, and {why}: it keeps that"

    @property
    def _why_guaranteed(self) -> str:
        """Why nothing is ever reclaimed from the VM, if its pod's request is the reason."""
        policy = self.vm.policy
        if policy is None or not policy.minimum.pod_request or self.vm.minimum < self.vm.size:
            return ""
        return ": its pod has requested all of it, so it is guaranteed"

    def _reclaimed(self, target: int) -> str:
        vm, demand = self.vm, self.vm.demand
        tax = 0 if vm.policy is None else vm.policy.idle_tax
        why = "all VMs' demands do not fit"
        if target >= demand and vm.maximum > demand:
            why = f"idle {human(vm.maximum - demand)} taxed at {tax} %"
        reclaimed = "would be reclaimed" if self.target is None else "reclaimed"
        return f"{why}, node {self.state}: {human(vm.size - target)} {reclaimed}, demand {human(demand)}"


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A MemoryPlan holds the decisions for all VMs of one node; amounts are bytes.

    Attributes:
        capacity: the node's.
        sharers_capacity: the memory divided among VMs: the capacity less what is set aside for VMs that are left out.
        shortfall: by how much the minimums, and what guests keep above theirs, exceed what is divided; 0 when they fit.
        risk: how much more than the node's capacity its VMs could use at once. ``UnderPressure`` allows that, and so do
            VMs that cannot be ballooned or of which nothing is requested.
        decisions: one for each VM, in the order of the node's VMs.
    """

    node: str
    capacity: int
    sharers_capacity: int = 0
    shortfall: int = 0
    risk: int = 0
    decisions: tuple[MemoryDecision, ...] = field(default=())

    @property
    def withheld(self) -> int:
        """Memory that VMs keep beyond their fair shares because their guests would not give it, bytes."""
        return sum(decision.withheld for decision in self.decisions)
