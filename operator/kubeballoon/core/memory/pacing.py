"""How fast a guest is asked to give memory: never faster than it was just seen to give.

A request is at most one second's worth ahead of the guest, at the rate the guest has shown; looked at several times a
second, a guest that follows at once shows a higher rate, one that lags a lower one (the patent's claims 8 and 20).
Nothing is asked of a guest of which it is not known what it could spare. Upward there is no pacing: memory a guest
needs comes at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kubeballoon.core.backoff import Backoff

FIRST_RATE = 32 << 20  # bytes a second: what any guest above the floor can try
SLOWEST = 4 << 20  # bytes a second: still arrives, and is felt by no guest
AHEAD = 1.0  # seconds a request may be ahead of the guest
PATIENCE = 10.0  # seconds without progress until a driver counts as unresponsive
TOLERANCE = 1 << 20  # bytes not worth a request
_OFF = 256, 16 << 20  # part of its size, and bytes, by which a guest's balloon may be off its goal at most


@dataclass(frozen=True, slots=True)
class BalloonSample:
    """A look at a guest.

    Attributes:
        actual: what the balloon leaves it, bytes.
        at: seconds.
        spare: what it could give now without harm, bytes; None when its statistics do not tell.
        troubled: it swaps or refaults.
        off: by which its balloon may be off its goal and has still arrived, bytes.
    """

    actual: int
    at: float
    spare: int | None = None
    troubled: bool = False
    off: int = TOLERANCE

    def is_at(self, goal: int) -> bool:
        """Whether the balloon is as near to the goal as it can be expected to come."""
        return abs(self.actual - goal) <= self.off


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of one guest's speed.

    Attributes:
        rate: bytes a second the guest is trusted to give.
        request: the request under way, None when none is.
        arrived: the last request that the balloon came to rest at, None before the first.
        beyond: how much more than that the guest was left with, bytes.
        held: what the guest held at the last look, bytes.
        at: when that was, seconds.
        took: when it was last asked for memory, seconds.
        mark: what it held when it was last seen to follow, bytes.
        progress: when the guest last followed, or was last given up, seconds.
        retry_seconds: seconds for which the driver is left alone since it stopped following; 0 while it follows.
    """

    rate: float = float(FIRST_RATE)
    request: int | None = None
    arrived: int | None = None
    beyond: int = 0
    held: int = 0
    at: float = 0.0
    took: float = -math.inf
    mark: int = 0
    progress: float = 0.0
    retry_seconds: float = 0.0

    @property
    def responsive(self) -> bool:
        """Whether the driver follows requests, as far as is known."""
        return self.retry_seconds == 0

    def rests(self, now: float) -> bool:
        """Whether the driver, given up, is still to be left alone at ``now`` seconds."""
        return self.retry_seconds > 0 and self.request is None and now - self.progress < self.retry_seconds


def max_residual(size: int) -> int:
    """By how many bytes the balloon of a guest of ``size`` bytes may be off: drivers round, and some keep a little."""
    part, most = _OFF
    return max(TOLERANCE, min(size // part, most))


def advance(before: Pace, sample: BalloonSample, goal: int, max_rate: int | None = None) -> tuple[Pace, int | None]:
    """Take one look at the guest on its way to ``goal`` bytes.

    Returns:
        The pace now and the request to make, in bytes, or None when there is nothing to ask.
    """
    pace = _judge(before, sample, goal)
    if pace.retry_seconds > before.retry_seconds:
        return _withdraw(pace, sample, goal)
    if pace.rests(sample.at) and goal <= sample.actual:
        return pace, None
    if pace.request is not None and sample.is_at(pace.request) and _near(goal, pace.request):
        # Arrived: what moves it away from here is asked for anew.
        pace = replace(pace, request=None, arrived=pace.request, beyond=max(0, sample.actual - pace.request))
    request = _request(pace, sample, goal, max_rate)
    if request is None and pace.request is not None and pace.request < sample.actual - TOLERANCE:
        return _withdraw(pace, sample, goal)
    if request is None and sample.spare is not None and sample.spare < TOLERANCE:
        return replace(pace, request=None), None  # it has given what it has: there is nothing under way
    if request is None or request == pace.request:
        return pace, None
    started = pace.request is None or (request > sample.actual) != (pace.request > sample.actual)
    took = sample.at if request < sample.actual else pace.took
    return replace(pace, request=request, took=took, progress=sample.at if started else pace.progress), request


def _withdraw(pace: Pace, sample: BalloonSample, goal: int) -> tuple[Pace, int]:
    """Ask for no more: a driver would take what is still asked later, when it may have become too much."""
    return replace(pace, request=None), max(goal, sample.actual)


def _judge(before: Pace, sample: BalloonSample, goal: int) -> Pace:
    """What the guest did since the last look tells of its speed."""
    looked = replace(before, held=sample.actual, at=sample.at)
    if before.request is None:
        return replace(looked, mark=sample.actual)
    arrived = _near(sample.actual, before.request) or (_near(goal, before.request) and sample.is_at(goal))
    if arrived or not _near(sample.actual, before.mark):
        rate = _shown(before, sample, arrived=arrived)
        return replace(looked, rate=rate, mark=sample.actual, progress=sample.at, retry_seconds=0.0)
    if sample.at - before.progress < PATIENCE:
        return replace(looked, rate=_halved(before.rate))
    retry_seconds = Backoff(pause=before.retry_seconds).failed(sample.at).pause
    return replace(looked, rate=_halved(before.rate), progress=sample.at, retry_seconds=retry_seconds)


def _shown(before: Pace, sample: BalloonSample, *, arrived: bool) -> float:
    """The rate a guest that follows has shown; one in trouble, or with nothing left, is trusted with half of it."""
    rate = before.rate
    elapsed = sample.at - before.at
    if sample.actual < before.held and elapsed > 0:
        shown = max(float(SLOWEST), (before.held - sample.actual) / elapsed)
        rate = max(rate, shown) if arrived else shown
    return _halved(rate) if sample.troubled or sample.spare == 0 else rate


def _rests(pace: Pace, sample: BalloonSample, goal: int) -> bool:
    """Whether the balloon has come as near to its goal as it comes."""
    return pace.arrived is not None and _near(goal, pace.arrived) and sample.is_at(goal)


def _near(one: int, other: int) -> bool:
    return abs(one - other) <= TOLERANCE


def _halved(rate: float) -> float:
    return max(float(SLOWEST), rate / 2)


def _request(pace: Pace, sample: BalloonSample, goal: int, max_rate: int | None) -> int | None:
    if pace.request is None and (_near(goal, sample.actual) or _rests(pace, sample, goal)):
        return None
    if goal >= sample.actual:
        return goal
    if sample.spare is None or sample.troubled:
        return None
    step = min(int(pace.rate * AHEAD), sample.spare)
    if max_rate:
        # In a second, however often it is looked at; what is saved up is a second's worth, or the least worth asking.
        step = int(min(step, max_rate * (sample.at - pace.took), max(TOLERANCE, max_rate * AHEAD)))
    request = max(goal, sample.actual - pace.beyond - step)
    # Less than the tolerance is not worth a request; the guest has nothing to give for now.
    return request if request <= sample.actual - TOLERANCE or request == goal else None
