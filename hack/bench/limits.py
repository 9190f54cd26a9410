"""What the benchmarks must not exceed: the one place for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Limit:
    """What a figure may be at the most: a number, or another figure of the same row."""

    figure: str
    most: float | str


LIMITS: Mapping[str, tuple[Limit, ...]] = {
    # One node's decision.
    "allocation": (Limit("median_ms", "allowed_ms"),),
    # Eighty VMs for seven days; and what the guests lack, on nodes of 128 GiB.
    "simulation": (Limit("wall_seconds", "allowed_seconds"), Limit("unmet_gib_hours", "allowed_gib_hours")),
    # Fifty VMs while nothing changes, and fewer of real daemons: a heartbeat in the half minute, and nothing else.
    "agent": (Limit("core_percent", 2.0), Limit("resident_mib", 100.0), Limit("writes_per_minute", 2.0)),
    # From a node leaving Ample to being Ample again: once and a half what libvirt alone takes, and a second.
    "reaction": (Limit("kubeballoon_seconds", "allowed_seconds"),),
}


def exceeded(name: str, rows: Rows) -> Iterator[str]:
    """The limits that the rows of a benchmark exceed, a line each; a row without one has none."""
    for row in rows:
        for limit in LIMITS.get(name, ()):
            most = row.get(limit.most) if isinstance(limit.most, str) else limit.most
            if most is not None and row[limit.figure] > most:
                yield f"{name}: {limit.figure} is {row[limit.figure]:.4g}, and may be {most:.4g}"
