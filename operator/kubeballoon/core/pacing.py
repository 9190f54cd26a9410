"""How fast a guest is asked to give memory: never faster than it was just seen to give.

A request is at most one second's worth ahead of the guest, at the rate the guest has shown; looked at several times a
second, a guest that follows at once shows a higher rate, one that lags a lower one (the patent's claims 8 and 20).
Upward there is no pacing: memory a guest needs comes at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_RATE = 32 << 20  # bytes a second: what any guest above the floor can try
SLOWEST = 4 << 20  # bytes a second: still arrives, and is felt by no guest
AHEAD = 1.0  # seconds a request may be ahead of the guest
PATIENCE = 10.0  # seconds without progress until a driver counts as unresponsive
RETRY = 10.0  # seconds until such a driver is tried again; doubles
RETRY_AT_MOST = 300.0
TOLERANCE = 1 << 20  # bytes a balloon may be off and still have arrived


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at a guest.

    Attributes:
        actual: what the balloon leaves it, bytes.
        at: seconds.
        spare: what it could give now without harm, bytes; None when its statistics do not tell.
        troubled: it swaps or refaults.
    """

    actual: int
    at: float
    spare: int | None = None
    troubled: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """What is known of one guest's speed.

    Attributes:
        rate: bytes a second the guest is trusted to give.
        asked: the request under way, None when none is.
        held: what the guest held at the last look, bytes.
        at: when that was, seconds.
        progress: when the guest last followed, or was last given up, seconds.
        retry: seconds for which the driver is left alone since it stopped following; 0 while it follows.
    """

    rate: float = float(FIRST_RATE)
    asked: int | None = None
    held: int = 0
    at: float = 0.0
    progress: float = 0.0
    retry: float = 0.0

    @property
    def responsive(self) -> bool:
        """Whether the driver follows requests, as far as is known."""
        return self.retry == 0


def advance(before: Pace, sample: Sample, goal: int, max_rate: int | None = None) -> tuple[Pace, int | None]:
    """Take one look at the guest on its way to ``goal`` bytes.

    Returns:
        The pace now and the request to make, in bytes, or None when there is nothing to ask.
    """
    pace = _judge(before, sample)
    if pace.retry > before.retry:
        return _withdraw(pace, sample, goal)
    if not pace.responsive and pace.asked is None and sample.at - pace.progress < pace.retry:
        return pace, None
    request = _request(pace, sample, goal, max_rate)
    if request is None and pace.asked is not None and pace.asked < sample.actual - TOLERANCE:
        return _withdraw(pace, sample, goal)
    if request is None or request == pace.asked:
        return pace, None
    started = pace.asked is None or (request > sample.actual) != (pace.asked > sample.actual)
    return replace(pace, asked=request, progress=sample.at if started else pace.progress), request


def _withdraw(pace: Pace, sample: Sample, goal: int) -> tuple[Pace, int]:
    """Ask for no more: a driver would take what is still asked later, when it may have become too much."""
    return replace(pace, asked=None), max(goal, sample.actual)


def _judge(before: Pace, sample: Sample) -> Pace:
    """What the guest did since the last look tells of its speed."""
    looked = replace(before, held=sample.actual, at=sample.at)
    if before.asked is None:
        return looked
    elapsed = sample.at - before.at
    moved = abs(sample.actual - before.held)
    arrived = abs(sample.actual - before.asked) <= TOLERANCE
    gave = sample.actual < before.held
    if arrived or moved >= TOLERANCE:
        rate = before.rate
        if gave and elapsed > 0:
            shown = max(float(SLOWEST), moved / elapsed)
            rate = max(rate, shown) if arrived else shown
        return replace(looked, rate=rate / 2 if sample.troubled else rate, progress=sample.at, retry=0.0)
    slower = max(float(SLOWEST), before.rate / 2)
    if sample.at - before.progress < PATIENCE:
        return replace(looked, rate=slower)
    retry = min(RETRY_AT_MOST, max(RETRY, 2 * before.retry))
    return replace(looked, rate=slower, progress=sample.at, retry=retry)


def _request(pace: Pace, sample: Sample, goal: int, max_rate: int | None) -> int | None:
    if abs(goal - sample.actual) <= TOLERANCE and pace.asked is None:
        return None
    if goal >= sample.actual:
        return goal
    rate = min(pace.rate, max_rate) if max_rate else pace.rate
    step = int(rate * AHEAD)
    if sample.spare is not None:
        step = min(step, sample.spare)
    request = max(goal, sample.actual - step)
    # Less than the tolerance is not worth a request; the guest has nothing to give for now.
    return request if request <= sample.actual - TOLERANCE or request == goal else None
