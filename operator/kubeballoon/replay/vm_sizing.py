"""This module finds VMs that are too large or too small for what they work with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubeballoon.core.units import GIB, MIB
from kubeballoon.replay.minimums import usage_percentile
from kubeballoon.replay.traces import Trace, natural_order
from kubeballoon.replay.vm_history import VMHistory

_PEAK = 99  # percent of the time
_BUSY = 95
_TOO_LARGE = 0.5  # of its size: a VM whose peak, with room to spare, is below this is too large
_TOO_SMALL = 0.9  # of its size: a VM that works with more for 5 % of the time is too small
_SWAPPING = 0.05  # of the time: a VM that reads from swap for longer is too small
_ROOM = 1.25  # how many times its peak a VM is to have


@dataclass(frozen=True, slots=True)
class SizeAdvice:
    """A SizeAdvice says that a VM has too much memory, or too little.

    Attributes:
        vm: its namespace and name, or the name of its file.
        size: what it has, bytes.
        peak: what it works with for 99 % of the time at most, bytes.
        swapping: the share of the time in which it read from swap, 0 to 1.
        suggested: what to give it, bytes.
    """

    vm: str
    size: int
    peak: int
    swapping: float
    suggested: int

    @property
    def too_large(self) -> bool:
        """Whether it has too much."""
        return self.suggested < self.size

    def to_json(self) -> dict[str, Any]:
        """Return it as scripts read it; keys are stable."""
        return {
            "vm": self.vm,
            "verdict": "TooLarge" if self.too_large else "TooSmall",
            "size_bytes": self.size,
            "peak_bytes": self.peak,
            "swapping_share": self.swapping,
            "suggested_bytes": self.suggested,
        }


def size_advice(history: VMHistory) -> list[SizeAdvice]:
    """Find the VMs that are too large or too small, those first whose size is off most.

    VMs whose guests never reported are left out: nobody knows what they need.
    """
    by_vm: dict[str, list[Trace]] = {}
    for trace in history.workload.traces:
        by_vm.setdefault(history.owners.get(trace.name, trace.name), []).append(trace)
    advice = [
        found
        for vm, traces in sorted(by_vm.items(), key=lambda item: natural_order(item[0]))
        if vm not in history.silent
        and (found := _judge(vm, traces, history.workload.seconds, history.swapping)) is not None
    ]
    return sorted(advice, key=lambda each: -abs(each.size - each.suggested))


def _judge(vm: str, traces: Sequence[Trace], seconds: float, swapping: Mapping[str, float]) -> SizeAdvice | None:
    size = max(trace.size for trace in traces)
    peak = int(usage_percentile(traces, _PEAK, seconds) * size)
    swaps = swapping.get(vm, 0.0)
    if usage_percentile(traces, _BUSY, seconds) >= _TOO_SMALL or swaps > _SWAPPING:
        return SizeAdvice(vm, size, peak, swaps, _rounded(_ROOM * size))
    suggested = _rounded(_ROOM * peak)
    return SizeAdvice(vm, size, peak, swaps, suggested) if suggested < _TOO_LARGE * size else None


def _rounded(size: float) -> int:
    """Round up to whole GiB, below 4 GiB to 256 MiB."""
    unit = GIB if size > 4 * GIB else 256 * MIB
    return math.ceil(size / unit) * unit
