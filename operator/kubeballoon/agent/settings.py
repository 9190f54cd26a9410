"""This module holds what an administrator sets for the agent, and what holds for all VMs of its node."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.agent.wait_times import DEFAULT_TIMING, Timing
from kubeballoon.agent.waiting import Wait, wait_for


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
