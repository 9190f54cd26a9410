"""This module describes a node's workload: its VMs with their traces, and the memory and policy they run with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kubeballoon.core.memory.model import MemoryTerms, MemoryVM
from kubeballoon.core.memory.node_state import NodeFacts, NodeLimits, NodeTerms, StateThresholds, node_limits
from kubeballoon.replay.traces import Trace

EVICTION_THRESHOLD = 100 << 20
"""Bytes of free memory below which the kubelet evicts by default (memory.available<100Mi)."""

EVICTION_MARGIN = 64 << 20
"""Bytes kept free above the eviction threshold."""

DEFAULT_CACHE_RATE = 1 << 20
"""Bytes a second by which the page cache of a guest grows whose trace does not say what it read and wrote: a guess."""

_CHUNK = 4096  # rows of one table: keeps the table of a large node's demands within some megabytes

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GuestAssumptions:
    """GuestAssumptions are what traces do not tell of guests, and what happens to them.

    Attributes:
        cache_rate: by how much each guest's page cache grows in a second, bytes; None for what its trace says that it
            read and wrote, or ``DEFAULT_CACHE_RATE`` where the trace does not say.
        swap_share: the share of the guests that have swap space, 0 to 1.
        restart_seconds: after which a VM that was killed runs again. While a node is under memory pressure, and for
            five minutes after, Kubernetes starts no pod on it.
        boot_storm_at: when all VMs boot at once, as after a power cut, seconds; None if they do not.
    """

    cache_rate: int | None = None
    swap_share: float = 1.0
    restart_seconds: float = 300.0
    boot_storm_at: float | None = None


@dataclass(frozen=True, slots=True)
class NodeWorkload:
    """A NodeWorkload is what a strategy is run on: one node with its VMs.

    Attributes:
        memory: the node's memory, bytes.
        policy: the policy that governs its VMs.
        policies: the policies that govern some of them instead, by the names of these VMs.
        node_terms: what a NodePolicy says of the node.
        starts: when some VMs start, whatever their traces say, seconds, by the names of these VMs.
        seconds: how long the replay lasts.
        interval: seconds between two rounds of control.
        seed: the seed of everything that is drawn at random on this node.
        overcommit: the ratio at which the node was filled; VMs' pods request their sizes divided by it.
        guests: what is assumed of the guests.
        limits: where the node's states begin, and what is kept free; computed once from the above.

    Raises:
        UnfitTermsError: the NodePolicy would leave nothing of the node for VMs.
    """

    name: str
    memory: int
    traces: Sequence[Trace]
    policy: MemoryTerms
    seconds: float
    interval: float = 10.0
    seed: int = 1
    overcommit: float = 1.0
    guests: GuestAssumptions = GuestAssumptions()
    policies: Mapping[str, MemoryTerms] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)
    node_terms: NodeTerms = field(default_factory=NodeTerms)
    limits: NodeLimits = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the node's limits."""
        facts = NodeFacts(self.memory, self.memory, EVICTION_THRESHOLD, EVICTION_MARGIN)
        # Fields of a frozen dataclass can be set only in this way.
        object.__setattr__(self, "limits", node_limits(self.node_terms, facts))

    def policy_of(self, trace: Trace) -> MemoryTerms:
        """Return the terms of the policy that governs a VM."""
        return self.policies.get(trace.name, self.policy)

    def start_of(self, trace: Trace) -> float:
        """Return when a VM starts, seconds."""
        return self.starts.get(trace.name, trace.start)

    def requested(self, trace: Trace) -> float:
        """Return what the pod of a VM has requested from the scheduler for its guest, bytes."""
        return trace.size / max(1.0, self.overcommit)

    def cache_rate(self, trace: Trace) -> float:
        """Return by how much a guest's page cache grows in a second, bytes."""
        if self.guests.cache_rate is not None:
            return self.guests.cache_rate
        return DEFAULT_CACHE_RATE if trace.disk_rate is None else trace.disk_rate

    @property
    def thresholds(self) -> StateThresholds:
        """The amounts of free memory at which the node's state changes, bytes."""
        return self.limits.thresholds

    @property
    def eviction_threshold(self) -> int:
        """The free memory below which the node's kubelet evicts, bytes."""
        eviction = self.node_terms.eviction
        return EVICTION_THRESHOLD if eviction is None else eviction.of(self.memory)

    @property
    def capacity(self) -> int:
        """What the node's guests may hold together, bytes."""
        return max(0, self.memory - self.limits.reserve)


@dataclass(frozen=True, slots=True)
class DemandTable:
    """A DemandTable holds the demands of a node's VMs in consecutive periods in which no demand changes.

    Attributes:
        seconds: how long each period lasts, shape (periods,).
        demand: bytes, shape (periods, VMs).
        present: whether each VM is on the node, shape (periods, VMs).
    """

    seconds: Floats
    demand: Floats
    present: Flags


@dataclass(frozen=True, slots=True)
class VMBounds:
    """VMBounds are the sizes, guarantees and limits of a node's VMs, bytes, each of shape (VMs,)."""

    size: Floats
    minimum: Floats
    maximum: Floats


def demand_tables(workload: NodeWorkload) -> Iterator[DemandTable]:
    """Tabulate the demands of a node's VMs from the start to the end of the workload."""
    starts = np.array([workload.start_of(trace) for trace in workload.traces])
    ends = np.array([trace.end for trace in workload.traces])
    times = np.unique(np.concatenate([starts, ends, *(trace.times for trace in workload.traces)]))
    times = times[times < workload.seconds]
    seconds = np.diff(np.append(times, workload.seconds))
    for start in range(0, len(times), _CHUNK):
        chunk = times[start : start + _CHUNK]
        columns = [
            trace.demand[np.searchsorted(trace.times, chunk, side="right") - 1].astype(np.float64)
            for trace in workload.traces
        ]
        present = (starts <= chunk[:, np.newaxis]) & (chunk[:, np.newaxis] < ends)
        yield DemandTable(seconds[start : start + _CHUNK], np.stack(columns, axis=1), present)


def vm_bounds(workload: NodeWorkload) -> VMBounds:
    """Resolve the policy's bounds against the size of each VM, as the core does it."""
    vms = [
        MemoryVM(uid=trace.name, name=trace.name, size=trace.size, actual=trace.size, policy=workload.policy_of(trace))
        for trace in workload.traces
    ]
    return VMBounds(
        size=np.array([vm.size for vm in vms], dtype=np.float64),
        minimum=np.array([vm.minimum for vm in vms], dtype=np.float64),
        maximum=np.array([vm.maximum for vm in vms], dtype=np.float64),
    )
