"""Recorded traces: whether what VMs needed at the same hour of the days before tells what they will need next.

What guests lack comes from rises beyond what they hold: their balloons give in seconds, and the rest of the rise waits.
So the rises are counted for three ways to hold memory. One is what kubeballoon does: the need and headroom. Another
gives what the hour's shape foretells besides: 24 figures a VM, the highest need within each hour of the day, as the
median or the maximum of the days before. The third has no shape, but as much more headroom as holds the same memory.
A shape is worth its code if rises are clearly fewer than with the third.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hack.testbed.workloads import DAY, diurnal
from kubeballoon.core.units import GIB
from kubeballoon.replay.traces import Workload, read_traces

Floats = npt.NDArray[np.float64]

_STEP = 300.0  # seconds between two samples
_PER_HOUR = round(3600 / _STEP)
_PER_DAY = 24 * _PER_HOUR
_LEARNED_DAYS = 3  # at the least, before anything is foretold
_HEADROOM = 0.1  # of a VM's size
_SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "median": lambda days: np.median(days, axis=1),
    "maximum": lambda days: np.max(days, axis=1),
}


def rows(directory: Path) -> list[dict[str, Any]]:
    """Compare on the traces of a directory, and on made-up VMs that have a daily shape; one row for each way."""
    workloads = {"recorded": read_traces(directory), "made up": diurnal(80, days=7)}
    return [{"workload": name, **row} for name, workload in workloads.items() for row in compare(workload)]


def compare(workload: Workload) -> list[dict[str, Any]]:
    """Count for each way to hold memory what rises beyond it, what is held, and what is moved, on the later days."""
    days = int(workload.seconds // DAY)
    grid = np.arange(0.0, days * DAY, _STEP)
    demands = [trace.demand[np.searchsorted(trace.times, grid, side="right") - 1] for trace in workload.traces]
    need, size = np.stack(demands) / GIB, np.array([[trace.size / GIB] for trace in workload.traces])
    plain = np.minimum(size, need + _HEADROOM * size)
    found = [_count("headroom", need, plain)]
    for name, shape in _SHAPES.items():
        held = np.minimum(size, np.maximum(plain, _foretold(need, shape)))
        found += [
            _count(f"shape, {name}", need, held),
            _count(f"headroom for {name}", need, _as_much(need, size, held)),
        ]
    return found


def _foretold(need: Floats, shape: Callable[[Floats], Floats]) -> Floats:
    """Foretell each VM's need, from what was seen on the days before; 0 on days that come too early for that.

    What is foretold for a time is what the shape has for the hour of the next sample.
    """
    vms, samples = need.shape
    highest = need.reshape(vms, samples // _PER_DAY, 24, _PER_HOUR).max(axis=3)
    foretold = np.zeros_like(need)
    for day in range(_LEARNED_DAYS, samples // _PER_DAY):
        hours = np.repeat(shape(highest[:, :day]), _PER_HOUR, axis=1)
        foretold[:, day * _PER_DAY : (day + 1) * _PER_DAY] = np.roll(hours, -1, axis=1)
    return foretold


def _as_much(need: Floats, size: Floats, held: Floats) -> Floats:
    """Hold the need and one headroom for all VMs, by which as much is held on average, by bisection."""
    low, high, wanted = 0.0, 1.0, _later(held).mean()
    for _ in range(30):
        headroom = (low + high) / 2
        less = _later(np.minimum(size, need + headroom * size)).mean() < wanted
        low, high = (headroom, high) if less else (low, headroom)
    even: Floats = np.minimum(size, need + high * size)
    return even


def _later(values: Floats) -> Floats:
    """Return the part on the days on which anything can be foretold."""
    return values[:, _LEARNED_DAYS * _PER_DAY :]


def _count(way: str, need: Floats, held: Floats) -> dict[str, Any]:
    need, held = _later(need), _later(held)
    beyond = np.maximum(0.0, need[:, 1:] - held[:, :-1])
    return {
        "way": way,
        "rises_beyond": int(np.count_nonzero(beyond)),
        "rises_gib": float(beyond.sum()),
        "held_gib": float(held.sum(axis=0).mean()),
        "moved_gib": float(np.abs(np.diff(held, axis=1)).sum()),
    }
