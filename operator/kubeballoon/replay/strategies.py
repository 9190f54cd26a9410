"""What kubeballoon is measured against: a static split, no balloon, and the optimum for who knows every demand.

All share the policy's bounds and the capacity: the node's memory less its reserve. But "none" may
use all the node has, as may the optimum where the policy lets VMs do so (``reclaim.when: UnderPressure``). None of them
has speed or a control interval: memory is where it should be at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kubeballoon.core.memory.model import MemoryTerms, MemoryVM
from kubeballoon.core.memory.node_state import StateThresholds, state_thresholds
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Trace
from kubeballoon.vocabulary import ReclaimWhen

EVICTION = 100 << 20
"""Bytes at which the kubelet evicts by default (memory.available<100Mi)."""

MARGIN = 64 << 20
"""Bytes kept above that."""

_CHUNK = 4096  # moments looked at together: keeps the table of a large node's demands within some megabytes

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NodeWorkload:
    """One node to replay.

    Attributes:
        memory: of the node, bytes.
        policy: governs all its VMs.
        seconds: how long to replay.
        interval: between two rounds of control, seconds.
        seed: of everything drawn at random on this node.
    """

    name: str
    memory: int
    traces: Sequence[Trace]
    policy: MemoryTerms
    seconds: float
    interval: float = 10.0
    seed: int = 1

    @property
    def limits(self) -> StateThresholds:
        """Free memory at which the node's state changes."""
        return state_thresholds(self.memory, EVICTION, MARGIN)

    @property
    def capacity(self) -> int:
        """What the guests may hold together, bytes."""
        return max(0, self.memory - self.limits.ample)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive moments between which nothing changes.

    Attributes:
        lengths: for how long each lasts, seconds, shape (moments,).
        demand: bytes, shape (moments, VMs).
    """

    lengths: Floats
    demand: Floats


@dataclass(frozen=True, slots=True)
class VMBounds:
    """The VMs' sizes, guarantees and limits, bytes, shape (VMs,)."""

    size: Floats
    minimum: Floats
    maximum: Floats


Strategy = Callable[[NodeWorkload], ReplayTotals]


def stretches(load: NodeWorkload) -> Iterator[Stretch]:
    """The node's demands, from each change to the next."""
    times = np.unique(np.concatenate([trace.times for trace in load.traces]))
    times = times[times < load.seconds]
    lengths = np.diff(np.append(times, load.seconds))
    for start in range(0, len(times), _CHUNK):
        chunk = times[start : start + _CHUNK]
        columns = [
            trace.demand[np.searchsorted(trace.times, chunk, side="right") - 1].astype(np.float64)
            for trace in load.traces
        ]
        yield Stretch(lengths[start : start + _CHUNK], np.stack(columns, axis=1))


def bounds(load: NodeWorkload) -> VMBounds:
    """What the policy gives and leaves each VM, resolved by the core."""
    vms = [
        MemoryVM(uid=trace.name, name=trace.name, size=trace.size, actual=trace.size, policy=load.policy)
        for trace in load.traces
    ]
    return VMBounds(
        size=np.array([vm.size for vm in vms], dtype=np.float64),
        minimum=np.array([vm.minimum for vm in vms], dtype=np.float64),
        maximum=np.array([vm.maximum for vm in vms], dtype=np.float64),
    )


def none(load: NodeWorkload) -> ReplayTotals:
    """No balloon: every guest may use all it has, and the node is exhausted when together they use more than it has."""
    size = bounds(load).size
    total = ReplayTotals()
    exhausted = False
    for stretch in stretches(load):
        held = np.broadcast_to(size, stretch.demand.shape)
        tally, exhausted = _count(stretch, held, load.memory, exhausted=exhausted)
        total = ReplayTotals.total((total, tally))
    return total


def static_split(load: NodeWorkload, limits: VMBounds) -> Floats:
    """The capacity in proportion to the VMs' sizes, within their bounds, bytes, shape (VMs,)."""
    split: Floats = np.clip(limits.size * load.capacity / limits.size.sum(), limits.minimum, limits.maximum)
    return split


def static(load: NodeWorkload) -> ReplayTotals:
    """A split for good, in proportion to the VMs' sizes."""
    split = static_split(load, bounds(load))
    total = ReplayTotals()
    exhausted = False
    for stretch in stretches(load):
        held = np.broadcast_to(split, stretch.demand.shape)
        tally, exhausted = _count(stretch, held, load.memory, exhausted=exhausted)
        total = ReplayTotals.total((total, tally))
    return total


def clairvoyant(load: NodeWorkload) -> ReplayTotals:
    """The optimum: the present demand of every VM is known and memory moves at once.

    Each VM gets its demand within its bounds. What those demands exceed the capacity by has to stay unmet wherever it
    is taken, so it is taken in proportion from what lies above the minimums, and no division leaves less unmet. Memory
    moves only when someone needs it: a VM keeps what it has until then.

    Where VMs may be granted more than the node has, all of its memory can be used, and what a VM leaves idle of its
    minimum by others.
    """
    limits = bounds(load)
    capacity, minimum = load.capacity, limits.minimum
    if load.policy.when is ReclaimWhen.UNDER_PRESSURE:
        capacity, minimum = load.memory, np.zeros_like(minimum)
    held = static_split(load, limits)
    total = ReplayTotals()
    exhausted = False
    falling = np.zeros(len(held), dtype=np.int8)
    for stretch in stretches(load):
        allocations = np.empty_like(stretch.demand)
        moved, turns = 0.0, 0
        for row, demand in enumerate(stretch.demand):
            after = _needed(held, np.clip(demand, minimum, limits.maximum), minimum, capacity)
            way = np.sign(after - held).astype(np.int8)
            turns += int(np.count_nonzero(way * falling < 0))
            falling = np.where(way != 0, way, falling)
            moved += float(np.abs(after - held).sum())
            allocations[row] = held = after
        tally, exhausted = _count(stretch, allocations, load.memory, exhausted=exhausted)
        total = ReplayTotals.total((total, tally, ReplayTotals(moved=moved, direction_changes=turns)))
    return total


def _needed(held: Floats, wanted: Floats, minimum: Floats, capacity: float) -> Floats:
    """The allocation after ``held`` that meets the wants, or as much of them as fits, and moves little else."""
    excess = wanted.sum() - capacity
    if excess > 0:
        above = wanted - minimum
        return wanted - above * min(1.0, excess / above.sum()) if above.any() else wanted
    after = np.maximum(held, wanted)
    idle = after - wanted
    surplus = after.sum() - capacity
    return after - idle * (surplus / idle.sum()) if surplus > 0 else after


def _count(stretch: Stretch, held: Floats, memory: int, *, exhausted: bool) -> tuple[ReplayTotals, bool]:
    """What a stretch adds when the VMs hold ``held`` bytes, and whether the node is exhausted at its end."""
    used = np.minimum(stretch.demand, held).sum(axis=1)
    demand = stretch.demand.sum(axis=1)
    over = used > memory
    begins = over & ~np.concatenate([[exhausted], over[:-1]])
    unmet = demand - np.minimum(used, memory)
    tally = ReplayTotals(
        demand=float(demand @ stretch.lengths),
        unmet=float(unmet @ stretch.lengths),
        exhaustions=int(begins.sum()),
    )
    return tally, bool(over[-1])
