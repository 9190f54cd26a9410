"""This module reads from the kernel the node's memory, and how long its tasks wait for memory."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import threading
import time
from collections.abc import Callable, Mapping
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

_PODS_CGROUPS = ("kubepods.slice", "kubepods", "*/*-kubepods.slice", "*/kubepods")
"""Where the kubelet puts all pods, by its cgroup driver, and with a cgroup of its own above (kind, ``cgroupRoot``)."""


class HostError(Exception):
    """A HostError means that the kernel's figures cannot be read; its text is one line for a person."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """HostMemory is the node's memory at one moment, without its pools of hugepages, which only their owners can use.

    Attributes:
        total: what pods may use together, bytes: what the node has, less what the kubelet keeps for the system.
        available: what could be had without swapping, bytes.
        stall: how long tasks waited for memory.
        kubelet_available: what the kubelet takes for available, bytes; None if that is not known.
        capacity: what the kubelet takes for the node's memory, bytes; None if that is the total.
    """

    total: int
    available: int
    stall: MemoryStall
    kubelet_available: int | None = None
    capacity: int | None = None

    @property
    def least_available(self) -> int:
        """What may still be used before the kernel swaps or the kubelet evicts pods, whichever comes first, bytes."""
        return self.available if self.kubelet_available is None else min(self.available, self.kubelet_available)


@dataclass(frozen=True, slots=True)
class _Figures:
    """_Figures are the memory of the machine, or of a cgroup.

    Attributes:
        total: all of it, bytes.
        available: what could be had without swapping, bytes.
        kubelet_available: what the kubelet takes for available, bytes; None if that is not known.
    """

    total: int
    available: int
    kubelet_available: int | None


class HostMemoryReader:
    """A HostMemoryReader reads the node's memory, or that of a cgroup that stands for the node.

    Attributes:
        proc: where the kernel's files are read.
        old_kubelet: whether the node's kubelet is older than 1.29, and so takes less for available.
    """

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None, cgroup_root: Path | None = None) -> None:
        """Read from ``proc``.

        Args:
            proc: where the kernel's files are read.
            cgroup: the cgroup, of version 1 or 2, that stands for the node; None for the machine.
            cgroup_root: where the node's cgroups are mounted, to find that of all pods; None if they are not.
        """
        self.proc = proc
        self.old_kubelet = False
        self._cgroup = cgroup
        self._cgroup_root = cgroup_root
        self._alarmed_at = -_ALARM_LASTS

    def memory(self) -> HostMemory:
        """Read the memory now.

        Raises:
            HostError: a file is missing, or is not as the kernel writes it.
        """
        try:
            table = _table(self.proc / "meminfo")
            machine = _machine(table, old_kubelet=self.old_kubelet)
            node = machine if self._cgroup is None else _group(self._cgroup, machine.total)
            pods = self._pods(machine.total)
            stall = self._stall()
        except (OSError, KeyError, ValueError) as error:
            raise HostError(f"the node's memory cannot be read: {error}") from error
        signals = [figures.kubelet_available for figures in (node, pods) if figures is not None]
        return HostMemory(
            total=node.total if pods is None else min(node.total, pods.total),
            available=node.available,
            stall=stall,
            kubelet_available=min((signal for signal in signals if signal is not None), default=None),
            capacity=table["MemTotal"] * 1024 if self._cgroup is None else None,
        )

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

    def _pods(self, machine: int) -> _Figures | None:
        """Read the memory of all pods; None where the kubelet does not limit it, or that cannot be seen.

        The kubelet limits pods to the node's memory less what it is told to keep for the system. Above its eviction
        threshold below that limit it evicts pods, whatever else the node has free: the node's allocatable ends there.
        """
        if self._cgroup_root is None or self._cgroup is not None:
            return None
        for root in (self._cgroup_root, self._cgroup_root / "memory"):  # version 2, version 1
            for pattern in _PODS_CGROUPS:
                for path in root.glob(pattern):
                    with contextlib.suppress(OSError, KeyError, ValueError):
                        pods = _group(path, machine)
                        return pods if pods.total < machine else None
        return None

    def _stall(self) -> MemoryStall:
        """Read the stall; 0 where the kernel does not measure it. A recent alarm counts before the average does."""
        if not self._pressure.exists():
            return MemoryStall()
        averages = dict(re.findall(r"^(some|full) avg10=([0-9.]+)", self._pressure.read_text(), re.MULTILINE))
        alarmed = _ALARM_FULL if time.monotonic() - self._alarmed_at < _ALARM_LASTS else 0.0
        return MemoryStall(some=float(averages.get("some", 0)), full=max(alarmed, float(averages.get("full", 0))))


def _machine(table: Mapping[str, int], *, old_kubelet: bool) -> _Figures:
    """Find the machine's memory by its meminfo, without pools of hugepages."""
    total = (table["MemTotal"] - table.get("Hugetlb", 0)) * 1024
    return _Figures(total, table["MemAvailable"] * 1024, _kubelet_signal(table, old_kubelet=old_kubelet))


def _kubelet_signal(table: Mapping[str, int], *, old_kubelet: bool) -> int | None:
    """Compute the kubelet's memory.available of a machine by its meminfo, in bytes; None where figures are missing.

    It is the machine's memory less what is used, where pages of files count as used until the kernel has them on its
    inactive list. Since 1.29 (runc 1.1.9, rootStatsFromMeminfo) used is what processes and files use; before, it was
    all that is not free.
    """
    try:
        inactive = table["Inactive(file)"]
        if old_kubelet:
            return (table["MemFree"] + inactive) * 1024
        used = table["AnonPages"] + table["Cached"] + table["Buffers"] + table.get("SwapCached", 0)
    except KeyError:
        return None
    return max(0, table["MemTotal"] - used + inactive) * 1024


def _group(cgroup: Path, machine: int) -> _Figures:
    """Read the memory of a cgroup on a machine of ``machine`` bytes.

    Pages of files on the two LRU lists count as available, because they are dropped before anything is killed; to the
    kubelet only those on the inactive list do.
    """
    if (cgroup / "memory.max").exists():
        text = (cgroup / "memory.max").read_text().strip()
        limit = _UNLIMITED if text == "max" else int(text)
        used, prefix = int((cgroup / "memory.current").read_text()), ""
    else:
        limit = int((cgroup / "memory.limit_in_bytes").read_text())
        used, prefix = int((cgroup / "memory.usage_in_bytes").read_text()), "total_"
    counts = _table(cgroup / "memory.stat")
    inactive = counts[f"{prefix}inactive_file"]
    droppable = counts[f"{prefix}active_file"] + inactive
    total = min(limit, machine)
    return _Figures(total, max(0, min(total, total - used + droppable)), max(0, min(total, total - used + inactive)))


def _table(path: Path) -> dict[str, int]:
    """Read a file of names and numbers, such as meminfo or memory.stat."""
    return {name: int(value) for name, value in re.findall(r"^([\w()]+):?\s+(\d+)", path.read_text(), re.MULTILINE)}


def _pressure_file(cgroup: Path) -> Path:
    """Find the file of a cgroup's stall: in the cgroup, or for version 1 at its path in the unified hierarchy."""
    if (cgroup / "memory.pressure").exists():
        return cgroup / "memory.pressure"
    parts = cgroup.parts
    if "memory" in parts:
        index = parts.index("memory")
        return Path(*parts[:index], "unified", *parts[index + 1 :], "memory.pressure")
    return cgroup / "memory.pressure"
