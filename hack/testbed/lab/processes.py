"""What /proc tells about a pod's processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> Iterator[int]:
    """The living children of a process, their children, and so on."""
    with suppress(OSError):  # it ended meanwhile
        for task in (_PROC / str(pid) / "task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from descendants(child)


def command_line(pid: int) -> list[str]:
    """A process's program and arguments; empty once it has ended."""
    with suppress(OSError):
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def resident_bytes(pid: int) -> int:
    """The memory of the machine that a process has mapped, exactly (statm lags by some pages for each processor).

    Raises:
        OSError: It has ended.
    """
    return _rollup(pid, "Rss")


def proportional_bytes(pid: int) -> int:
    """The same, but of a page that it shares only its share: so pages that KSM has merged count once.

    Raises:
        OSError: It has ended.
    """
    return _rollup(pid, "Pss")


def _rollup(pid: int, name: str) -> int:
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def vcpu_threads(pid: int) -> dict[str, float]:
    """The threads of a QEMU that are processors of its guest, with the seconds each has run."""
    seconds = {}
    for task in (_PROC / str(pid) / "task").iterdir():
        with suppress(OSError):  # it ended meanwhile
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            if name.startswith("CPU "):
                fields = rest.split()
                seconds[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds
