"""How often guests report: each second where memory may soon be lacking, else as seldom as the agent is told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from kubeballoon.core.memory.statistics_period import GrowthMargin, stale_after, statistics_period
from kubeballoon.core.units import GIB

SIZE = 8 * GIB


@dataclass(frozen=True)
class Case:
    """A guest of 8 GiB, and the seconds between two of its reports where others have 10."""

    margin: GrowthMargin
    period: int


CASES = {
    "little to spare": Case(GrowthMargin(SIZE, 4 * GIB, 2 * GIB, SIZE), 1),
    "just enough to spare": Case(GrowthMargin(SIZE, 4 * GIB, 4 * GIB - SIZE * 3 // 10 - 1, SIZE), 10),
    "grew and may soon have little": Case(GrowthMargin(SIZE, 6 * GIB, 2 * GIB, SIZE, growth=2 * GIB), 1),
    "grew and has enough all the same": Case(GrowthMargin(SIZE, 6 * GIB, 2 * GIB, SIZE, growth=GIB), 10),
    "works with more than it has": Case(GrowthMargin(SIZE, 4 * GIB, 5 * GIB, SIZE), 1),
    "has all of its memory": Case(GrowthMargin(SIZE, SIZE, 7 * GIB, SIZE), 10),
    "has all that its policy allows": Case(GrowthMargin(SIZE, 4 * GIB, 4 * GIB, 4 * GIB), 10),
    "says nothing": Case(GrowthMargin(SIZE, 4 * GIB, None, SIZE), 10),
    "is asked for what it works with": Case(GrowthMargin(SIZE, SIZE, GIB, SIZE, reclaims_working_set=True), 1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_guest_that_may_soon_lack_memory_reports_each_second(case: Case) -> None:
    assert statistics_period(case.margin, 10) == case.period


def test_no_guest_reports_less_often_than_it_is_told_to() -> None:
    little = CASES["little to spare"].margin
    assert statistics_period(little, 0.5) == 0.5


@pytest.mark.parametrize(("period", "base", "seconds"), [(10, 10, 30), (1, 10, 15), (1, 1, 3), (60, 60, 180)])
def test_statistics_are_stale_after_three_missing_reports_but_not_for_a_guest_that_is_late(
    period: float, base: float, seconds: float
) -> None:
    assert stale_after(period, base) == seconds
