"""What a replay counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from kubeballoon.core.units import GIB

_GIB_HOUR = GIB * 3600.0


@dataclass(frozen=True, slots=True)
class ReplayTotals:
    """What one node saw, or several together.

    Attributes:
        demand: memory demanded, byte-seconds.
        unmet: of that, what the guests did not hold or the node could not back, byte-seconds.
        exhaustions: how often VMs began to use more than the node's memory.
        moved: bytes by which balloons grew or shrank.
        direction_changes: how often a VM's target rose after it had last fallen, or fell after it had last risen.
        below_min_seconds: time VMs held less than they are guaranteed, seconds times VMs.
    """

    demand: float = 0.0
    unmet: float = 0.0
    exhaustions: int = 0
    moved: float = 0.0
    direction_changes: int = 0
    below_min_seconds: float = 0.0

    @classmethod
    def total(cls, tallies: Iterable[ReplayTotals]) -> ReplayTotals:
        """The sum of each count."""
        each = list(tallies)
        return cls(*(sum(getattr(tally, field.name) for tally in each) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class StrategyRun:
    """One strategy at one overcommit ratio, on all nodes; ``seconds`` of time were simulated."""

    strategy: str
    overcommit: float
    nodes: int
    vms: int
    tally: ReplayTotals
    seconds: float

    @property
    def unmet_share(self) -> float:
        """The part of the demand that was not met, 0 to 1."""
        return self.tally.unmet / self.tally.demand if self.tally.demand else 0.0

    @property
    def saved_share(self) -> float:
        """The part of the VMs' memory that nodes do without, 0 to 1; a node that is not full counts in part."""
        return max(0.0, 1 - 1 / self.overcommit)

    def to_json(self) -> dict[str, Any]:
        """The run as scripts read it; keys are stable."""
        tally = self.tally
        return {
            "strategy": self.strategy,
            "overcommit": self.overcommit,
            "nodes": self.nodes,
            "vms": self.vms,
            "demand_gib_hours": tally.demand / _GIB_HOUR,
            "unmet_gib_hours": tally.unmet / _GIB_HOUR,
            "unmet_share": self.unmet_share,
            "exhaustions": tally.exhaustions,
            "moved_gib": tally.moved / GIB,
            "direction_changes": tally.direction_changes,
            "below_min_seconds": tally.below_min_seconds,
            "seconds": self.seconds,
        }
