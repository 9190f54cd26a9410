"""This module holds what an administrator sets for the agent: what holds for its node, and for all VMs of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.agent.event_wait import Wait, wait_for
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.wait_times import DEFAULT_TIMING, Timing
from kubeballoon.core.memory.node_state import NodeFacts


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """AgentSettings hold for every VM of the node.

    Attributes:
        pods: the directory in which the kubelet keeps the pods' directories.
        window: the time constant of the slow average of a guest's demand, seconds.
        period: how often guests are to report their statistics, seconds.
        timing: how long the agent's parts wait.
        wait: how the workers of VMs wait.
        wall_clock: gives seconds of the wall clock, by which QEMU dates guests' reports.
    """

    pods: Path
    window: float
    period: int
    timing: Timing = DEFAULT_TIMING
    wait: Wait = wait_for
    wall_clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """NodeSettings say when the node's kubelet evicts pods, as far as no NodePolicy does.

    Attributes:
        eviction: the kubelet's eviction threshold, bytes.
        margin: how far above that threshold state Critical begins at the least, bytes.
        eviction_percent: the kubelet's eviction threshold in percent of the node's capacity; the larger one counts.
        eviction_read: whether the threshold was read from the kubelet's configuration.
    """

    eviction: int
    margin: int
    eviction_percent: float = 0.0
    eviction_read: bool = False

    def facts(self, memory: HostMemory) -> NodeFacts:
        """Say what decides the limits of a node with such memory, besides its policy."""
        capacity = memory.total if memory.capacity is None else memory.capacity
        eviction = max(self.eviction, int(capacity * self.eviction_percent / 100))
        return NodeFacts(memory.total, capacity, eviction, self.margin, self.eviction_read)
