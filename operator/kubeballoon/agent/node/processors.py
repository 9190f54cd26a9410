"""How busy the node's processors are, read from the kernel."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.agent.node.memory import HostError
from kubeballoon.core.processors.model import ProcessorPressure

_WINDOW = 10.0  # seconds; time constant of the usage's average, as that of the kernel's own of the stall
_IDLE, _IOWAIT = 3, 4  # fields of /proc/stat


@dataclass(frozen=True, slots=True)
class HostProcessors:
    """The node's processors now."""

    count: int
    pressure: ProcessorPressure


@dataclass(frozen=True, slots=True)
class _Ticks:
    """What the kernel has counted since it booted."""

    busy: int
    total: int
    at: float


class HostProcessorReader:
    """Reads the node's processors; knows their usage from the second look on."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        """Read from ``proc``; ``clock`` gives seconds."""
        self._proc = proc
        self._clock = clock
        self._before: _Ticks | None = None
        self._usage = 0.0

    def look(self) -> HostProcessors:
        """The processors now.

        Raises:
            HostError: a file is missing or says something else.
        """
        try:
            lines = (self._proc / "stat").read_text().splitlines()
            ticks = self._ticks([int(field) for field in lines[0].split()[1:9]])
            count = sum(1 for line in lines if re.match(r"cpu\d", line))
            stall = self._stall()
        except (OSError, ValueError, IndexError) as error:
            raise HostError(f"the node's processors cannot be read: {error}") from error
        self._take(ticks)
        return HostProcessors(count, ProcessorPressure(stall, self._usage))

    def _ticks(self, fields: list[int]) -> _Ticks:
        total = sum(fields)
        return _Ticks(total - fields[_IDLE] - fields[_IOWAIT], total, self._clock())

    def _take(self, ticks: _Ticks) -> None:
        before, self._before = self._before, ticks
        if before is None or ticks.total <= before.total:
            return
        now = 100 * (ticks.busy - before.busy) / (ticks.total - before.total)
        weight = math.exp(-(ticks.at - before.at) / _WINDOW)
        self._usage = max(0.0, min(100.0, now + (self._usage - now) * weight))

    def _stall(self) -> float:
        """Percent; none where the kernel keeps no account of it."""
        path = self._proc / "pressure/cpu"
        if not path.exists():
            return 0.0
        match = re.search(r"^some avg10=([0-9.]+)", path.read_text(), re.MULTILINE)
        return float(match[1]) if match else 0.0
