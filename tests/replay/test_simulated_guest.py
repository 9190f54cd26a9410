"""The simulated guest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.demand import present_need
from kubeballoon.core.units import GIB
from kubeballoon.replay.simulated_guest import DEFLATION_RATE, INFLATION_RATE, BalloonDriver, SimulatedGuest


def guest(demand: int, request: int, actual: int = 4 * GIB, driver: BalloonDriver | None = None) -> SimulatedGuest:
    simulated = SimulatedGuest(4 * GIB, GIB, float(actual), request, driver or BalloonDriver())
    simulated.set_demand(demand)
    return simulated


def after(seconds: float, simulated: SimulatedGuest) -> SimulatedGuest:
    simulated.advance(seconds)
    return simulated


@given(
    demand=st.integers(0, 4 * GIB),
    request=st.integers(GIB, 4 * GIB),
    actual=st.integers(GIB, 4 * GIB),
    stops=st.lists(st.floats(0, 30), max_size=6),
    swaps=st.booleans(),
)
def test_a_guest_that_is_advanced_more_often_comes_out_the_same(
    demand: int, request: int, actual: int, stops: list[float], *, swaps: bool
) -> None:
    def filling() -> SimulatedGuest:
        made = SimulatedGuest(4 * GIB, GIB, float(actual), request, swaps=swaps, cache_rate=GIB / 8)
        made.set_demand(demand)
        return made

    often = filling()
    for stop in sorted(stops):
        often.advance(stop)
    often.advance(30.0)
    once = after(30.0, filling())
    assert often.resident == pytest.approx(once.resident)
    assert often.actual == pytest.approx(once.actual)
    assert often.unmet == pytest.approx(once.unmet, rel=1e-6, abs=1.0)
    assert often.moved == pytest.approx(once.moved, rel=1e-6, abs=1.0)


def test_balloons_take_slower_than_they_give() -> None:
    assert after(1.0, guest(0, GIB)).actual == 4 * GIB - INFLATION_RATE
    assert after(1.0, guest(0, 4 * GIB, GIB)).actual == GIB + DEFLATION_RATE


def test_demand_above_what_it_holds_is_unmet_swapped_and_faulted() -> None:
    short = guest(3 * GIB, 2 * GIB, 2 * GIB)
    assert short.statistics().major_faults == 0
    short.advance(10.0)
    assert short.unmet == pytest.approx(10.0 * GIB)
    assert short.swapped > 0
    assert (short.statistics().major_faults or 0) > 0


def test_it_reports_what_it_works_with() -> None:
    assert present_need(guest(GIB, 2 * GIB, 2 * GIB).statistics()) == GIB


def test_a_hidden_lower_limit_and_a_stuck_driver_stop_the_balloon() -> None:
    assert after(60.0, guest(0, GIB, driver=BalloonDriver(floor=3 * GIB))).actual == 3 * GIB
    stuck = guest(0, GIB, driver=BalloonDriver(stuck=(0.0, 30.0)))
    assert after(30.0, stuck).actual == 4 * GIB
    assert after(60.0, stuck).actual == GIB
    assert after(60.0, guest(0, GIB, driver=BalloonDriver(stuck=(0.0, 30.0)))).actual == GIB


def test_a_guest_without_swap_keeps_what_it_works_with() -> None:
    kept = SimulatedGuest(4 * GIB, GIB, 4.0 * GIB, 4 * GIB, swaps=False)
    kept.set_demand(3 * GIB)
    kept.set_request(GIB)
    assert after(60.0, kept).actual == 3 * GIB
    kept.set_demand(2 * GIB)
    assert after(120.0, kept).actual == 2 * GIB, "its driver goes on when there is more to take"
    kept.set_demand(3 * GIB)
    kept.advance(130.0)
    assert kept.unmet == pytest.approx(10.0 * GIB)
    assert (kept.statistics().swap_out, kept.statistics().major_faults) != (0, 0)
    assert kept.statistics().swap_out == 0


def test_a_page_cache_fills_what_the_balloon_leaves_and_is_usable_all_the_same() -> None:
    cached = SimulatedGuest(4 * GIB, GIB, 4.0 * GIB, 4 * GIB, cache_rate=GIB / 100)
    cached.set_demand(GIB)
    cached.advance(100.0)
    assert cached.resident == pytest.approx(2 * GIB)
    statistics = cached.statistics()
    assert statistics.disk_caches == pytest.approx(GIB)
    assert statistics.usable == pytest.approx(3 * GIB)
    assert statistics.unused == pytest.approx(2 * GIB)
    assert after(1000.0, cached).resident == 4 * GIB
    cached.set_request(2 * GIB)
    assert after(1010.0, cached).resident == 2 * GIB
