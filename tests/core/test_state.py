"""A node's state, and how hard it is to leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.model import State
from kubeballoon.core.state import Stall, StallLimits, Thresholds, next_state, thresholds

LIMITS = Thresholds(high=60, soft=40, hard=20, low=10)
CALM = Stall()
STALL = StallLimits()


@pytest.mark.parametrize(
    ("before", "available", "after"),
    [
        (State.HIGH, 50, State.HIGH),
        (State.HIGH, 39, State.SOFT),
        (State.SOFT, 59, State.SOFT),
        (State.SOFT, 60, State.HIGH),
        (State.SOFT, 19, State.HARD),
        (State.HARD, 39, State.HARD),
        (State.HARD, 40, State.SOFT),
        (State.HIGH, 9, State.LOW),
        (State.LOW, 19, State.LOW),
        (State.LOW, 20, State.HARD),
        (State.LOW, 100, State.HIGH),
    ],
)
def test_states_are_entered_below_their_threshold_and_left_at_the_next(
    before: State, available: int, after: State
) -> None:
    assert next_state(before, available, LIMITS, CALM, STALL) is after


@given(st.sampled_from(State), st.integers(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_a_state_lasts_while_nothing_changes(before: State, available: int, some: float, full: float) -> None:
    stall = Stall(some, full)
    state = next_state(before, available, LIMITS, stall, STALL)
    assert next_state(state, available, LIMITS, stall, STALL) is state


def test_a_stall_counts_whatever_memory_looks_free() -> None:
    assert next_state(State.HIGH, 100, LIMITS, Stall(some=25), STALL) is State.SOFT
    assert next_state(State.HIGH, 100, LIMITS, Stall(some=50, full=12), STALL) is State.HARD
    assert next_state(State.HARD, 100, LIMITS, Stall(some=50, full=6), STALL) is State.HARD
    assert next_state(State.HARD, 100, LIMITS, Stall(some=5, full=4), STALL) is State.HIGH


@given(st.integers(1 << 26, 1 << 42), st.integers(0, 1 << 32), st.integers(0, 1 << 28))
def test_no_threshold_is_below_what_the_kubelet_evicts_at(total: int, eviction: int, margin: int) -> None:
    found = thresholds(total, eviction, margin)
    assert eviction + margin <= found.low < found.hard < found.soft < found.high


def test_the_defaults_are_those_of_esx() -> None:
    assert thresholds(10_000, 0, 0) == Thresholds(high=600, soft=400, hard=200, low=100)


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="must decrease"):
        thresholds(1000, 0, 0, (4, 6, 2, 1))
