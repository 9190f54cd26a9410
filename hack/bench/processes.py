"""What a process has used so far, by the kernel's count."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """A ProcessUsage is what a process has used so far: processor seconds, and resident bytes."""

    seconds: float
    resident: int

    @classmethod
    def read(cls, pid: int) -> Self:
        """Read what a process has used so far."""
        # The command's name, in parentheses, may hold spaces: fields are counted from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))
