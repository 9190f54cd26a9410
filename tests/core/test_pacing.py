"""How fast a guest is asked for memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.backoff import Backoff
from kubeballoon.core.memory.pacing import (
    INITIAL_RATE,
    LEAD_SECONDS,
    MIN_RATE,
    TOLERANCE,
    UNRESPONSIVE_AFTER,
    BalloonSample,
    Pace,
    advance,
    max_residual,
)
from kubeballoon.core.memory.request_checks import FLOOR
from kubeballoon.core.units import GIB, MIB


def drive(
    speed: float, start: int, goal: int, *, tick: float = 0.2, limit: int = 2000, max_rate: int | None = None
) -> list[tuple[int, int | None]]:
    """Pace a guest that gives ``speed`` bytes a second to its goal; what it had and the request, at each sample."""
    pace, actual, target, now = Pace(), start, start, 0.0
    samples = []
    for _ in range(limit):
        pace, request = advance(pace, BalloonSample(actual, now, spare=actual), goal, max_rate)
        target = target if request is None else request
        samples.append((actual, request))
        assert pace.responsive
        if abs(actual - goal) <= TOLERANCE:
            return samples
        now += tick
        actual = max(target, actual - int(speed * tick)) if target < actual else target
    raise AssertionError(f"still at {actual} after {now:.0f} s")


def test_the_first_step_is_small() -> None:
    _, request = advance(Pace(), BalloonSample(4 * GIB, 0.0, spare=GIB), GIB)
    assert request == 4 * GIB - int(INITIAL_RATE * LEAD_SECONDS)


@given(st.floats(8 * MIB, 2 * GIB))
def test_a_guest_is_never_asked_for_more_than_it_was_seen_to_give(speed: float) -> None:
    samples = drive(speed, 4 * GIB, GIB)
    most = max(INITIAL_RATE, speed * 1.01 + TOLERANCE)
    assert all(actual - request <= most * LEAD_SECONDS for actual, request in samples if request is not None)


def test_a_quick_guest_is_quickly_done() -> None:
    assert len(drive(GIB, 4 * GIB, GIB)) * 0.2 < 8


def test_memory_is_given_at_once() -> None:
    pace, request = advance(Pace(), BalloonSample(GIB, 0.0), 4 * GIB)
    assert request == 4 * GIB
    assert advance(pace, BalloonSample(4 * GIB, 0.2), 4 * GIB)[1] is None


def test_a_balloon_at_its_goal_is_left_alone_by_a_new_agent() -> None:
    assert advance(Pace(), BalloonSample(2 * GIB, 0.0), 2 * GIB)[1] is None
    assert advance(Pace(), BalloonSample(2 * GIB + TOLERANCE // 2, 0.0), 2 * GIB)[1] is None


@given(st.integers(FLOOR, 64 * GIB), st.floats(-1, 1), st.floats(0.3, 1))
def test_a_balloon_that_rests_a_little_off_its_goal_follows_and_is_left_alone(
    size: int, part_off: float, part: float
) -> None:
    error, goal, actual, pace = int(part_off * max_residual(size)), int(part * size), size, Pace()
    requests = []
    for number in range(1000):
        sample = BalloonSample(actual, number * 0.2, spare=actual, max_residual=max_residual(size))
        pace, request = advance(pace, sample, goal)
        assert pace.responsive
        if request is not None:
            requests.append(number)
            actual = min(size, request + error) if request > actual else min(actual, request + error)
    assert abs(actual - goal) <= max_residual(size)
    assert pace.request is None
    assert not requests or requests[-1] < 900


def test_a_small_step_down_never_gives_memory_to_a_balloon_with_a_residual() -> None:
    residual = max_residual(4 * GIB)
    slow = Pace(rate=float(4 * MIB), request=2 * GIB)
    pace, _ = advance(slow, BalloonSample(2 * GIB + 5 * MIB, 0.0, spare=GIB, max_residual=residual), 2 * GIB)
    _, request = advance(pace, BalloonSample(2 * GIB + 5 * MIB, 10.0, spare=GIB, max_residual=residual), GIB)
    assert request is not None
    assert request < 2 * GIB


def test_a_balloon_with_a_residual_goes_on_to_another_goal() -> None:
    residual = max_residual(4 * GIB)
    pace = Pace(reached=2 * GIB)
    sample = BalloonSample(2 * GIB + residual, 0.0, spare=GIB, max_residual=residual)
    assert advance(pace, sample, 2 * GIB)[1] is None
    assert advance(pace, sample, 2 * GIB - residual)[1] == 2 * GIB - residual
    assert advance(pace, sample, 4 * GIB)[1] == 4 * GIB


def test_the_policy_can_only_slow_it() -> None:
    _, request = advance(Pace(), BalloonSample(4 * GIB, 0.0, spare=GIB), GIB, max_rate=8 * MIB)
    assert request == 4 * GIB - 8 * MIB


def test_a_guest_with_nothing_to_give_is_not_pushed() -> None:
    pace, request = advance(Pace(), BalloonSample(2 * GIB, 0.0, spare=0), GIB)
    assert request is None
    assert pace.responsive


@given(st.integers(MIB // 2, 128 * MIB))
def test_no_second_reclaims_more_than_the_policy_s_rate(max_rate: int) -> None:
    samples = [actual for actual, _ in drive(GIB, 2 * GIB, 2 * GIB - 8 * max_rate - 8 * MIB, max_rate=max_rate)]
    for second in range(len(samples) - 5):
        reclaimed = samples[second] - samples[second + 5]
        least = BalloonSample(2 * GIB, 0.0).smallest_step
        assert reclaimed <= 2 * max(max_rate, least) + TOLERANCE, "and what was saved up before"
    assert len(samples) * 0.2 >= 7


@given(st.floats(2 * MIB, 8 * MIB))
def test_a_slow_guest_is_not_taken_for_one_that_does_not_follow(speed: float) -> None:
    assert drive(speed, 256 * MIB, 192 * MIB)


def test_memory_is_given_back_to_a_guest_that_was_given_up() -> None:
    stuck = Pace(retry_seconds=Backoff().shortest, progress_at=0.0, actual=GIB, progress_actual=GIB)
    assert advance(stuck, BalloonSample(GIB, 1.0, spare=GIB // 2), GIB // 2)[1] is None
    assert advance(stuck, BalloonSample(GIB, 1.0, spare=GIB // 2), 2 * GIB)[1] == 2 * GIB


def test_a_balloon_that_others_moved_is_asked_again() -> None:
    pace, request = advance(Pace(), BalloonSample(GIB, 0.0, spare=GIB), GIB - 16 * MIB)
    assert request == GIB - 16 * MIB
    pace, request = advance(pace, BalloonSample(GIB - 16 * MIB, 0.2, spare=GIB), GIB - 16 * MIB)
    assert request is None
    assert advance(pace, BalloonSample(GIB, 5.0, spare=GIB), GIB - 16 * MIB)[1] == GIB - 16 * MIB


def test_nothing_is_asked_of_a_guest_whose_statistics_are_missing() -> None:
    pace, request = advance(Pace(), BalloonSample(2 * GIB, 0.0), GIB)
    assert request is None
    assert advance(pace, BalloonSample(2 * GIB, 1.0), 3 * GIB)[1] == 3 * GIB, "but it is given what it is to have"


def test_a_guest_in_trouble_is_asked_no_further() -> None:
    pace, request = advance(Pace(), BalloonSample(2 * GIB, 0.0, spare=GIB), GIB)
    assert request is not None
    actual = request + 16 * MIB
    pace, request = advance(pace, BalloonSample(actual, 0.2, spare=GIB, troubled=True), GIB)
    assert request == actual, "the request before is withdrawn"
    assert pace.rate < INITIAL_RATE * 5
    assert advance(pace, BalloonSample(actual, 0.4, spare=GIB, troubled=True), GIB)[1] is None


def test_a_request_is_withdrawn_when_the_guest_has_no_more_to_give() -> None:
    pace, request = advance(Pace(), BalloonSample(2 * GIB, 0.0, spare=GIB), GIB)
    assert request is not None
    actual = request + 20 * MIB
    for number in range(1, 200):
        pace, request = advance(pace, BalloonSample(actual, number * 0.2, spare=0), GIB)
        assert pace.responsive
        if request is not None:
            assert request >= actual
    assert pace.request is None


def test_nothing_is_under_way_once_a_guest_has_given_what_it_has() -> None:
    pace, request = advance(Pace(), BalloonSample(2 * GIB, 0.0, spare=20 * MIB), GIB)
    assert request == 2 * GIB - 20 * MIB
    pace, again = advance(pace, BalloonSample(request, 0.2, spare=0), GIB)
    assert (again, pace.request) == (None, None)
    _, more = advance(pace, BalloonSample(request, 5.2, spare=10 * MIB), GIB)
    assert more == request - 10 * MIB, "it has some again"


def test_a_driver_that_does_not_follow_is_given_up_and_tried_again_ever_later() -> None:
    pace, actual = Pace(), 2 * GIB
    events: list[tuple[float, int]] = []
    for number in range(600):
        pace, request = advance(pace, BalloonSample(actual, number * 0.2, spare=GIB), GIB)
        if request is not None:
            events.append((number * 0.2, request))
    withdrawn = [at for at, request in events if request == actual]
    tried = [next(at for at, request in events if at > end and request < actual) for end in withdrawn[:-1]]
    pauses = [again - end for end, again in zip(withdrawn, tried, strict=False)]
    assert withdrawn[0] >= UNRESPONSIVE_AFTER
    assert pauses[0] >= Backoff().shortest
    assert pauses[1] >= 2 * Backoff().shortest
    assert not pace.responsive


def test_a_driver_that_follows_again_is_responsive_again() -> None:
    stuck = Pace(retry_seconds=Backoff().shortest, progress_at=0.0, actual=2 * GIB)
    pace, request = advance(stuck, BalloonSample(2 * GIB, Backoff().shortest + 1, spare=GIB), GIB)
    assert request is not None
    pace, _ = advance(pace, BalloonSample(request, Backoff().shortest + 1.2), GIB)
    assert pace.responsive


def test_the_rate_is_what_the_guest_was_seen_to_give() -> None:
    pace, _ = advance(Pace(), BalloonSample(4 * GIB, 0.0, spare=GIB), GIB)
    pace, request = advance(pace, BalloonSample(4 * GIB - 20 * MIB, 0.25, spare=GIB), GIB)
    assert pace.rate == 80 * MIB
    assert request == 4 * GIB - 100 * MIB


@pytest.mark.parametrize(
    "state", [{"spare": GIB, "troubled": True}, {"spare": 0}], ids=["troubled", "nothing to spare"]
)
def test_a_guest_that_cannot_give_more_is_trusted_with_half_its_rate(state: dict[str, Any]) -> None:
    pace, _ = advance(Pace(), BalloonSample(4 * GIB, 0.0, spare=GIB), GIB)
    pace, _ = advance(pace, BalloonSample(4 * GIB - 20 * MIB, 0.25, **state), GIB)
    assert pace.rate == 40 * MIB


def test_a_guest_that_makes_no_progress_is_asked_more_slowly_down_to_the_least_rate() -> None:
    pace, _ = advance(Pace(), BalloonSample(4 * GIB, 0.0, spare=GIB), GIB)
    rates = []
    for number in range(1, 6):
        pace, _ = advance(pace, BalloonSample(4 * GIB, number * 0.2, spare=GIB), GIB)
        rates.append(pace.rate / MIB)
    assert rates == [16, 8, 4, 4, 4]


def test_a_guest_that_has_arrived_keeps_its_rate_though_it_was_sampled_late() -> None:
    pace, request = advance(Pace(), BalloonSample(4 * GIB, 0.0, spare=GIB), GIB)
    assert request == 4 * GIB - 32 * MIB
    slowly, _ = advance(pace, BalloonSample(request, 8.0, spare=GIB), GIB)
    assert slowly.rate == INITIAL_RATE
    at_once, _ = advance(pace, BalloonSample(request, 0.5, spare=GIB), GIB)
    assert at_once.rate == 2 * INITIAL_RATE


def test_a_balloon_that_rests_above_its_request_is_asked_for_so_much_more_the_next_time() -> None:
    residual = 3 * MIB
    pace = Pace(request=2 * GIB, actual=2 * GIB + residual)
    sample = BalloonSample(2 * GIB + residual, 10.0, spare=GIB, max_residual=4 * MIB)
    pace, request = advance(pace, sample, 2 * GIB)
    assert (request, pace.request, pace.reached, pace.residual) == (None, None, 2 * GIB, residual)
    _, request = advance(pace, sample, GIB)
    assert request == 2 * GIB - int(INITIAL_RATE * LEAD_SECONDS)


def test_a_balloon_that_rests_below_its_request_is_asked_for_no_more_the_next_time() -> None:
    pace = Pace(request=2 * GIB, actual=2 * GIB - 3 * MIB)
    sample = BalloonSample(2 * GIB - 3 * MIB, 10.0, spare=GIB, max_residual=4 * MIB)
    pace, _ = advance(pace, sample, 2 * GIB)
    assert pace.residual == 0


def test_under_a_policy_s_rate_a_request_is_what_the_time_since_the_last_one_allows() -> None:
    max_rate = 8 * MIB
    pace, request = advance(Pace(), BalloonSample(4 * GIB, 100.0, spare=GIB), GIB, max_rate)
    assert request == 4 * GIB - 8 * MIB, "at most a second's worth, however long nothing was requested"
    pace, request = advance(pace, BalloonSample(request, 100.5, spare=GIB), GIB, max_rate)
    assert request == 4 * GIB - 12 * MIB
    _, request = advance(pace, BalloonSample(request, 100.6, spare=GIB), GIB, max_rate)
    assert request is None, "0.8 MiB are not worth a request"


@pytest.mark.parametrize(("size", "residual"), [(64 * MIB, MIB), (GIB, 4 * MIB), (64 * GIB, 16 * MIB)])
def test_a_larger_guest_s_balloon_may_rest_farther_off_its_goal(size: int, residual: int) -> None:
    assert max_residual(size) == residual


def test_a_driver_is_given_up_after_ten_seconds_without_progress() -> None:
    pace, _ = advance(Pace(), BalloonSample(2 * GIB, 100.0, spare=GIB), GIB)
    patient, _ = advance(pace, BalloonSample(2 * GIB, 109.9, spare=GIB), GIB)
    assert patient.responsive
    given_up, request = advance(patient, BalloonSample(2 * GIB, 110.0, spare=GIB), GIB)
    assert not given_up.responsive
    assert request == 2 * GIB, "the request is withdrawn"
    assert given_up.awaits_retry(119.9)
    assert not given_up.awaits_retry(120.0)


def test_a_request_in_the_other_direction_gives_the_driver_its_time_anew() -> None:
    pace, _ = advance(Pace(), BalloonSample(2 * GIB, 100.0, spare=GIB), GIB)
    pace, request = advance(pace, BalloonSample(2 * GIB, 109.0, spare=GIB), 4 * GIB)
    assert request == 4 * GIB
    pace, _ = advance(pace, BalloonSample(2 * GIB, 112.0, spare=GIB), 4 * GIB)
    assert pace.responsive


def test_the_smallest_step_is_requested_and_a_smaller_one_only_to_the_goal() -> None:
    smallest = BalloonSample(2 * GIB, 0.0).smallest_step
    assert advance(Pace(), BalloonSample(2 * GIB, 0.0, spare=smallest), GIB)[1] == 2 * GIB - smallest
    assert advance(Pace(), BalloonSample(2 * GIB, 0.0, spare=smallest - 1), GIB)[1] is None
    goal = 2 * GIB - smallest + 1
    assert advance(Pace(), BalloonSample(2 * GIB, 0.0, spare=smallest - 1), goal)[1] == goal


@pytest.mark.parametrize(("seconds", "rests"), [(LEAD_SECONDS - 0.1, False), (LEAD_SECONDS, True)])
def test_a_balloon_rests_above_its_request_once_it_has_not_moved_for_a_second(seconds: float, *, rests: bool) -> None:
    # The policy's rate allows no other step meanwhile.
    asked, _ = advance(Pace(), BalloonSample(4 * GIB, 0.0, spare=GIB), GIB, max_rate=MIB)
    assert asked.request is not None
    moved = BalloonSample(asked.request + 2 * TOLERANCE, 0.5, spare=GIB, max_residual=4 * TOLERANCE)
    pace, _ = advance(asked, moved, GIB, max_rate=MIB)
    pace, request = advance(pace, replace(moved, sampled_at=pace.progress_at + seconds), GIB, max_rate=MIB)
    assert request is None
    assert (pace.request is None) is rests
    assert pace.residual == (2 * TOLERANCE if rests else 0)


@pytest.mark.parametrize("max_rate", [None, MIB])
def test_a_slow_driver_is_seen_to_follow_though_it_leaves_a_residual(max_rate: int | None) -> None:
    residual = max_residual(4 * GIB)
    pace, actual = Pace(rate=MIN_RATE), 4 * GIB
    for number in range(1000):
        sample = BalloonSample(actual, number * 0.2, spare=actual, max_residual=residual)
        pace, request = advance(pace, sample, GIB, max_rate)
        assert pace.responsive
        actual = actual if request is None else min(actual, request + residual)
    assert actual < 4 * GIB - 6 * residual


@pytest.mark.parametrize("size", [256 * MIB, GIB, 4 * GIB, 64 * GIB])
def test_a_suffering_guest_on_a_short_node_gives_a_small_step_a_second(size: int) -> None:
    pace, actual = Pace(rate=float(GIB)), size
    step = max(int(MIN_RATE), max_residual(size) + 2 * TOLERANCE)
    for number in range(51):
        sample = BalloonSample(actual, number * 0.2, spare=size, troubled=True, urgent=True)
        pace, request = advance(pace, replace(sample, max_residual=max_residual(size)), FLOOR)
        actual = actual if request is None else request
        assert size - actual <= step * (number * 0.2 + 1)
    assert size - actual >= step * 9, "and no less: the node is short"


def test_a_request_under_way_stands_while_another_step_is_not_yet_allowed() -> None:
    sample = BalloonSample(4 * GIB, 100.0, spare=GIB, max_residual=max_residual(4 * GIB))
    pace, request = advance(Pace(), sample, GIB, 8 * MIB)
    assert request is not None
    pace, again = advance(pace, replace(sample, sampled_at=100.2), GIB, 8 * MIB)
    assert (again, pace.request) == (None, request)
    pace, again = advance(pace, replace(sample, sampled_at=100.4, spare=0), GIB, 8 * MIB)
    assert (again, pace.request) == (4 * GIB, None), "the guest needs it now"


@pytest.mark.parametrize(("off", "request_"), [(TOLERANCE, None), (TOLERANCE + 1, 2 * GIB)])
def test_a_difference_of_exactly_the_tolerance_is_left_alone(off: int, request_: int | None) -> None:
    assert advance(Pace(), BalloonSample(2 * GIB + off, 0.0, spare=GIB), 2 * GIB)[1] == request_


def test_a_driver_that_does_not_give_the_last_step_to_its_goal_is_given_up_too() -> None:
    goal = 2 * GIB - 16 * MIB
    pace, request = advance(Pace(), BalloonSample(2 * GIB, 100.0, spare=GIB), goal)
    assert request == goal
    pace, _ = advance(pace, BalloonSample(2 * GIB, 110.0, spare=GIB), goal)
    assert not pace.responsive


def test_a_driver_that_does_not_take_what_it_is_given_may_still_take_it_later() -> None:
    pace, request = advance(Pace(), BalloonSample(2 * GIB, 100.0), 4 * GIB)
    assert request == 4 * GIB
    pace, request = advance(pace, BalloonSample(2 * GIB, 110.0), 4 * GIB)
    assert not pace.responsive
    assert request == 4 * GIB


def test_a_request_under_way_is_withdrawn_from_a_guest_in_trouble_only_if_it_is_worth_it() -> None:
    near = Pace(request=2 * GIB - TOLERANCE, actual=2 * GIB, progress_actual=2 * GIB)
    sample = BalloonSample(2 * GIB + MIB, 1.0, spare=GIB, troubled=True)
    assert advance(near, sample, GIB)[1] == 2 * GIB + MIB
    farther = replace(sample, actual=2 * GIB, spare=sample.smallest_step)
    pace, request = advance(near, farther, GIB)
    assert (pace.request, request) == (2 * GIB - TOLERANCE, None)
    pace, _ = advance(near, replace(farther, spare=sample.smallest_step - 1), GIB)
    assert pace.request is None, "it has given what it has"


def test_what_is_no_longer_wanted_is_not_under_way_though_the_guest_tells_nothing() -> None:
    asked = Pace(request=2 * GIB - 16 * MIB, actual=2 * GIB, progress_actual=2 * GIB, progress_at=5.0)
    pace, request = advance(asked, BalloonSample(2 * GIB, 6.0), 2 * GIB)
    assert (pace.request, request) == (2 * GIB, 2 * GIB)
    assert pace.reclaim_requested_at == asked.reclaim_requested_at, "nothing was asked for"
    assert pace.progress_at == 5.0
    given = replace(asked, request=2 * GIB + 16 * MIB)
    assert advance(given, BalloonSample(2 * GIB, 6.0), 2 * GIB)[0].progress_at == 6.0, "another direction"


def test_two_samples_of_one_moment_or_out_of_order_show_no_rate() -> None:
    asked = Pace(request=2 * GIB, actual=3 * GIB, sampled_at=10.0, progress_actual=3 * GIB)
    for moment in (10.0, 9.5):
        pace, _ = advance(asked, BalloonSample(2 * GIB + 512 * MIB, moment, spare=GIB), 2 * GIB)
        assert pace.rate == INITIAL_RATE


def test_a_guest_slower_than_the_least_rate_is_asked_at_the_least_rate() -> None:
    asked = Pace(request=2 * GIB, actual=3 * GIB, sampled_at=10.0, progress_actual=3 * GIB)
    pace, _ = advance(asked, BalloonSample(3 * GIB - 2 * MIB, 11.0, spare=GIB), 2 * GIB)
    assert pace.rate == MIN_RATE


def test_a_guest_in_trouble_gives_what_it_can_spare_slowly_where_the_node_is_short() -> None:
    sample = BalloonSample(4 * GIB, 0.0, spare=GIB, troubled=True, urgent=True)
    assert advance(Pace(), sample, GIB)[1] == 4 * GIB - int(MIN_RATE)


@pytest.mark.parametrize(("seconds", "asked"), [(5.9, None), (6.0, 3 * MIB), (60.0, 3 * MIB)])
def test_under_a_low_rate_the_smallest_step_is_asked_for_now_and_then(seconds: float, asked: int | None) -> None:
    before = Pace(reclaim_requested_at=100.0)
    _, request = advance(before, BalloonSample(4 * GIB, 100 + seconds, spare=GIB), GIB, MIB // 2)
    assert request == (None if asked is None else 4 * GIB - asked)


def test_the_last_step_to_a_goal_may_be_smaller() -> None:
    goal = 2 * GIB - 8 * MIB
    under_way = Pace(request=goal - 8 * MIB, actual=goal + MIB, progress_actual=goal + MIB)
    sample = BalloonSample(goal + MIB // 2, 0.2, spare=GIB, max_residual=0)
    assert advance(under_way, sample, goal)[1] == goal
