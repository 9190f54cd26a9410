"""This module sets how a guest is asked for memory that it works with: in small steps, and only as long as it can swap.

A guest that swaps chooses itself which memory it misses least. Nobody can see beforehand whether it can: a balloon
driver reports what was swapped, not how much room there is. So it is asked for a little, and its next report decides.
Memory that it reads back from swap slows and stops that, as in Meta's Senpai.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kubeballoon.core.backoff import Backoff
from kubeballoon.core.memory.demand import GuestStatistics, counter_growth
from kubeballoon.core.memory.model import dead_band
from kubeballoon.core.memory.pacing import TOLERANCE, max_residual
from kubeballoon.core.units import MIB
from kubeballoon.vocabulary import SwapAbility

_SMALLEST_STEP_DIVISOR = 256  # 1/256 of a guest's size is an eighth of its margin
_SMALLEST_STEP = 4 * MIB  # bytes, for guests of any size: with less, memory would not arrive while it is of use
_LARGEST_STEP_DIVISOR = 64  # a step is taken with each report, which comes every second: 1/64 each is a minute for all
_NOTHING_LEFT_DIVISOR = 128  # a guest with less than 1/128 of its size to spare swaps if it can
_REPORTS_WITHOUT_SWAPPING = 2  # a guest may have reported just before it began
_REST_SECONDS = 5.0  # for which a guest that suffers is left alone, if others only have less than their shares
_ABILITY = Backoff(shortest=600.0, longest=14400.0)  # what cannot swap now may later: swap was added, or emptied


@dataclass(frozen=True, slots=True)
class WorkingSetReport:
    """A WorkingSetReport is what decides whether a guest is asked for more that it works with.

    Attributes:
        size: the guest's size, bytes.
        spare: what the guest could give without harm, bytes.
        troubled: whether the guest swaps in, or refaults.
        statistics: the guest's latest statistics.
    """

    size: int
    spare: int
    troubled: bool
    statistics: GuestStatistics


@dataclass(frozen=True, slots=True)
class WorkingSetPace:
    """A WorkingSetPace is how far a guest is being asked for memory that it works with.

    Attributes:
        ability: whether the guest can swap, as far as it was seen.
        limit: the least that may be requested before the guest's next report, bytes; None while nothing is requested
            that the guest works with.
        began_at: what the guest had when it was first asked, bytes; None while it is not.
        step: how far the limit is below what the guest has, bytes.
        wanted_since: since when such memory is wanted, seconds; None while it is not.
        rests_until: until when a guest that suffers is left alone, seconds.
        without_swapping: how many reports in a row showed that the guest gave nothing and did not swap.
        last: the statistics of the guest's last report; None while it is not asked.
        retry: when a guest that cannot swap is tried again.
    """

    ability: SwapAbility = SwapAbility.UNKNOWN
    limit: int | None = None
    began_at: int | None = None
    step: int = 0
    wanted_since: float | None = None
    rests_until: float = 0.0
    without_swapping: int = 0
    last: GuestStatistics | None = None
    retry: Backoff = _ABILITY

    def stopped(self) -> WorkingSetPace:
        """Return the pace while nothing is requested that the guest works with."""
        began_at = self.began_at if self.ability is SwapAbility.UNABLE else None
        return replace(self, limit=None, wanted_since=None, began_at=began_at, last=None)

    def spare(self, actual: int, spare: int | None) -> int | None:
        """Return what may be requested now of a guest that has ``actual`` bytes and could spare ``spare``, bytes."""
        return spare if spare is None or self.limit is None else max(spare, actual - self.limit)

    @property
    def floor(self) -> int:
        """What a guest that cannot swap has back, bytes: what it had before that was tried. Else 0."""
        return self.began_at or 0 if self.ability is SwapAbility.UNABLE else 0


def advance(
    before: WorkingSetPace, report: WorkingSetReport, goal: int, now: float, *, delay: float, urgent: bool
) -> WorkingSetPace:
    """Decide how far a guest may be asked for memory that it works with.

    Args:
        before: the pace so far.
        report: what the guest reported last.
        goal: what the guest is to have in the end, bytes.
        now: the time, seconds.
        delay: for how long the goal must ask for such memory before it is requested, seconds.
        urgent: whether the node is Scarce or Critical, or a VM of it lacks a part of its guaranteed minimum. Then there
            is no delay, and a guest that suffers gets no rest.
    """
    pace = before
    if pace.ability is SwapAbility.UNABLE and now >= pace.retry.until:
        pace = replace(pace, ability=SwapAbility.UNKNOWN, began_at=None)
    actual = report.statistics.actual
    wanted = goal < actual - report.spare - dead_band(report.size)
    if pace.limit is not None:  # once it has begun it goes on to the goal
        wanted = goal < actual - TOLERANCE
    if not wanted:
        return pace.stopped()
    since = now if pace.wanted_since is None else pace.wanted_since
    pace = replace(pace, wanted_since=since)
    if pace.ability is SwapAbility.UNABLE or (now - since < delay and not urgent):
        return pace
    if pace.limit is None or pace.last is None:
        step = _smallest_step(report.size)
        return replace(
            pace, limit=actual - step, step=step, began_at=actual, without_swapping=0, last=report.statistics
        )
    if report.statistics.updated <= pace.last.updated:
        return pace
    return _judge(pace, report, pace.last, now, urgent=urgent)


def _judge(
    pace: WorkingSetPace, report: WorkingSetReport, last: GuestStatistics, now: float, *, urgent: bool
) -> WorkingSetPace:
    """Take the first report since a step: go on, slow down, rest, or find that the guest cannot swap."""
    statistics, size = report.statistics, report.size
    swapped = counter_growth(last.swap_out, statistics.swap_out) > 0
    asked = pace.limit is not None and pace.limit < last.actual - TOLERANCE
    nothing_left = (statistics.usable or 0) < size // _NOTHING_LEFT_DIVISOR
    stuck = statistics.actual > last.actual - TOLERANCE
    without_swapping = pace.without_swapping
    if swapped or asked:
        without_swapping = without_swapping + 1 if not swapped and (nothing_left or stuck) else 0
    if without_swapping >= _REPORTS_WITHOUT_SWAPPING:
        retry = pace.retry.failed(now)
        return replace(pace, ability=SwapAbility.UNABLE, limit=None, retry=retry, last=None)
    pace = replace(
        pace,
        ability=SwapAbility.ABLE if swapped else pace.ability,
        retry=pace.retry.succeeded() if swapped else pace.retry,
        without_swapping=without_swapping,
        last=statistics,
    )
    smallest = _smallest_step(size)
    if now < pace.rests_until and not urgent:
        return pace
    if report.troubled:
        step = max(smallest, pace.step // 2)
        rests_until = now + _REST_SECONDS
    else:
        step = min(max(smallest, size // _LARGEST_STEP_DIVISOR), pace.step * 2)
        rests_until = now
    return replace(pace, step=step, limit=statistics.actual - step, rests_until=rests_until)


def _smallest_step(size: int) -> int:
    """Return the least that is reclaimed at once from a guest of ``size`` bytes; drivers are asked for no less."""
    return max(_SMALLEST_STEP, size // _SMALLEST_STEP_DIVISOR, max_residual(size) + 2 * TOLERANCE)
