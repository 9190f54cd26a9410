"""This module reads from the kernel how busy the node's processors are."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.agent.node.memory import HostError
from kubeballoon.core.processors.model import ProcessorPressure

_WINDOW = 10.0  # seconds: the time constant of the usage's average, the same as of the kernel's average of the stall
_IDLE, _IOWAIT = 3, 4  # the indices of these fields in a line of /proc/stat


@dataclass(frozen=True, slots=True)
class HostProcessors:
    """HostProcessors are the node's processors at one moment.

    Attributes:
        count: how many the node has.
        pressure: how busy they are.
    """

    count: int
    pressure: ProcessorPressure


@dataclass(frozen=True, slots=True)
class _Ticks:
    """_Ticks are what the kernel has counted since it booted.

    Attributes:
        busy: the time in which processors worked.
        total: all time of all processors.
        at: when that was read, seconds.
    """

    busy: int
    total: int
    at: float


class HostProcessorReader:
    """A HostProcessorReader reads the node's processors; it knows their usage from the second reading on."""

    def __init__(self, proc: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        """Read from ``proc``; ``clock`` gives seconds."""
        self._proc = proc
        self._clock = clock
        self._last: _Ticks | None = None
        self._usage = 0.0

    def read(self) -> HostProcessors:
        """Read the processors now.

        Raises:
            HostError: a file is missing, or is not as the kernel writes it.
        """
        try:
            lines = (self._proc / "stat").read_text().splitlines()
            ticks = self._ticks([int(field) for field in lines[0].split()[1:9]])
            count = sum(1 for line in lines if re.match(r"cpu\d", line))
            stall = self._stall()
        except (OSError, ValueError, IndexError) as error:
            raise HostError(f"the node's processors cannot be read: {error}") from error
        self._average(ticks)
        return HostProcessors(count, ProcessorPressure(stall, self._usage))

    def _ticks(self, fields: list[int]) -> _Ticks:
        total = sum(fields)
        return _Ticks(total - fields[_IDLE] - fields[_IOWAIT], total, self._clock())

    def _average(self, ticks: _Ticks) -> None:
        """Take what was counted since the last reading into the usage's average."""
        before, self._last = self._last, ticks
        if before is None or ticks.total <= before.total:
            return
        now = 100 * (ticks.busy - before.busy) / (ticks.total - before.total)
        weight = math.exp(-(ticks.at - before.at) / _WINDOW)
        self._usage = max(0.0, min(100.0, now + (self._usage - now) * weight))

    def _stall(self) -> float:
        """Read the stall in percent; 0 where the kernel does not measure it."""
        path = self._proc / "pressure/cpu"
        if not path.exists():
            return 0.0
        match = re.search(r"^some avg10=([0-9.]+)", path.read_text(), re.MULTILINE)
        return float(match[1]) if match else 0.0
