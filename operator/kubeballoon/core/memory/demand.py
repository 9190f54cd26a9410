"""How much memory a guest works with, estimated from its own statistics.

Demand rises at once and falls slowly: the need is the largest of a fast average, a slow average and now, as ESX
estimates active memory (Waldspurger, OSDI 2002, section 5.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

MAJOR_FAULTS_IN_TROUBLE = 200.0  # a second; a guest starting programs stays below, a thrashing one is far above
_TELLING = 16 << 20  # bytes by which a balloon must have moved to tell whether `available` moves with it
SWAP_IN_TROUBLE = 1 << 20  # bytes a second read back from swap: a refault, not idle pages leaving


class GuestStatistics(NamedTuple):
    """What the balloon driver reports, in bytes and counts; None where the guest's driver does not say.

    Attributes:
        actual: what the balloon leaves the guest now: size minus the balloon.
        usable: what the guest could use without swapping (MemAvailable).
        unused: wholly unused (MemFree).
        disk_caches: what could be had back quickly.
        updated: when the guest last reported, seconds.
        actual_at_report: what the balloon left it when it reported, where that is known better than by ``actual``.
    """

    actual: int
    updated: float
    usable: int | None = None
    unused: int | None = None
    available: int | None = None
    disk_caches: int | None = None
    swap_in: int | None = None
    swap_out: int | None = None
    major_faults: int | None = None
    actual_at_report: int | None = None


class Need(NamedTuple):
    """The estimate so far; all averages in bytes.

    Attributes:
        present: what the guest works with by the latest statistics alone, bytes.
        updated: when the guest reported those statistics, seconds.
        troubled: the guest swaps in, or refaults, for want of memory.
        swapped: what it has swapped out in this trouble and not read back: it works with that as well, bytes.
        ahead: by how much that grew since the sample before, and may grow again until the next one, bytes.
    """

    present: int
    fast: float
    slow: float
    updated: float
    troubled: bool = False
    swapped: int = 0
    ahead: int = 0

    @property
    def value(self) -> int:
        """The need in bytes: the largest of the three, and what a guest in trouble will miss by its next report."""
        return max(self.present + self.ahead, int(self.fast), int(self.slow))


def present_need(stats: GuestStatistics) -> int | None:
    """Memory the guest could not do without at this moment, bytes; None when its statistics do not tell.

    What it holds less what it could spare: a balloon shrinks ``usable`` with autodeflate and without.
    """
    spare = stats.usable
    if spare is None:
        # Linux before 4.6 has no MemAvailable; half of the caches is what it would count as usable.
        if stats.unused is None:
            return None
        spare = stats.unused + (stats.disk_caches or 0) // 2
    return max(0, (stats.actual if stats.actual_at_report is None else stats.actual_at_report) - spare)


@dataclass(frozen=True, slots=True)
class BalloonCalibration:
    """Tells what a guest held when it reported: its figures are older than ``actual``, which is live.

    A guest's ``available`` falls and rises with its balloon, so once it has been seen beside a balloon that stood
    still, it measures the balloon of every later report. With autodeflate it does not: then only reports of a balloon
    that stands still tell.

    Attributes:
        size: the guest's, bytes.
        actual: as last seen, bytes.
        still_since: since when it has stood still, seconds.
        whole: what ``available`` is without a balloon, bytes; None until that was seen.
        before: ``available`` in the last report, and ``actual`` when that was first seen, bytes.
        reported: the time of that report, seconds.
        deflates: whether autodeflate is on: its balloon was seen to move, and ``available`` was not.
    """

    size: int = 0
    actual: int = 0
    still_since: float = 0.0
    whole: int | None = None
    before: tuple[int, int] | None = None
    reported: float = -math.inf
    deflates: bool = False

    def observe(self, stats: GuestStatistics, size: int, now: float) -> BalloonCalibration:
        """The ruler after one more look at the guest, at ``now`` seconds."""
        if size != self.size or now < self.still_since:  # the clock was set back
            return BalloonCalibration(size, stats.actual, now, deflates=self.deflates and size == self.size)
        if stats.updated > self.reported and stats.available is not None:
            return self._read(stats.available, stats.actual, stats.updated).observe(stats, size, now)
        if stats.actual != self.actual:
            return replace(self, actual=stats.actual, still_since=now)
        # Reports are dated in whole seconds, rounded down.
        if stats.available is not None and stats.updated > self.still_since:
            return replace(self, whole=stats.available + size - stats.actual)
        return self

    def _read(self, available: int, actual: int, reported: float) -> BalloonCalibration:
        """The ruler after a new report; until the look before it, the balloon had moved to ``self.actual``."""
        deflates = self.deflates
        if self.before is not None and abs(self.before[1] - self.actual) >= _TELLING:
            deflates = available == self.before[0]
        return replace(self, before=(available, actual), reported=reported, deflates=deflates)

    def calibrate(self, stats: GuestStatistics) -> GuestStatistics | None:
        """The statistics with ``actual_at_report``; None while that cannot be told."""
        if stats.actual_at_report is not None:
            return stats
        if stats.available is None or self.deflates:
            return stats if stats.updated > self.still_since else None
        if self.whole is None:
            return None
        return stats._replace(actual_at_report=self.size - (self.whole - stats.available))


def update(previous: Need | None, before: GuestStatistics | None, stats: GuestStatistics, window: float) -> Need | None:
    """Take a new sample into the estimate.

    Args:
        previous: the estimate so far, None at first.
        before: the sample that ``previous`` was made from; None where it is not known any more.
        stats: the new sample; one of the same time changes nothing, one that is older than ``before`` begins anew: the
            clock was set back.
        window: time constant of the slow average in seconds; the fast one's is a fifth of it.
    """
    if before is not None and stats.updated < before.updated:
        previous = before = None
    if previous is not None and stats.updated <= previous.updated:
        return previous
    present = present_need(stats)
    if present is None:
        return None
    if previous is None:
        return Need(present=present, fast=present, slow=present, updated=stats.updated)
    elapsed = stats.updated - previous.updated
    troubled = before is not None and _troubled(before, stats, elapsed)
    grown = _swapped(before, stats) if before is not None and troubled else 0
    swapped = max(0, previous.swapped + grown) if troubled else 0
    present += swapped
    return Need(
        present=present,
        fast=_average(previous.fast, present, elapsed, window / 5),
        slow=_average(previous.slow, present, elapsed, window),
        updated=stats.updated,
        troubled=troubled,
        swapped=swapped,
        ahead=max(0, grown),
    )


def _average(average: float, sample: float, elapsed: float, constant: float) -> float:
    """Exponentially weighted, for samples at uneven times; ``constant`` in seconds."""
    return sample + (average - sample) * math.exp(-elapsed / constant)


def _troubled(before: GuestStatistics, stats: GuestStatistics, elapsed: float) -> bool:
    return (
        _growth(before.major_faults, stats.major_faults) > MAJOR_FAULTS_IN_TROUBLE * elapsed
        or _growth(before.swap_in, stats.swap_in) > SWAP_IN_TROUBLE * elapsed
    )


def _swapped(before: GuestStatistics, stats: GuestStatistics) -> int:
    """By how much more was written to swap than read back since ``before``, bytes."""
    written, read = _growth(before.swap_out, stats.swap_out), _growth(before.swap_in, stats.swap_in)
    return written - read


def _growth(before: int | None, now: int | None) -> int:
    """By how much a counter grew; one that fell is another boot of the guest."""
    return 0 if before is None or now is None or now < before else now - before
