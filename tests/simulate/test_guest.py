"""The modelled guest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.demand import present_need
from kubeballoon.core.model import GIB
from kubeballoon.simulate.guest import DEFLATION, INFLATION, Driver, Guest


def guest(demand: int, request: int, actual: int = 4 * GIB, driver: Driver | None = None) -> Guest:
    return Guest(4 * GIB, GIB, float(actual), request, driver or Driver()).demanding(demand)


@given(
    demand=st.integers(0, 4 * GIB),
    request=st.integers(GIB, 4 * GIB),
    actual=st.integers(GIB, 4 * GIB),
    looks=st.lists(st.floats(0, 30), max_size=6),
)
def test_looking_at_it_changes_nothing(demand: int, request: int, actual: int, looks: list[float]) -> None:
    start = guest(demand, request, actual)
    looked_at = start
    for moment in sorted(looks):
        looked_at = looked_at.until(moment)
    once, often = start.until(30.0), looked_at.until(30.0)
    assert often.actual == pytest.approx(once.actual)
    assert often.unmet == pytest.approx(once.unmet, rel=1e-6, abs=1.0)
    assert often.moved == pytest.approx(once.moved, rel=1e-6, abs=1.0)


def test_balloons_take_slower_than_they_give() -> None:
    assert guest(0, GIB).until(1.0).actual == 4 * GIB - INFLATION
    assert guest(0, 4 * GIB, GIB).until(1.0).actual == GIB + DEFLATION


def test_demand_above_what_it_holds_is_unmet_swapped_and_faulted() -> None:
    start = guest(3 * GIB, 2 * GIB, 2 * GIB)
    later = start.until(10.0)
    assert later.unmet == pytest.approx(10.0 * GIB)
    assert later.swapped > 0
    before, after = start.statistics().major_faults, later.statistics().major_faults
    assert before is not None
    assert after is not None
    assert after > before


def test_it_reports_what_it_works_with() -> None:
    assert present_need(guest(GIB, 2 * GIB, 2 * GIB).statistics()) == GIB


def test_a_hidden_lower_limit_and_a_stuck_driver_stop_the_balloon() -> None:
    assert guest(0, GIB, driver=Driver(floor=3 * GIB)).until(60.0).actual == 3 * GIB
    stuck = guest(0, GIB, driver=Driver(stuck=(0.0, 30.0)))
    assert stuck.until(30.0).actual == 4 * GIB
    assert replace(stuck, at=0.0).until(60.0).actual == GIB
