"""What is requested of a guest next, on the way to its goal."""

from __future__ import annotations

from kubeballoon.core.memory import demand
from kubeballoon.core.memory.balloon_steps import BalloonProgress, GuestSample, next_step
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.core.memory.pacing import Pace
from kubeballoon.core.units import GIB, MIB

SIZE = 2 * GIB
POLICY = MemoryTerms("p")
QUICK = BalloonProgress(Pace(rate=float(GIB)))
MARGIN = SIZE // 32


def sample(*reports: tuple[float, int, int], actual: int, at: float) -> GuestSample:
    """Make a sample of a guest that reported as often as said: when, what it held, and what it worked with, in MiB."""
    need = before = None
    for updated, held, used in reports:
        statistics = GuestStatistics(held * MIB, updated, usable=(held - used) * MIB)
        need, before = demand.update(need, before, statistics, window=300.0), statistics
    assert before is not None
    return GuestSample(SIZE, before._replace(actual=actual * MIB), at, need)


def request(of: GuestSample, goal: int) -> int | None:
    """Return what is requested, in MiB, of a guest that was seen to be quick."""
    _, requested = next_step(QUICK, of, goal * MIB, POLICY, urgent=True)
    return None if requested is None else requested // MIB


def test_what_a_guest_was_given_is_not_requested_back_before_it_has_reported() -> None:
    given = sample((10, 800, 740), actual=1200, at=11)
    assert request(given, goal=900) is None, "it may use all of it by now"
    reported = sample((10, 800, 740), (11, 1200, 740), actual=1200, at=12)
    assert request(reported, goal=900) == 900


def test_what_a_guest_had_to_spare_is_requested_though_it_was_given_more_meanwhile() -> None:
    given = sample((10, 1200, 700), actual=1300, at=11)
    assert request(given, goal=600) == 700 + MARGIN // MIB + 100


def test_what_a_growing_guest_may_use_by_its_next_report_is_not_requested() -> None:
    growing = sample((10, 1200, 400), (11, 1200, 700), actual=1200, at=12)
    assert request(growing, goal=600) == 700 + 300 + MARGIN // MIB
    steady = sample((10, 1200, 700), (11, 1200, 700), actual=1200, at=12)
    assert request(steady, goal=600) == 700 + MARGIN // MIB
    shrinking = sample((10, 1200, 800), (11, 1200, 700), actual=1200, at=12)
    assert request(shrinking, goal=600) == 700 + MARGIN // MIB


def test_a_guest_of_which_a_former_agent_left_no_more_than_its_need_is_asked_by_that() -> None:
    restored = GuestSample(SIZE, GuestStatistics(1200 * MIB, 10), 11, demand.Need(700 * MIB, 0, 0, 10))
    assert request(restored, goal=900) == 900
    unknown = GuestSample(SIZE, GuestStatistics(1200 * MIB, 10), 11, None)
    assert request(unknown, goal=900) is None
