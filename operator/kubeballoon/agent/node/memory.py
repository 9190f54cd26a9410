"""This module reads from the kernel the node's memory, and how long its tasks wait for memory."""

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
"""A PSI trigger: all tasks waited for memory during 200 ms of 2 s, which is the shortest window without privileges."""

_ALARM_LASTS = 4.0
"""Seconds for which an alarm counts: two windows, because the kernel repeats it once a window while the stall lasts."""

_ALARM_FULL = 10.0  # percent: 200 ms of 2 s

_UNLIMITED = 1 << 60  # bytes: more than any machine has; stands for a cgroup's "max"


class HostError(Exception):
    """A HostError means that the kernel's figures cannot be read; its text is one line for a person."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """HostMemory is the node's memory at one moment.

    Attributes:
        total: what the node has, bytes.
        available: what could be had without swapping, bytes.
        stall: how long tasks waited for memory.
    """

    total: int
    available: int
    stall: MemoryStall


class HostMemoryReader:
    """A HostMemoryReader reads the node's memory, or that of a cgroup that stands for the node.

    Attributes:
        proc: where the kernel's files are read.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None) -> None:
        """Read from ``proc``; ``cgroup``, of version 1 or 2, limits what counts as the node."""
        self.proc = proc
        self._cgroup = cgroup
        self._alarmed_at = -_ALARM_LASTS

    def memory(self) -> HostMemory:
        """Read the memory now.

        Raises:
            HostError: a file is missing, or is not as the kernel writes it.
        """
        try:
            total, available = self._machine() if self._cgroup is None else self._group(self._cgroup)
            return HostMemory(total, available, self._stall())
        except (OSError, KeyError, ValueError) as error:
            raise HostError(f"the node's memory cannot be read: {error}") from error

    def alarm(self, raised: Callable[[], object]) -> None:
        """Have ``raised`` called, in a thread of its own, as soon as all of the node's tasks stall for memory.

        Where the kernel offers no such alarm, that is logged, and a stall is noticed at the next regular reading.
        """
        try:
            descriptor = os.open(self._pressure, os.O_RDWR | os.O_NONBLOCK)
            os.write(descriptor, _ALARM)
        except OSError as error:
            _log.info("no alarm when tasks stall for memory, only regular readings: %s", error)
            return
        threading.Thread(target=self._listen, args=(descriptor, raised), name="stall alarm", daemon=True).start()

    def _listen(self, descriptor: int, raised: Callable[[], object]) -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)
        while not any(events & select.POLLERR for _, events in poll.poll()):  # the error means that the cgroup is gone
            self._alarmed_at = time.monotonic()
            raised()
        os.close(descriptor)

    @property
    def _pressure(self) -> Path:
        return self.proc / "pressure/memory" if self._cgroup is None else _pressure_file(self._cgroup)

    def _machine(self) -> tuple[int, int]:
        fields = _table(self.proc / "meminfo")
        return fields["MemTotal"] * 1024, fields["MemAvailable"] * 1024

    def _group(self, cgroup: Path) -> tuple[int, int]:
        """Read total and available of a cgroup, in bytes: its limit, and what is unused of it or could be dropped.

        Pages of files on the two LRU lists count as available, because they are dropped before anything is killed.
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
        """Read the stall; 0 where the kernel does not measure it. A recent alarm counts before the average does."""
        if not self._pressure.exists():
            return MemoryStall()
        averages = dict(re.findall(r"^(some|full) avg10=([0-9.]+)", self._pressure.read_text(), re.MULTILINE))
        alarmed = _ALARM_FULL if time.monotonic() - self._alarmed_at < _ALARM_LASTS else 0.0
        return MemoryStall(some=float(averages.get("some", 0)), full=max(alarmed, float(averages.get("full", 0))))


def _table(path: Path) -> dict[str, int]:
    """Read a file of names and numbers, such as meminfo or memory.stat."""
    return {name: int(value) for name, value in re.findall(r"^(\w+):?\s+(\d+)", path.read_text(), re.MULTILINE)}


def _pressure_file(cgroup: Path) -> Path:
    """Find the file of a cgroup's stall: in the cgroup, or for version 1 at its path in the unified hierarchy."""
    if (cgroup / "memory.pressure").exists():
        return cgroup / "memory.pressure"
    parts = cgroup.parts
    if "memory" in parts:
        index = parts.index("memory")
        return Path(*parts[:index], "unified", *parts[index + 1 :], "memory.pressure")
    return cgroup / "memory.pressure"
