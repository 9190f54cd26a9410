"""What /proc tells about a pod's processes."""

from __future__ import annotations

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
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    return 0
