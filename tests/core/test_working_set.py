"""How a guest is asked for memory that it works with: step by step, as long as it can swap."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kubeballoon.core.backoff import Backoff
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.pacing import TOLERANCE
from kubeballoon.core.memory.working_set import WorkingSetPace, WorkingSetReport, advance
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import SwapAbility

SIZE = 4 * GIB


@dataclass
class Guest:
    """A fake guest of 4 GiB that works with 3 GiB, reports every second, and gives what it is asked for."""

    swap: int = SIZE
    refaults: bool = False
    actual: int = SIZE
    now: float = 0.0
    swapped: int = 0
    pace: WorkingSetPace = field(default_factory=WorkingSetPace)

    def seconds(self, count: int, goal: int, *, delay: float = 0.0, urgent: bool = False) -> None:
        """Let some seconds pass on the way to a goal."""
        for _ in range(count):
            self.now += 1
            usable = max(0, self.actual - 3 * GIB)
            statistics = GuestStatistics(self.actual, self.now, usable=usable, swap_out=self.swapped)
            spare = max(0, usable - SIZE // 32)
            report = WorkingSetReport(SIZE, spare, self.refaults and usable == 0, statistics)
            self.pace = advance(self.pace, report, goal, self.now, delay=delay, urgent=urgent)
            least = self.actual - spare if self.pace.limit is None else min(self.actual - spare, self.pace.limit)
            wanted = max(goal, self.pace.floor, least)
            self.swapped = min(self.swap, max(self.swapped, 3 * GIB - wanted))
            # A driver that finds no memory gives what there is.
            self.actual = max(wanted, 3 * GIB - self.swapped) if wanted < self.actual else wanted


def test_a_guest_that_swaps_gives_what_it_works_with_within_a_minute() -> None:
    guest = Guest()
    guest.seconds(60, goal=2 * GIB)
    assert guest.actual == 2 * GIB
    assert guest.pace.ability is SwapAbility.ABLE
    assert guest.pace.limit is None or guest.pace.limit <= 2 * GIB


def test_the_first_steps_are_small() -> None:
    guest = Guest(actual=3 * GIB)
    guest.seconds(1, goal=GIB)
    assert guest.actual == 3 * GIB - SIZE // 256 - 2 * TOLERANCE


def test_nothing_is_asked_that_a_guest_works_with_before_it_has_been_lacking_for_a_while() -> None:
    guest = Guest()
    guest.seconds(10, goal=2 * GIB, delay=10)
    assert guest.actual == 3 * GIB + SIZE // 32, "what it can spare it gives at once"
    guest.seconds(5, goal=2 * GIB, delay=10)
    assert guest.actual < 3 * GIB + SIZE // 32
    at_once = Guest()
    at_once.seconds(5, goal=2 * GIB, delay=10, urgent=True)
    assert at_once.actual < 3 * GIB + SIZE // 32


def test_a_guest_without_swap_is_found_out_quickly_and_has_its_margin_back() -> None:
    guest = Guest(swap=0)
    guest.seconds(20, goal=2 * GIB)
    assert guest.pace.ability is SwapAbility.UNABLE
    assert guest.actual == guest.pace.floor >= 3 * GIB + SIZE // 32


def test_a_guest_whose_swap_is_full_is_asked_for_no_more() -> None:
    guest = Guest(swap=256 * MIB)
    guest.seconds(60, goal=2 * GIB)
    assert guest.pace.ability is SwapAbility.UNABLE


def test_what_could_not_swap_is_tried_again_after_ten_minutes() -> None:
    guest = Guest(swap=0)
    guest.seconds(20, goal=2 * GIB)
    guest.swap = SIZE
    guest.seconds(500, goal=2 * GIB)
    assert guest.actual >= 3 * GIB
    guest.seconds(200, goal=2 * GIB)
    assert guest.actual == 2 * GIB


def test_a_guest_that_reads_back_what_it_swapped_is_asked_more_slowly() -> None:
    calm, suffering, urgent = Guest(), Guest(refaults=True), Guest(refaults=True)
    for guest in (calm, suffering):
        guest.seconds(30, goal=2 * GIB)
    urgent.seconds(30, goal=2 * GIB, urgent=True)
    assert calm.actual < urgent.actual < suffering.actual < 3 * GIB
    rests = suffering.actual
    suffering.seconds(300, goal=2 * GIB)
    assert 2 * GIB <= suffering.actual < rests - 256 * MIB, "it goes on"


@pytest.mark.parametrize("goal", [SIZE, 3 * GIB, 3 * GIB + SIZE // 32])
def test_a_goal_that_a_guest_can_spare_begins_nothing(goal: int) -> None:
    guest = Guest()
    guest.seconds(30, goal=goal)
    assert guest.pace.limit is None or goal == 3 * GIB
    assert guest.pace.ability is SwapAbility.UNKNOWN
    assert guest.actual >= goal


BAND = SIZE // 64
HELD = 3 * GIB
REPORT = GuestStatistics(actual=HELD, updated=100.0, usable=SIZE // 64, swap_out=0)
STEP = 32 * MIB
SMALLEST = 18 * MIB  # what a driver may leave undone of 4 GiB, and 2 MiB
UNDER_WAY = WorkingSetPace(
    limit=HELD - STEP, began_at=HELD + GIB, step=STEP, wanted_since=90.0, without_swapping=1, last=REPORT
)


def report(*, size: int = SIZE, spare: int = 0, troubled: bool = False, **changes: Any) -> WorkingSetReport:
    """Make a guest's next report: it gave a step, did not swap, and has some memory left."""
    made = REPORT._replace(**{"updated": 101.0, "actual": HELD - STEP, **changes})
    return WorkingSetReport(size, spare, troubled, made)


def taken(
    pace: WorkingSetPace, of: WorkingSetReport, goal: int = GIB, now: float = 101.0, *, urgent: bool = False
) -> WorkingSetPace:
    return advance(pace, of, goal, now, delay=10.0, urgent=urgent)


@pytest.mark.parametrize(("less", "wanted"), [(0, False), (1, True)])
def test_what_a_guest_works_with_is_wanted_if_its_goal_is_a_dead_band_below_what_it_can_spare(
    less: int, *, wanted: bool
) -> None:
    goal = HELD - 256 * MIB - BAND - less
    pace = taken(WorkingSetPace(), report(spare=256 * MIB, actual=HELD), goal, now=50.0)
    assert pace.wanted_since == (50.0 if wanted else None)


@pytest.mark.parametrize(("now", "begun"), [(59.9, False), (60.0, True)])
def test_what_a_guest_works_with_is_requested_once_it_has_been_wanted_for_the_delay(now: float, *, begun: bool) -> None:
    pace = taken(WorkingSetPace(wanted_since=50.0), report(actual=HELD), now=now)
    assert (pace.limit, pace.began_at) == ((HELD - SMALLEST, HELD) if begun else (None, None))
    assert taken(WorkingSetPace(wanted_since=50.0), report(actual=HELD), now=50.0, urgent=True).limit is not None


@pytest.mark.parametrize(("above", "goes_on"), [(TOLERANCE, False), (TOLERANCE + 1, True)])
def test_what_has_begun_goes_on_until_the_guest_has_reached_its_goal(above: int, *, goes_on: bool) -> None:
    pace = taken(UNDER_WAY, report(spare=GIB), HELD - STEP - above)
    assert (pace.limit is not None) is goes_on
    if not goes_on:
        assert pace == replace(UNDER_WAY, limit=None, wanted_since=None, began_at=None, last=None)


def test_a_report_is_judged_once() -> None:
    pace = taken(UNDER_WAY, report())
    assert taken(pace, report(), now=101.2) == pace
    assert taken(UNDER_WAY, report(updated=99.0)) == UNDER_WAY


@pytest.mark.parametrize(
    ("step", "size", "troubled", "following"),
    [
        (STEP, SIZE, False, 2 * STEP),
        (2 * STEP, SIZE, False, SIZE // 64),
        (SIZE // 64, SIZE, False, SIZE // 64),
        (4 * MIB, 128 * MIB, False, 4 * MIB),
        (4 * STEP, SIZE, True, 2 * STEP),
        (STEP, SIZE, True, SMALLEST),
        (SMALLEST, SIZE, True, SMALLEST),
        (5 * MIB, 512 * MIB, True, 4 * MIB),
    ],
)
def test_steps_double_up_to_a_64th_of_the_size_and_halve_in_trouble_down_to_the_smallest(
    step: int, size: int, following: int, *, troubled: bool
) -> None:
    pace = taken(replace(UNDER_WAY, step=step), report(size=size, troubled=troubled))
    assert (pace.step, pace.limit) == (following, HELD - STEP - following)
    assert pace.last == report().statistics


def test_a_guest_that_suffers_rests_for_five_seconds_unless_the_node_is_short() -> None:
    pace = taken(UNDER_WAY, report(troubled=True))
    assert pace.rests_until == 106.0
    resting = taken(pace, report(updated=102.0), now=105.9)
    assert (resting.step, resting.limit) == (pace.step, pace.limit)
    assert taken(pace, report(updated=102.0), now=106.0).step == 2 * pace.step
    assert taken(pace, report(updated=102.0), now=105.9, urgent=True).step == 2 * pace.step
    assert taken(UNDER_WAY, report()).rests_until == 101.0


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 0),
        ({"usable": SIZE // 128}, 0),
        ({"usable": SIZE // 128 - 1}, 1),
        ({"usable": None}, 1),
        ({"actual": HELD - TOLERANCE}, 0),
        ({"actual": HELD - TOLERANCE + 1}, 1),
        ({"usable": 0, "actual": HELD, "swap_out": 1}, 0),
    ],
)
def test_a_guest_that_is_asked_and_gives_nothing_or_has_nothing_left_and_does_not_swap_is_suspect(
    changes: dict[str, Any], count: int
) -> None:
    pace = taken(replace(UNDER_WAY, without_swapping=0), report(**changes))
    assert pace.without_swapping == count
    assert pace.ability is (SwapAbility.ABLE if "swap_out" in changes else SwapAbility.UNKNOWN)


def test_a_report_of_a_guest_that_was_asked_for_nothing_tells_nothing() -> None:
    stuck = report(actual=HELD, usable=0)
    unasked = replace(UNDER_WAY, limit=HELD - TOLERANCE)
    assert taken(unasked, stuck).without_swapping == 1
    assert taken(unasked, report(actual=HELD, swap_out=4096)).without_swapping == 0, "but it swaps"
    assert taken(replace(unasked, limit=HELD - TOLERANCE - 1), stuck).ability is SwapAbility.UNABLE


def test_a_second_report_without_swapping_stops_it_and_what_swaps_later_is_trusted_anew() -> None:
    first = taken(WorkingSetPace(wanted_since=80.0), WorkingSetReport(SIZE, 0, troubled=False, statistics=REPORT))
    second = taken(first, report(actual=HELD))
    assert (second.ability, second.without_swapping) == (SwapAbility.UNKNOWN, 1)
    third = taken(second, report(actual=HELD, updated=102.0), now=102.0)
    assert (third.ability, third.limit, third.last) == (SwapAbility.UNABLE, None, None)
    assert (third.floor, third.retry.until) == (HELD, 702.0)
    assert taken(third, report(actual=HELD, updated=701.0), now=701.9).ability is SwapAbility.UNABLE
    again = taken(third, report(actual=HELD, updated=702.0), now=702.0)
    assert (again.ability, again.limit) == (SwapAbility.UNKNOWN, HELD - SMALLEST)
    able = taken(again, report(updated=703.0, swap_out=4096), now=703.0)
    assert (able.ability, able.retry) == (SwapAbility.ABLE, Backoff(shortest=600.0, longest=14400.0))


def test_what_may_be_requested_is_what_a_guest_can_spare_or_the_limit_if_that_is_more() -> None:
    assert WorkingSetPace().spare(HELD, None) is None
    assert WorkingSetPace().spare(HELD, 5 * MIB) == 5 * MIB
    assert UNDER_WAY.spare(HELD, None) is None
    assert UNDER_WAY.spare(HELD, 5 * MIB) == STEP
    assert UNDER_WAY.spare(HELD, 2 * STEP) == 2 * STEP


def test_only_a_guest_that_cannot_swap_has_back_what_it_had() -> None:
    assert WorkingSetPace().floor == 0
    assert UNDER_WAY.floor == 0
    assert replace(UNDER_WAY, ability=SwapAbility.UNABLE).floor == HELD + GIB
    assert replace(UNDER_WAY, ability=SwapAbility.UNABLE).stopped().floor == HELD + GIB
    assert WorkingSetPace(ability=SwapAbility.UNABLE).floor == 0
