"""Reads /proc: a process's children, command line and memory, and the processor threads of a QEMU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> Iterator[int]:
    """Yield the process ids of the living children of a process, of their children, and so on."""
    with suppress(OSError):  # it ended meanwhile
        for task in (_PROC / str(pid) / "task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from descendants(child)


def command_line(pid: int) -> list[str]:
    """Return the program and the arguments of a process; empty if it has ended."""
    with suppress(OSError):
        return (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    return []


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has resident, in bytes; exact, whereas statm lags by some pages a processor.

    Raises:
        OSError: The process has ended.
    """
    return _rolled_up(pid, "Rss")


def proportional_bytes(pid: int) -> int:
    """Return the proportional set size of a process, in bytes: a page that n processes share, as by KSM, counts 1/n.

    Raises:
        OSError: The process has ended.
    """
    return _rolled_up(pid, "Pss")


def _rolled_up(pid: int, name: str) -> int:
    for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def vcpu_threads(pid: int) -> dict[str, float]:
    """Return the processor time, in seconds, of each thread of a QEMU that runs a processor of its guest, by name."""
    seconds = {}
    for task in (_PROC / str(pid) / "task").iterdir():
        with suppress(OSError):  # it ended meanwhile
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            if name.startswith("CPU "):
                fields = rest.split()
                seconds[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds
