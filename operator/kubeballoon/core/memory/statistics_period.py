"""This module decides how often a guest reports its statistics: each second where it may soon lack memory.

A guest that comes to work with more than it holds lacks the difference until a report of it is seen. One that has much
to spare can grow into that first, and each report costs its node the same.
"""

from __future__ import annotations

from typing import NamedTuple

NEAR_PERCENT = 30
"""Percent of its size below which a guest with that much to spare may soon lack memory.

In a week of 65 recorded VMs, 60 % of what jumps of demand exceeded what guests held came from such guests, 8 % of them
at a time. From guests with less than an eighth to spare came 2 %.
"""

NEAR_PERIOD = 1
"""Seconds between two reports of a guest that may soon lack memory, or is being asked for what it works with.

QEMU takes no less."""

_MISSED_REPORTS = 3  # after so many a guest's statistics count as stale
_LATE_SECONDS = 5  # by which a guest that suffers, or a busy node, may delay each report


class GrowthMargin(NamedTuple):
    """A GrowthMargin is how much a guest can grow before it needs more memory, and whether it could be given more.

    All amounts are bytes.

    Attributes:
        size: the guest's size.
        held: what its balloon leaves it.
        in_use: what it works with at this moment; None while that is not known.
        most: the most that its policy lets it have.
        growth: by how much what it works with grew between its last two reports; it may grow as much until the next.
        reclaims_working_set: whether memory that it works with is being requested.
    """

    size: int
    held: int
    in_use: int | None
    most: int
    growth: int = 0
    reclaims_working_set: bool = False

    @property
    def is_little(self) -> bool:
        """Whether the guest may soon lack memory that it could be given, or is asked for memory that it works with."""
        if self.reclaims_working_set:
            return True
        if self.in_use is None or self.held >= self.most:
            return False
        return (self.held - self.in_use - self.growth) * 100 < self.size * NEAR_PERCENT


def statistics_period(margin: GrowthMargin, base: float) -> float:
    """Return the seconds between two reports of a guest; ``base`` is that for guests that have enough to spare."""
    return min(NEAR_PERIOD, base) if margin.is_little else base


def stale_after(period: float, base: float) -> float:
    """Return after how many seconds without a report a guest's statistics are stale.

    Args:
        period: the seconds between two of its reports.
        base: the period of guests that have enough to spare, seconds.
    """
    return _MISSED_REPORTS * max(period, min(base, _LATE_SECONDS))
