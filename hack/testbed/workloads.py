"""Workloads made up from a seed, for benchmarks and tests."""

from __future__ import annotations

import numpy as np

from kubeballoon.core.units import GIB
from kubeballoon.replay.traces import Workload, step_trace

DAY = 86_400.0


def diurnal(vms: int, *, days: float = 1.0, step: float = 300.0, seed: int = 1) -> Workload:
    """Office hours and bursts: a daily swing of each VM's own height and hour, noise, and now and then a batch job.

    Sizes are 2 to 32 GiB; a VM works with a tenth to a half of its memory, with up to 95 % in a burst.
    """
    draw = np.random.default_rng(seed)
    times = np.arange(0.0, days * DAY, step)
    traces = []
    for index in range(vms):
        size = int(draw.choice([2, 4, 8, 16, 32], p=[0.2, 0.35, 0.25, 0.15, 0.05])) * GIB
        base, swing, noise = draw.uniform(0.1, 0.25), draw.uniform(0.0, 0.25), draw.normal(0, 0.02, len(times))
        peak = draw.normal(14, 2) / 24 * DAY
        share = base + swing * (1 + np.cos(2 * np.pi * (times - peak) / DAY)) / 2 + noise
        for _ in range(draw.poisson(2 * days)):
            start = draw.uniform(0, days * DAY)
            burst = (times >= start) & (times < start + draw.exponential(3600))
            share[burst] = draw.uniform(0.6, 0.95)
        traces.append(step_trace(f"vm{index}", size, times, (share * size).astype(np.int64)))
    return Workload(tuple(traces), days * DAY)


def surge(
    vms: int, *, size: int = 4 * GIB, idle: float = 0.3, part: float = 0.2, peak: float = 0.85, seconds: float = 3600.0
) -> Workload:
    """Idle VMs of which some, spread evenly, jump to a high demand a third of the way and fall back at two thirds.

    Args:
        vms: how many.
        size: of each, bytes.
        idle: share of its size a VM demands at other times.
        part: share of the VMs that jump.
        peak: share of its size such a VM then demands.
        seconds: length.
    """
    low, high = int(idle * size), int(peak * size)
    traces = []
    for index in range(vms):
        jumps = int((index + 1) * part) > int(index * part)
        times, demand = ([0.0, seconds / 3, seconds * 2 / 3], [low, high, low]) if jumps else ([0.0], [low])
        traces.append(step_trace(f"vm{index}", size, times, demand))
    return Workload(tuple(traces), seconds)
