"""How a guest is asked for memory that it works with: step by step, as long as it can swap."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

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
