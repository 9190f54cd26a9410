"""This module estimates demand: how much memory a guest works with, from its own statistics.

The need is the largest of a fast average, a slow average and the present, as ESX estimates active memory (Waldspurger,
OSDI 2002, section 5.3). So it rises at once and falls slowly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from kubeballoon.core.units import MIB

MAJOR_FAULTS_IN_TROUBLE = 200.0  # a second; a guest starting programs stays below, a thrashing one is far above
SWAP_IN_TROUBLE = 1 * MIB  # bytes a second read back from swap: idle pages only leave, so these are refaults
_PLENTY_DIVISOR = 8  # what a guest could spare is plenty from 1/8 of what it has: four times its margin
_RECOVERED_DIVISOR = 4  # for a guest in trouble from 1/4: less does not last until swapped memory is read back
_CONCLUSIVE_MOVE = 16 * MIB  # bytes: a balloon that moved less does not show whether `available` moves with it


class GuestStatistics(NamedTuple):
    """GuestStatistics are what a guest's balloon driver reports, in bytes and counts; None if it does not say.

    Attributes:
        actual: what the balloon leaves the guest now: its size less the balloon.
        updated: when the guest last reported, seconds.
        usable: what the guest could use without swapping (MemAvailable).
        unused: what nothing uses at all (MemFree).
        available: all memory that the guest's kernel manages (MemTotal).
        disk_caches: what caches use, and could be reclaimed quickly.
        swap_in: bytes read back from swap since the guest booted.
        swap_out: bytes written to swap since the guest booted.
        major_faults: faults since the guest booted that had to wait for a disk.
        actual_at_report: what the balloon left the guest when it reported; None if ``actual`` is the best guess.
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
    """A Need is the estimate of what a guest works with.

    Attributes:
        present: what the guest works with by its latest statistics alone, bytes.
        fast: the fast average, bytes.
        slow: the slow average, bytes.
        updated: when the guest reported its latest statistics, seconds.
        troubled: whether the guest swaps in, or refaults, because it lacks memory.
        swapped: what the guest has swapped out in this trouble and not read back, bytes. It works with that too.
        swap_growth: by how much ``swapped`` grew since the statistics before, bytes.
        growth: by how much ``present`` grew since the statistics before, bytes; 0 where it fell.
        held: what the balloon left the guest when it reported, bytes; None if that is not known.
    """

    present: int
    fast: float
    slow: float
    updated: float
    troubled: bool = False
    swapped: int = 0
    swap_growth: int = 0
    growth: int = 0
    held: int | None = None

    @property
    def value(self) -> int:
        """The guest's need in bytes: the largest of the three.

        A guest in trouble may have swapped out as much again by its next report, so that counts beforehand.
        """
        return max(self.present + self.swap_growth, int(self.fast), int(self.slow))


def present_need(stats: GuestStatistics) -> int | None:
    """Return the memory that a guest could not do without when it reported, in bytes; None if that is not known.

    It is what the balloon left the guest less what the guest could spare. That is right with autodeflate and without:
    a balloon shrinks ``usable`` either way.
    """
    spare = stats.usable
    if spare is None:
        # Linux before 4.6 has no MemAvailable; half of the caches is what it would count as usable.
        if stats.unused is None:
            return None
        spare = stats.unused + (stats.disk_caches or 0) // 2
    return max(0, _held(stats) - spare)


def _held(stats: GuestStatistics) -> int:
    """Return what the balloon left a guest when it reported, in bytes."""
    return stats.actual if stats.actual_at_report is None else stats.actual_at_report


@dataclass(frozen=True, slots=True)
class BalloonCalibration:
    """A BalloonCalibration works out what the balloon left a guest at the time of the guest's last report.

    A guest's report is up to seconds old, whereas ``actual`` is live. Without autodeflate a guest's ``available`` falls
    and rises with its balloon. Once it has been seen while the balloon stood still, it tells where the balloon was at
    every later report. With autodeflate it stays the same, and only reports made while the balloon stood still can be
    used.

    Attributes:
        size: the guest's size, bytes.
        actual: what the balloon left the guest when last seen, bytes.
        still_since: since when that has not changed, seconds.
        full_available: what ``available`` is without a balloon, bytes; None until that is known.
        last_report: ``available`` in the last report, and ``actual`` when that report was first seen, bytes.
        reported_at: the time of that report, seconds.
        autodeflate: whether the balloon was seen to move while ``available`` did not.
    """

    size: int = 0
    actual: int = 0
    still_since: float = 0.0
    full_available: int | None = None
    last_report: tuple[int, int] | None = None
    reported_at: float = -math.inf
    autodeflate: bool = False

    def observe(self, stats: GuestStatistics, size: int, now: float) -> BalloonCalibration:
        """Return the calibration after the guest of ``size`` bytes was sampled once more, at ``now`` seconds."""
        if size != self.size or now < self.still_since:  # hotplug, or the clock was set back: what is known is void
            return BalloonCalibration(size, stats.actual, now, autodeflate=self.autodeflate and size == self.size)
        if stats.updated > self.reported_at and stats.available is not None:
            return self._read_report(stats.available, stats.actual, stats.updated).observe(stats, size, now)
        if stats.actual != self.actual:
            return replace(self, actual=stats.actual, still_since=now)
        # Reports are dated in whole seconds, rounded down, so this one was made after the balloon had stopped.
        if stats.available is not None and stats.updated > self.still_since:
            return replace(self, full_available=stats.available + size - stats.actual)
        return self

    def _read_report(self, available: int, actual: int, reported_at: float) -> BalloonCalibration:
        """Return the calibration after a new report.

        ``self.actual`` is still from the sample before: the report shows the balloon there rather than at ``actual``.
        """
        autodeflate = self.autodeflate
        if self.last_report is not None and abs(self.last_report[1] - self.actual) >= _CONCLUSIVE_MOVE:
            autodeflate = available == self.last_report[0]
        return replace(self, last_report=(available, actual), reported_at=reported_at, autodeflate=autodeflate)

    def calibrate(self, stats: GuestStatistics) -> GuestStatistics | None:
        """Return the statistics with ``actual_at_report``; None while that cannot be told."""
        if stats.actual_at_report is not None:
            return stats
        if stats.available is None or self.autodeflate:
            return stats if stats.updated > self.still_since else None
        if self.full_available is None:
            return None
        return stats._replace(actual_at_report=self.size - (self.full_available - stats.available))


def update(previous: Need | None, before: GuestStatistics | None, stats: GuestStatistics, window: float) -> Need | None:
    """Take new statistics into the estimate of a guest's need.

    Args:
        previous: the estimate so far, None at first.
        before: the statistics that ``previous`` was made from; None if they are not known any more.
        stats: the new statistics. Statistics of the same time change nothing. If they are older than ``before``, the
            clock was set back, and the estimate begins anew.
        window: time constant of the slow average in seconds; the fast one's is a fifth of it.

    Returns:
        The estimate now; None if the guest does not report what it could spare.
    """
    if before is not None and stats.updated < before.updated:
        previous = before = None
    if previous is not None and stats.updated <= previous.updated:
        return previous
    present = present_need(stats)
    if present is None:
        return None
    if previous is None:
        return Need(present=present, fast=present, slow=present, updated=stats.updated, held=_held(stats))
    elapsed = stats.updated - previous.updated
    troubled = before is not None and _is_troubled(before, stats, elapsed, was_troubled=previous.troubled)
    growth = _swap_growth(before, stats) if before is not None and troubled else 0
    swapped = max(0, previous.swapped + growth) if troubled else 0
    present += swapped
    # What the guest works with now counts at once, so the averages matter only while it falls. After a burst too short
    # to lift the slow average the fast one keeps some of the memory ready for the next. A fifth of the
    # default window is a minute: many reports long, and yet far shorter than the slow average. Nobody measured it.
    return Need(
        present=present,
        fast=_average(previous.fast, present, elapsed, window / 5),
        slow=_average(previous.slow, present, elapsed, window),
        updated=stats.updated,
        troubled=troubled,
        swapped=swapped,
        swap_growth=max(0, growth),
        growth=max(0, present - previous.present),
        held=_held(stats),
    )


def _average(average: float, value: float, elapsed: float, constant: float) -> float:
    """Take a value into an exponentially weighted average, ``elapsed`` seconds after the one before.

    ``constant`` is the average's time constant, seconds.
    """
    return value + (average - value) * math.exp(-elapsed / constant)


def _is_troubled(before: GuestStatistics, stats: GuestStatistics, elapsed: float, *, was_troubled: bool) -> bool:
    """Whether a guest that has little to spare swaps in, or waits for a disk at its faults.

    A guest with plenty to spare does so, too, where it reads files by page faults, as databases and Windows do.
    """
    plenty = stats.actual // (_RECOVERED_DIVISOR if was_troubled else _PLENTY_DIVISOR)
    if stats.usable is not None and stats.usable >= plenty:
        return False
    return (
        counter_growth(before.major_faults, stats.major_faults) > MAJOR_FAULTS_IN_TROUBLE * elapsed
        or counter_growth(before.swap_in, stats.swap_in) > SWAP_IN_TROUBLE * elapsed
    )


def _swap_growth(before: GuestStatistics, stats: GuestStatistics) -> int:
    """Return how much more the guest wrote to swap than it read back since ``before``, in bytes."""
    return counter_growth(before.swap_out, stats.swap_out) - counter_growth(before.swap_in, stats.swap_in)


def counter_growth(before: int | None, now: int | None) -> int:
    """Return by how much a counter grew; 0 where it fell, since then the guest has booted again."""
    return 0 if before is None or now is None or now < before else now - before
