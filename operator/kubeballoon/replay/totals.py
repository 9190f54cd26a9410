"""This module computes the figures by which strategies are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from kubeballoon.core.units import GIB

_GIB_HOUR = GIB * 3600.0


@dataclass(frozen=True, slots=True)
class ReplayTotals:
    """ReplayTotals are what was counted on one node, or on several nodes together.

    Attributes:
        demand: memory that guests demanded, byte-seconds.
        unmet: the part of it that guests did not hold, or that VMs which were killed did not meet, byte-seconds.
        short_seconds: for how long the node was Scarce or Critical.
        exhaustions: how often a node's free memory fell below the kubelet's eviction threshold.
        exhausted_seconds: for how long it was below.
        killed: how many VMs the kubelet or the kernel killed for that.
        moved: bytes by which balloons grew or shrank.
        direction_changes: how often a VM's target rose after a fall, or fell after a rise.
        migrations: how many VMs were migrated.
        below_min_seconds: time that VMs held less than their guarantee, summed over the VMs, seconds.
    """

    demand: float = 0.0
    unmet: float = 0.0
    exhaustions: int = 0
    exhausted_seconds: float = 0.0
    killed: int = 0
    moved: float = 0.0
    direction_changes: int = 0
    below_min_seconds: float = 0.0
    short_seconds: float = 0.0
    migrations: int = 0

    @classmethod
    def add_up(cls, parts: Iterable[ReplayTotals]) -> ReplayTotals:
        """Add up each figure, in the order of the parts."""
        summands = list(parts)
        return cls(*(sum(getattr(each, field.name) for each in summands) for field in fields(cls)))

    def since(self, before: ReplayTotals) -> ReplayTotals:
        """Return what was counted since ``before``, which was counted up to an earlier time."""
        return ReplayTotals(*(getattr(self, field.name) - getattr(before, field.name) for field in fields(self)))

    @property
    def unmet_share(self) -> float:
        """The share of the demand that was not met, 0 to 1."""
        return self.unmet / self.demand if self.demand else 0.0


@dataclass(frozen=True, slots=True)
class StrategyRun:
    """A StrategyRun is the result of one strategy at one overcommit ratio on all nodes.

    Attributes:
        seconds: how much time was simulated.
    """

    strategy: str
    overcommit: float
    nodes: int
    vms: int
    totals: ReplayTotals
    seconds: float

    @property
    def unmet_share(self) -> float:
        """The share of the demand that was not met, 0 to 1."""
        return self.totals.unmet_share

    @property
    def saved_share(self) -> float:
        """The share of the VMs' memory that nodes need not have, 0 to 1; a node that is not full counts in part."""
        return max(0.0, 1 - 1 / self.overcommit)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as scripts read them; keys are stable."""
        totals = self.totals
        return {
            "strategy": self.strategy,
            "overcommit": self.overcommit,
            "nodes": self.nodes,
            "vms": self.vms,
            "demand_gib_hours": totals.demand / _GIB_HOUR,
            "unmet_gib_hours": totals.unmet / _GIB_HOUR,
            "unmet_share": self.unmet_share,
            "exhaustions": totals.exhaustions,
            "exhausted_seconds": totals.exhausted_seconds,
            "vms_killed": totals.killed,
            "moved_gib": totals.moved / GIB,
            "direction_changes": totals.direction_changes,
            "below_min_seconds": totals.below_min_seconds,
            "short_seconds": totals.short_seconds,
            "migrations": totals.migrations,
            "seconds": self.seconds,
        }
