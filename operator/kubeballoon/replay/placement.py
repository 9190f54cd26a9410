"""This module places VMs on nodes: in order, or as the scheduler of Kubernetes does.

VMs that come and go count only while they are there.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kubeballoon.core.formatting import human
from kubeballoon.replay.traces import Trace

Nodes = list[tuple[Trace, ...]]
"""The VMs of each node."""


class Placement(StrEnum):
    """Placement is how nodes are filled with VMs."""

    FILL = "fill"
    SCHEDULER = "scheduler"


class PlacementError(ValueError):
    """A VM fits no node; the message is one line."""


def place(traces: Iterable[Trace], node_memory: int, overcommit: float) -> Nodes:
    """Fill one node after another, in the order of the traces, until its VMs' sizes reach the overcommitted memory.

    The VM that reaches the limit may exceed it, so that no VM is too large for a node.

    Args:
        traces: the VMs.
        node_memory: memory of one node, bytes.
        overcommit: the ratio of the VMs' sizes to the node's memory.
    """
    nodes: list[list[Trace]] = []
    for trace in traces:
        if not nodes or peak_size(nodes[-1]) >= node_memory * overcommit:
            nodes.append([])
        nodes[-1].append(trace)
    return [tuple(node) for node in nodes]


def schedule(traces: Sequence[Trace], node_memory: int, overcommit: float, seed: int = 1) -> Nodes:
    """Place VMs when they start, as the scheduler's plugin NodeResourcesFit does by default (LeastAllocated).

    Each VM's pod requests its size divided by the ratio. Of the nodes with room for that, the one with the lowest
    requests is chosen, and at random among equals. There are as many nodes as the requests fill; where a pod fits none
    of them, another node is added. VMs that start at the same time come in random order.

    Args:
        traces: the VMs.
        node_memory: memory of one node, bytes.
        overcommit: the ratio of the VMs' sizes to what their pods request; 1 or more.
        seed: of all that is random.

    Raises:
        PlacementError: a VM requests more than a node has.
    """
    draw = random.Random(f"{seed}/placement")  # noqa: S311 - not for secrets
    _check_sizes(traces, node_memory * overcommit)
    nodes = [_Node() for _ in range(max(1, math.ceil(peak_size(traces) / (node_memory * overcommit))))]
    for trace in sorted(draw.sample(traces, len(traces)), key=lambda trace: trace.start):
        for node in nodes:
            node.advance(trace.start)
        room = [node for node in nodes if node.requested + trace.size <= node_memory * overcommit]
        least = min((node.requested for node in room), default=0)
        if not room:
            nodes.append(_Node())
        node = draw.choice([node for node in room if node.requested == least]) if room else nodes[-1]
        node.add(trace)
    return [tuple(node.traces) for node in nodes if node.traces]


def peak_size(traces: Iterable[Trace]) -> int:
    """Return the sizes of those VMs together that are there at one time, bytes, at the time when that is most."""
    changes = [change for each in traces for change in ((each.start, each.size), (each.end, -each.size))]
    total = peak = 0
    for _, size in sorted(changes):  # at equal times departures come first
        total += size
        peak = max(peak, total)
    return peak


@dataclass(slots=True)
class _Node:
    """A _Node is a node as VMs are placed on it one after another.

    Attributes:
        traces: all VMs that were placed on it.
        requested: the sizes of those that are there now, bytes.
        departures: when these leave, and their sizes, as a heap.
    """

    traces: list[Trace] = field(default_factory=list)
    requested: int = 0
    departures: list[tuple[float, int]] = field(default_factory=list)

    def advance(self, now: float) -> None:
        """Let the VMs leave that are gone by ``now``, seconds."""
        while self.departures and self.departures[0][0] <= now:
            self.requested -= heapq.heappop(self.departures)[1]

    def add(self, trace: Trace) -> None:
        """Place a VM on the node."""
        self.traces.append(trace)
        self.requested += trace.size
        heapq.heappush(self.departures, (trace.end, trace.size))


def _check_sizes(traces: Iterable[Trace], limit: float) -> None:
    """Refuse VMs that are larger than ``limit`` bytes, what an empty node takes."""
    largest = max(traces, key=lambda trace: trace.size, default=None)
    if largest is not None and largest.size > limit:
        raise PlacementError(
            f"the VM {largest.name} has {human(largest.size)}, and a node takes VMs of at most {human(limit)} at this "
            "ratio: choose larger nodes, or leave the VM out"
        )
