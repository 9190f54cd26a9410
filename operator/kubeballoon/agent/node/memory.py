"""The node's memory and how much its tasks wait for it, read from the kernel."""

from __future__ import annotations

import logging
import os
import re
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.core.memory.node_state import MemoryStall

_log = logging.getLogger(__name__)

_ALARM = b"full 200000 2000000\0"
"""What the kernel wakes us for: all tasks waited for memory during 200 ms of 2 s, the shortest window there is."""

ALARMED = 4.0
"""Seconds for which such an alarm counts: two windows, for the kernel tells once a window while the stall goes on."""

_ALARM_FULL = 10.0  # percent of the time: what the alarm means

_UNLIMITED = 1 << 60  # bytes; a cgroup without a limit says something beyond this, or "max"


class HostError(Exception):
    """The kernel does not tell; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The node's memory now, in bytes, and its stall in percent."""

    total: int
    available: int
    stall: MemoryStall


class HostMemoryReader:
    """Reads the node's memory, or that of a cgroup that stands for the node."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None) -> None:
        """Read from ``proc``; ``cgroup``, of version 1 or 2, limits what counts as the node."""
        self._proc = proc
        self._cgroup = cgroup
        self._alarmed_at = -ALARMED

    def memory(self) -> HostMemory:
        """The memory now.

        Raises:
            HostError: a file is missing or says something else than memory.
        """
        try:
            total, available = self._machine() if self._cgroup is None else self._group(self._cgroup)
            return HostMemory(total, available, self._stall())
        except (OSError, KeyError, ValueError) as error:
            raise HostError(f"the node's memory cannot be read: {error}") from error

    def alarm(self, raised: Callable[[], object]) -> None:
        """Have ``raised`` called, in a thread of its own, as soon as the node's tasks stall for memory.

        Without that the node is only looked at now and then: a kernel that cannot tell is worth a line in the log.
        """
        try:
            descriptor = os.open(self._pressure, os.O_RDWR | os.O_NONBLOCK)
            os.write(descriptor, _ALARM)
        except OSError as error:
            _log.info("no alarm when tasks stall for memory, only looks: %s", error)
            return
        threading.Thread(target=self._listen, args=(descriptor, raised), name="stall alarm", daemon=True).start()

    def _listen(self, descriptor: int, raised: Callable[[], object]) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)
        while not any(events & select.POLLERR for _, events in poll.poll()):  # an error: its cgroup is gone
            self._alarmed_at = time.monotonic()
            raised()
        os.close(descriptor)

    @property
    def _pressure(self) -> Path:
        return self._proc / "pressure/memory" if self._cgroup is None else _pressure_file(self._cgroup)

    def _machine(self) -> tuple[int, int]:
        fields = _table(self._proc / "meminfo")
        return fields["MemTotal"] * 1024, fields["MemAvailable"] * 1024

    def _group(self, cgroup: Path) -> tuple[int, int]:
        """Total and available of a cgroup: its limit, and what is unused of it or could be dropped.

        File pages count as available, for they are given up before anything is killed; but for those that cannot be.
        """
        machine, _ = self._machine()
        if (cgroup / "memory.max").exists():
            text = (cgroup / "memory.max").read_text().strip()
            limit = _UNLIMITED if text == "max" else int(text)
            used, prefix = int((cgroup / "memory.current").read_text()), ""
        else:
            limit = int((cgroup / "memory.limit_in_bytes").read_text())
            used, prefix = int((cgroup / "memory.usage_in_bytes").read_text()), "total_"
        counts = _table(cgroup / "memory.stat")
        droppable = counts[f"{prefix}active_file"] + counts[f"{prefix}inactive_file"]
        total = min(limit, machine)
        return total, max(0, min(total, total - used + droppable))

    def _stall(self) -> MemoryStall:
        """The stall; none where the kernel keeps no account of it. An alarm tells sooner than the average does."""
        if not self._pressure.exists():
            return MemoryStall()
        averages = dict(re.findall(r"^(some|full) avg10=([0-9.]+)", self._pressure.read_text(), re.MULTILINE))
        alarmed = _ALARM_FULL if time.monotonic() - self._alarmed_at < ALARMED else 0.0
        return MemoryStall(some=float(averages.get("some", 0)), full=max(alarmed, float(averages.get("full", 0))))


def _table(path: Path) -> dict[str, int]:
    """A file of names and numbers, such as meminfo or memory.stat."""
    return {name: int(value) for name, value in re.findall(r"^(\w+):?\s+(\d+)", path.read_text(), re.MULTILINE)}


def _pressure_file(cgroup: Path) -> Path:
    """Where a cgroup's stall is: beside it, or with version 1 at the same place in the unified hierarchy."""
    if (cgroup / "memory.pressure").exists():
        return cgroup / "memory.pressure"
    parts = cgroup.parts
    if "memory" in parts:
        index = parts.index("memory")
        return Path(*parts[:index], "unified", *parts[index + 1 :], "memory.pressure")
    return cgroup / "memory.pressure"
