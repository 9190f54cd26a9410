"""This module reads how much memory a process has held at most."""

from __future__ import annotations

from pathlib import Path


def peak_memory(pid: int | str = "self") -> int:
    """Return how much memory a process has held at most since its program began, bytes.

    ``getrusage`` does not tell: its figure is never less than what the parent held when it started the process.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (kibibytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kibibytes) << 10
