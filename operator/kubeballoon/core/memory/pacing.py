"""This module sets the pace at which a guest is asked for memory: never faster than it was just seen to give it.

A request is at most one second ahead of the guest, at the rate that the guest has shown. The guest is sampled several
times a second, so one that follows at once shows a higher rate, and one that lags a lower rate (claims 8 and 20 of the
ballooning patent). But no request is for less than a driver may leave undone: from such a request nobody could tell
whether the driver follows. A guest that does not tell what it could spare is asked for nothing. Upward there is no
pacing: memory that a guest needs comes at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kubeballoon.core.backoff import Backoff
from kubeballoon.core.units import MIB

INITIAL_RATE = float(32 * MIB)  # bytes a second: any guest above the absolute floor can try this
MIN_RATE = float(4 * MIB)  # bytes a second: memory still arrives, and no guest feels it
LEAD_SECONDS = 1.0  # by which a request may be ahead of the guest
UNRESPONSIVE_AFTER = 10.0  # seconds without progress
TOLERANCE = 1 * MIB  # bytes: a smaller difference is not worth a request, and may be a driver's rounding
_RESIDUAL_DIVISOR = 256  # 1/256 of a guest's size: drivers round, and some keep a little
_RESIDUAL_LIMIT = 16 * MIB  # bytes, for guests of any size


@dataclass(frozen=True, slots=True)
class BalloonSample:
    """A BalloonSample is what was seen of one guest at one moment.

    Attributes:
        actual: what the balloon leaves the guest, bytes.
        sampled_at: the moment, seconds.
        spare: what the guest could give now without harm, bytes; None when its statistics do not tell.
        troubled: whether the guest swaps or refaults.
        urgent: whether the node is so short that a guest with memory to spare is asked for it though it suffers.
        max_residual: how far off its goal the balloon may come to rest, bytes.
    """

    actual: int
    sampled_at: float
    spare: int | None = None
    troubled: bool = False
    urgent: bool = False
    max_residual: int = TOLERANCE

    @property
    def smallest_step(self) -> int:
        """The least that is requested on the way to a goal, bytes.

        Of less, a driver may leave so much undone that the rest does not count as progress.
        """
        return self.max_residual + 2 * TOLERANCE

    def has_reached(self, goal: int) -> bool:
        """Whether the balloon is as near to the goal, in bytes, as it can be expected to come."""
        return abs(self.actual - goal) <= self.max_residual


@dataclass(frozen=True, slots=True)
class Pace:
    """A Pace is what is known of how fast one guest follows requests.

    Attributes:
        rate: what the guest is trusted to give, bytes a second.
        request: the request under way, bytes; None when there is none.
        reached: the last request at which the balloon came to rest, bytes; None before the first.
        residual: how much more than that the balloon left the guest, bytes.
        actual: what the balloon left the guest at the last sample, bytes.
        sampled_at: the time of the last sample, seconds.
        reclaim_requested_at: when the guest was last asked for memory, seconds.
        progress_actual: what the balloon left the guest when it was last seen to follow, bytes.
        progress_at: when the guest last followed, was first asked or was given up, seconds.
        retry_seconds: how long the driver is left alone since it was given up; 0 while it follows.
    """

    rate: float = INITIAL_RATE
    request: int | None = None
    reached: int | None = None
    residual: int = 0
    actual: int = 0
    sampled_at: float = 0.0
    reclaim_requested_at: float = -math.inf
    progress_actual: int = 0
    progress_at: float = 0.0
    retry_seconds: float = 0.0

    @property
    def responsive(self) -> bool:
        """Whether the guest's driver follows requests, as far as is known."""
        return self.retry_seconds == 0

    def awaits_retry(self, now: float) -> bool:
        """Whether the driver has been given up and is still to be left alone at ``now`` seconds."""
        return self.retry_seconds > 0 and self.request is None and now - self.progress_at < self.retry_seconds


def max_residual(size: int) -> int:
    """Return how far off its goal the balloon of a guest of ``size`` bytes may come to rest, in bytes."""
    return max(TOLERANCE, min(size // _RESIDUAL_DIVISOR, _RESIDUAL_LIMIT))


def advance(before: Pace, sample: BalloonSample, goal: int, max_rate: int | None = None) -> tuple[Pace, int | None]:
    """Take one sample of the guest on its way to ``goal`` bytes.

    Args:
        before: the pace after the sample before.
        sample: the new sample.
        goal: what the balloon is to leave the guest in the end, bytes.
        max_rate: the policy's limit on the rate, bytes a second; None if it sets none.

    Returns:
        The pace now, and the request to make, in bytes, or None when there is nothing to request.
    """
    pace = _observe(before, sample, goal)
    if pace.retry_seconds > before.retry_seconds:  # the driver has just been given up
        return _withdraw(pace, sample, goal)
    if pace.awaits_retry(sample.sampled_at) and goal <= sample.actual:
        return pace, None
    if pace.request is not None and sample.has_reached(pace.request) and _is_close(goal, pace.request):
        # The request is done. If something else moves the balloon away from here, it is requested anew.
        pace = _done(pace, pace.request, sample)
    request = _next_request(pace, sample, goal, max_rate)
    if request is None and pace.request is not None and pace.request < sample.actual - TOLERANCE:
        return _withdraw(pace, sample, goal)
    if request is None and sample.spare is not None and sample.spare < sample.smallest_step:
        return replace(pace, request=None), None  # the guest has given what it has: nothing is under way
    if request is None or request == pace.request:
        rests = sample.sampled_at - pace.progress_at >= LEAD_SECONDS
        if request is not None and rests and sample.has_reached(request):
            pace = _done(pace, request, sample)  # the policy allows no other step yet, and this one has been made
        return pace, None
    if request < sample.actual:
        pace = replace(pace, reclaim_requested_at=sample.sampled_at)
    if pace.request is None or (request > sample.actual) != (pace.request > sample.actual):
        pace = replace(pace, progress_at=sample.sampled_at)  # a new direction: the driver's time to follow begins
    return replace(pace, request=request), request


def _done(pace: Pace, request: int, sample: BalloonSample) -> Pace:
    """End a request at which the balloon has come to rest."""
    return replace(pace, request=None, reached=request, residual=max(0, sample.actual - request))


def _withdraw(pace: Pace, sample: BalloonSample, goal: int) -> tuple[Pace, int]:
    """Request no more than the guest has given: a driver could follow the old request later, when it asks too much."""
    return replace(pace, request=None), max(goal, sample.actual)


def _observe(before: Pace, sample: BalloonSample, goal: int) -> Pace:
    """Learn the guest's rate, and whether its driver follows, from what it did since the last sample."""
    pace = replace(before, actual=sample.actual, sampled_at=sample.sampled_at)
    if before.request is None:
        return replace(pace, progress_actual=sample.actual)
    arrived = _is_close(sample.actual, before.request) or (_is_close(goal, before.request) and sample.has_reached(goal))
    if arrived or not _is_close(sample.actual, before.progress_actual):
        rate = _demonstrated_rate(before, sample, arrived=arrived)
        return replace(pace, rate=rate, progress_actual=sample.actual, progress_at=sample.sampled_at, retry_seconds=0.0)
    if sample.sampled_at - before.progress_at < UNRESPONSIVE_AFTER:
        return replace(pace, rate=_halved(before.rate))
    retry_seconds = Backoff(pause=before.retry_seconds).failed(sample.sampled_at).pause
    return replace(pace, rate=_halved(before.rate), progress_at=sample.sampled_at, retry_seconds=retry_seconds)


def _demonstrated_rate(before: Pace, sample: BalloonSample, *, arrived: bool) -> float:
    """Return the rate of a guest that follows, in bytes a second.

    A guest in trouble, or with nothing left to give, is trusted with half of it.
    """
    rate = before.rate
    elapsed = sample.sampled_at - before.sampled_at
    if sample.actual < before.actual and elapsed > 0:
        measured = max(MIN_RATE, (before.actual - sample.actual) / elapsed)
        # A guest that has arrived may have stopped between the samples, so it may be faster than measured.
        rate = max(rate, measured) if arrived else measured
    return _halved(rate) if sample.troubled or sample.spare == 0 else rate


def _is_at_rest(pace: Pace, sample: BalloonSample, goal: int) -> bool:
    """Whether the balloon came to rest near this goal before and is still there."""
    return pace.reached is not None and _is_close(goal, pace.reached) and sample.has_reached(goal)


def _is_close(one: int, other: int) -> bool:
    return abs(one - other) <= TOLERANCE


def _halved(rate: float) -> float:
    return max(MIN_RATE, rate / 2)


def _next_request(pace: Pace, sample: BalloonSample, goal: int, max_rate: int | None) -> int | None:
    """Return the next request on the way to the goal, in bytes; None when nothing is to be requested now."""
    if pace.request is None and (_is_close(goal, sample.actual) or _is_at_rest(pace, sample, goal)):
        return None
    if goal >= sample.actual:
        return goal
    if sample.spare is None or (sample.troubled and not sample.urgent):
        return None
    smallest = sample.smallest_step
    step = min(max(int(pace.rate * LEAD_SECONDS), smallest), sample.spare)
    limits = [float(max_rate)] if max_rate else []
    if sample.troubled:
        limits.append(max(MIN_RATE, smallest / LEAD_SECONDS))
    if limits:
        # The limit holds per second, however often the guest is sampled. A guest that was asked for nothing may save up
        # what one second allows, or the least that is worth a request.
        limit = min(limits)
        allowed = limit * (sample.sampled_at - pace.reclaim_requested_at)
        step = int(min(step, allowed, max(smallest, limit * LEAD_SECONDS)))
    # The balloon is expected to stop above the request by its residual again.
    request = max(goal, sample.actual - pace.residual - step)
    if step >= smallest or request == goal:
        return request
    return pace.request if _can_still_follow(pace, sample) else None


def _can_still_follow(pace: Pace, sample: BalloonSample) -> bool:
    """Whether memory is being requested that the guest has not given yet, and can spare."""
    if pace.request is None or sample.spare is None:
        return False
    return sample.actual - pace.residual - sample.spare <= pace.request < sample.actual
