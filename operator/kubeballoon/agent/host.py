"""The node's memory and how much its tasks wait for it, read from the kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.core.state import Stall

_UNLIMITED = 1 << 60  # bytes; a cgroup without a limit says something beyond this, or "max"


class HostError(Exception):
    """The kernel does not tell; the text is one line for a person."""


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The node's memory now, in bytes, and its stall in percent."""

    total: int
    available: int
    stall: Stall


class Host:
    """Reads the node's memory, or that of a cgroup that stands for the node."""

    def __init__(self, proc: Path = Path("/proc"), cgroup: Path | None = None) -> None:
        """Read from ``proc``; ``cgroup``, of version 1 or 2, limits what counts as the node."""
        self._proc = proc
        self._cgroup = cgroup

    def memory(self) -> HostMemory:
        """The memory now.

        Raises:
            HostError: a file is missing or says something else than memory.
        """
        try:
            if self._cgroup is None:
                return HostMemory(*self._machine(), self._stall(self._proc / "pressure/memory"))
            total, available = self._group(self._cgroup)
            return HostMemory(total, available, self._stall(_pressure_file(self._cgroup)))
        except (OSError, KeyError, ValueError) as error:
            raise HostError(f"the node's memory cannot be read: {error}") from error

    def _machine(self) -> tuple[int, int]:
        fields = _table(self._proc / "meminfo")
        return fields["MemTotal"] * 1024, fields["MemAvailable"] * 1024

    def _group(self, cgroup: Path) -> tuple[int, int]:
        """Total and available of a cgroup: its limit, and what is unused of it or could be dropped.

        File pages count as available, for they are given up before anything is killed.
        """
        machine, _ = self._machine()
        if (cgroup / "memory.max").exists():
            text = (cgroup / "memory.max").read_text().strip()
            limit = _UNLIMITED if text == "max" else int(text)
            used, files = int((cgroup / "memory.current").read_text()), "file"
        else:
            limit = int((cgroup / "memory.limit_in_bytes").read_text())
            used, files = int((cgroup / "memory.usage_in_bytes").read_text()), "total_cache"
        counts = _table(cgroup / "memory.stat")
        shmem = counts.get("total_shmem", counts.get("shmem", 0))
        droppable = max(0, counts[files] - shmem)
        total = min(limit, machine)
        return total, max(0, min(total, total - used + droppable))

    def _stall(self, path: Path) -> Stall:
        """The stall; none where the kernel keeps no account of it."""
        if not path.exists():
            return Stall()
        averages = dict(re.findall(r"^(some|full) avg10=([0-9.]+)", path.read_text(), re.MULTILINE))
        return Stall(some=float(averages.get("some", 0)), full=float(averages.get("full", 0)))


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
