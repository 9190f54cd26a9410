"""NodeCgroup: a cgroup with a memory limit, which makes part of this machine a node with less memory."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .errors import LabError

_MOUNTS = Path("/proc/self/mountinfo")
_EMPTY_SECONDS = 10.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """The directories where this machine's cgroups are mounted.

    Attributes:
        memory: Of the cgroup v1 memory controller; None if `unified` accounts memory.
        unified: Of cgroup v2, the only one that reports the pressure of a cgroup; None if there is none.
    """

    memory: Path | None
    unified: Path | None

    @classmethod
    def find(cls, mounts: str | None = None) -> Self:
        """Find the mounts of this machine, or those in the text of a mountinfo file."""
        memory = unified = None
        for line in (_MOUNTS.read_text() if mounts is None else mounts).splitlines():
            before, _, after = line.partition(" - ")
            point, (kind, _, options) = Path(before.split()[4]), after.split()
            if kind == "cgroup2":
                unified = unified or point
            elif kind == "cgroup" and "memory" in options.split(","):
                memory = memory or point
        return cls(memory, unified)

    def directories(self, name: str) -> tuple[Path, ...]:
        """Return the directories of the cgroup with that name, one for each hierarchy."""
        return tuple(root / name for root in (self.memory, self.unified) if root)


@dataclass(frozen=True, slots=True)
class NodeCgroup:
    """A cgroup whose memory limit is the memory of a lab node.

    With cgroup v1, it is two cgroups of the same name: one with the limit, and one in the unified hierarchy, for the
    pressure. Nothing is swapped, as on KubeVirt's nodes, which have no swap.

    Attributes:
        memory: The directory with the limit and the usage, v1 or v2.
        unified: The directory with memory.pressure: `memory` itself with v2; None without cgroup v2.
        version: 1 or 2, of `memory`.
    """

    memory: Path
    unified: Path | None
    version: int

    @classmethod
    def create(cls, name: str, memory_bytes: int, hierarchies: Hierarchies | None = None) -> Self:
        """Create the cgroup, with a limit in bytes.

        Raises:
            LabError: No cgroups are mounted, or this machine lets nobody create one.
        """
        found = hierarchies or Hierarchies.find()
        try:
            if found.memory:
                cgroup = cls(found.memory / name, found.unified / name if found.unified else None, 1)
            elif found.unified:
                _delegate_memory(found.unified)
                cgroup = cls(found.unified / name, found.unified / name, 2)
            else:
                raise LabError("the guest lab needs cgroups, and none are mounted")
            for directory in cgroup.directories:
                directory.mkdir()
            cgroup._set_limit(memory_bytes)
        except OSError as error:
            raise LabError(f"the guest lab cannot make a cgroup with a memory limit: {error}") from error
        return cgroup

    @property
    def directories(self) -> tuple[Path, ...]:
        """The directories whose cgroup.procs must list each process of the node."""
        return tuple(dict.fromkeys(path for path in (self.memory, self.unified) if path))

    @property
    def psi_path(self) -> Path | None:
        """The file with the memory pressure (PSI) of the cgroup; None if this machine has none."""
        path = self.unified / "memory.pressure" if self.unified else None
        return path if path and path.exists() else None

    def usage_bytes(self) -> int:
        """Return the memory that the node's processes use, their page cache included, in bytes."""
        return int((self.memory / ("memory.usage_in_bytes" if self.version == 1 else "memory.current")).read_text())

    def used_bytes(self) -> int:
        """Return the usage in bytes, without page cache of files: the kernel drops that before it kills a process."""
        lines = (self.memory / "memory.stat").read_text().splitlines()
        counts = {name: int(value) for name, value in map(str.split, lines)}
        prefix = "total_" if self.version == 1 else ""
        return self.usage_bytes() - counts[f"{prefix}active_file"] - counts[f"{prefix}inactive_file"]

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed because the limit was reached."""
        text = (self.memory / ("memory.oom_control" if self.version == 1 else "memory.events")).read_text()
        counts = dict(line.split() for line in text.splitlines())
        return int(counts["oom_kill"])

    def remove(self) -> None:
        """Kill the processes that are still in the cgroup, and remove it.

        Raises:
            LabError: The processes do not end.
        """
        for directory in self.directories:
            remove_cgroup(directory)

    def _set_limit(self, memory_bytes: int) -> None:
        if self.memory == self.unified:
            (self.memory / "memory.max").write_text(str(memory_bytes))
            swap, limit = self.memory / "memory.swap.max", 0
        else:
            (self.memory / "memory.limit_in_bytes").write_text(str(memory_bytes))
            swap, limit = self.memory / "memory.memsw.limit_in_bytes", memory_bytes
        if swap.exists():
            swap.write_text(str(limit))


def remove_cgroup(directory: Path) -> None:
    """Kill the processes in a cgroup, and remove it; do nothing if there is no such cgroup.

    Raises:
        LabError: The processes do not end within ten seconds.
    """
    deadline = time.monotonic() + _EMPTY_SECONDS
    while directory.exists():
        with suppress(OSError):  # processes that were killed have not ended yet
            directory.rmdir()
            return
        if time.monotonic() > deadline:
            raise LabError(f"processes in {directory} do not end")
        with suppress(FileNotFoundError):
            for pid in map(int, (directory / "cgroup.procs").read_text().split()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _delegate_memory(root: Path) -> None:
    """Enable the memory controller for children of the root cgroup (v2)."""
    control = root / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        control.write_text("+memory")
