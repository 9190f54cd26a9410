"""Made-up workloads for benchmarks and tests: the same seed makes the same workload."""

from __future__ import annotations

import numpy as np

from kubeballoon.core.units import GIB
from kubeballoon.replay.traces import Workload, step_trace

DAY = 86_400.0

_DISK_RATE = 4096.0  # of guests that are idle most of the time, bytes a second

BOOT_STORM_AT = 600.0
"""When the VMs of ``boot_storm`` all boot, seconds."""


def diurnal(vms: int, *, days: float = 1.0, step: float = 300.0, seed: int = 1) -> Workload:
    """Make VMs with office hours: a daily swing of each VM's own height and hour, noise, and a batch job now and then.

    Sizes are 2 to 32 GiB; a VM works with a tenth to a half of its memory, with up to 95 % in a batch job.

    Args:
        vms: how many.
        days: how long the workload lasts.
        step: seconds between two changes of demand.
        seed: of everything that is drawn at random.
    """
    draw = np.random.default_rng(seed)
    times = np.arange(0.0, days * DAY, step)
    traces = []
    for index in range(vms):
        size = int(draw.choice([2, 4, 8, 16, 32], p=[0.2, 0.35, 0.25, 0.15, 0.05])) * GIB
        base, swing, noise = draw.uniform(0.1, 0.25), draw.uniform(0.0, 0.25), draw.normal(0, 0.02, len(times))
        peak = draw.normal(14, 2) / 24 * DAY
        demand = base + swing * (1 + np.cos(2 * np.pi * (times - peak) / DAY)) / 2 + noise
        for _ in range(draw.poisson(2 * days)):
            start = draw.uniform(0, days * DAY)
            job = (times >= start) & (times < start + draw.exponential(3600))
            demand[job] = draw.uniform(0.6, 0.95)
        traces.append(step_trace(f"vm{index}", size, times, (demand * size).astype(np.int64)))
    return Workload(tuple(traces), days * DAY)


def daily_job(vms: int, *, days: int = 1, size: int = 4 * GIB, seed: int = 1) -> Workload:
    """Make VMs that are idle, but for a job of a quarter of an hour that all begin shortly after 14:00 on each day.

    A VM works with 15 to 25 % of its memory while it is idle, and with 50 to 65 % during the job.

    Args:
        vms: how many.
        days: how long the workload lasts.
        size: the memory of each VM, bytes.
        seed: of everything that is drawn at random.
    """
    draw = np.random.default_rng(seed)
    traces = []
    for index in range(vms):
        idle, busy = (int(draw.uniform(*shares) * size) for shares in ((0.15, 0.25), (0.5, 0.65)))
        times, demand = [0.0], [idle]
        for day in range(days):
            begin = day * DAY + 14 * 3600.0 + 300.0 * int(draw.integers(2))
            times += [begin, begin + 900.0]
            demand += [busy, idle]
        traces.append(step_trace(f"vm{index}", size, times, demand, _DISK_RATE))
    return Workload(tuple(traces), days * DAY)


def surge(
    vms: int, *, size: int = 4 * GIB, idle: float = 0.3, part: float = 0.2, peak: float = 0.85, seconds: float = 3600.0
) -> Workload:
    """Make idle VMs of which some, evenly spread, demand much more in the second third of the time.

    Args:
        vms: how many.
        size: the memory of each VM, bytes.
        idle: the share of its size that an idle VM demands.
        part: the share of the VMs that demand more.
        peak: the share of its size that such a VM then demands.
        seconds: how long the workload lasts.
    """
    low, high = int(idle * size), int(peak * size)
    traces = []
    for index in range(vms):
        surges = int((index + 1) * part) > int(index * part)
        times, demand = ([0.0, seconds / 3, seconds * 2 / 3], [low, high, low]) if surges else ([0.0], [low])
        traces.append(step_trace(f"vm{index}", size, times, demand))
    return Workload(tuple(traces), seconds)


def boot_storm(vms: int, *, size: int = 8 * GIB, seconds: float = 1800.0) -> Workload:
    """Make VMs that boot at ``BOOT_STORM_AT``, and work hard until their services run.

    Before and after, each demands a fifth of its size; for three minutes of the boot, half of it.

    Args:
        vms: how many.
        size: the memory of each VM, bytes.
        seconds: how long the workload lasts.
    """
    times, demand = [0.0, BOOT_STORM_AT, BOOT_STORM_AT + 180.0], [size // 5, size // 2, size // 5]
    return Workload(tuple(step_trace(f"vm{index}", size, times, demand) for index in range(vms)), seconds)


CONTENDED_FROM = 600.0
"""When the demands of ``contended`` come to exceed the node's memory, seconds."""


CLAIM_SECONDS = 180.0
"""For how long the demand of a VM of ``claimed_minimums`` rises until it is what the VM is guaranteed, seconds."""


def contended(vms: int, *, busy: float = 0.75, size: int = 8 * GIB, seconds: float = 1200.0) -> Workload:
    """Make VMs that demand a quarter of their size at first, and ``busy`` of it, 0 to 1, from ``CONTENDED_FROM`` on."""
    times, demand = [0.0, CONTENDED_FROM], [size // 4, int(busy * size)]
    return Workload(tuple(step_trace(f"vm{index}", size, times, demand) for index in range(vms)), seconds)


def claimed_minimums(busy_vms: int, claiming_vms: int, *, size: int = 8 * GIB, seconds: float = 1200.0) -> Workload:
    """Make VMs that always demand 7/8 of their size, and others that come to demand half of theirs.

    The others, named ``claims…``, are to start at ``CONTENDED_FROM``; their demand rises for ``CLAIM_SECONDS``.
    """
    busy = [step_trace(f"busy{index}", size, [0.0], [size * 7 // 8]) for index in range(busy_vms)]
    steps = range(20)
    times = [0.0, *(CONTENDED_FROM + CLAIM_SECONDS * step / len(steps) for step in steps[1:])]
    demand = [size // 2 * (step + 1) // len(steps) for step in steps]
    claiming = [step_trace(f"claims{index}", size, times, demand) for index in range(claiming_vms)]
    return Workload((*busy, *claiming), seconds)
