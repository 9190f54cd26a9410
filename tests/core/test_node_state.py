"""When a node enters a state, and when it leaves it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.node_state import MemoryStall, StallLimits, StateThresholds, next_state, state_thresholds
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import NodeState

THRESHOLDS = StateThresholds(ample=60, tight=40, scarce=20, critical=10)
CALM = MemoryStall()
STALL = StallLimits()


@pytest.mark.parametrize(
    ("before", "available", "after"),
    [
        (NodeState.AMPLE, 50, NodeState.AMPLE),
        (NodeState.AMPLE, 40, NodeState.AMPLE),
        (NodeState.AMPLE, 39, NodeState.TIGHT),
        (NodeState.TIGHT, 59, NodeState.TIGHT),
        (NodeState.TIGHT, 60, NodeState.AMPLE),
        (NodeState.TIGHT, 20, NodeState.TIGHT),
        (NodeState.TIGHT, 19, NodeState.SCARCE),
        (NodeState.SCARCE, 10, NodeState.SCARCE),
        (NodeState.SCARCE, 9, NodeState.CRITICAL),
        (NodeState.SCARCE, 39, NodeState.SCARCE),
        (NodeState.SCARCE, 40, NodeState.TIGHT),
        (NodeState.AMPLE, 9, NodeState.CRITICAL),
        (NodeState.CRITICAL, 19, NodeState.CRITICAL),
        (NodeState.CRITICAL, 20, NodeState.SCARCE),
        (NodeState.CRITICAL, 100, NodeState.AMPLE),
    ],
)
def test_states_are_entered_below_their_threshold_and_left_at_the_next(
    before: NodeState, available: int, after: NodeState
) -> None:
    assert next_state(before, available, THRESHOLDS, CALM, STALL) is after


@given(st.sampled_from(NodeState), st.integers(0, 300), st.floats(0, 100), st.floats(0, 100))
def test_a_state_lasts_while_nothing_changes(before: NodeState, available: int, some: float, full: float) -> None:
    stall = MemoryStall(some, full)
    state = next_state(before, available, THRESHOLDS, stall, STALL)
    assert next_state(state, available, THRESHOLDS, stall, STALL) is state


def test_a_stall_counts_while_free_memory_is_near_the_thresholds() -> None:
    assert next_state(NodeState.AMPLE, 100, THRESHOLDS, MemoryStall(some=25), STALL) is NodeState.TIGHT
    assert next_state(NodeState.AMPLE, 100, THRESHOLDS, MemoryStall(some=50, full=12), STALL) is NodeState.SCARCE
    assert next_state(NodeState.SCARCE, 100, THRESHOLDS, MemoryStall(some=50, full=6), STALL) is NodeState.SCARCE
    assert next_state(NodeState.SCARCE, 100, THRESHOLDS, MemoryStall(some=5, full=4), STALL) is NodeState.AMPLE


def test_a_container_that_thrashes_at_its_own_limit_makes_no_node_short() -> None:
    total, thrashing = 64 * GIB, MemoryStall(some=25, full=12)
    thresholds = state_thresholds(total, eviction=100 * MIB, margin=64 * MIB)
    assert next_state(NodeState.AMPLE, 23 * GIB, thresholds, thrashing, STALL) is NodeState.AMPLE
    assert next_state(NodeState.SCARCE, 23 * GIB, thresholds, thrashing, STALL) is NodeState.AMPLE
    assert next_state(NodeState.AMPLE, 7 * GIB, thresholds, thrashing, STALL) is NodeState.SCARCE


@pytest.mark.parametrize(
    ("before", "available", "after"),
    [
        (NodeState.AMPLE, 119, NodeState.SCARCE),
        (NodeState.AMPLE, 120, NodeState.AMPLE),
        (NodeState.SCARCE, 179, NodeState.SCARCE),
        (NodeState.SCARCE, 180, NodeState.AMPLE),
    ],
)
def test_a_state_of_a_stall_is_left_only_when_much_more_is_free(
    before: NodeState, available: int, after: NodeState
) -> None:
    assert next_state(before, available, THRESHOLDS, MemoryStall(some=25, full=12), STALL) is after


@given(st.integers(1 << 26, 1 << 42), st.integers(0, 1 << 32), st.integers(0, 1 << 28))
def test_no_threshold_is_below_what_the_kubelet_evicts_at(total: int, eviction: int, margin: int) -> None:
    found = state_thresholds(total, eviction, margin)
    assert eviction + margin <= found.critical < found.scarce < found.tight < found.ample


def test_the_defaults_are_those_of_esx() -> None:
    assert state_thresholds(10_000, 0, 0) == StateThresholds(ample=600, tight=400, scarce=200, critical=100)


def test_thresholds_are_percentages_of_the_memory_and_keep_their_distance_from_a_lowest_that_was_raised() -> None:
    assert state_thresholds(10_000, 0, 0, (50, 30, 10, 5)) == StateThresholds(5000, 3000, 1000, 500)
    assert state_thresholds(10_000, 300, 50) == StateThresholds(ample=850, tight=650, scarce=450, critical=350)
    assert state_thresholds(10_000, 60, 40) == StateThresholds(ample=600, tight=400, scarce=200, critical=100)
    assert state_thresholds(1000, 0, 0, (100, 2, 1, 0)) == StateThresholds(1000, 20, 10, 0)


@pytest.mark.parametrize(
    "percents",
    [(4, 6, 2, 1), (6, 2, 4, 1), (6, 4, 1, 2), (6, 6, 2, 1), (6, 4, 4, 1), (6, 4, 2, 2), (101, 4, 2, 1), (6, 4, 2, -1)],
)
def test_thresholds_out_of_order_are_refused(percents: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="must decrease"):
        state_thresholds(1000, 0, 0, percents)


@pytest.mark.parametrize(
    ("before", "stall", "after"),
    [
        (NodeState.AMPLE, MemoryStall(some=20), NodeState.TIGHT),
        (NodeState.AMPLE, MemoryStall(some=19.9), NodeState.AMPLE),
        (NodeState.TIGHT, MemoryStall(some=10), NodeState.TIGHT),
        (NodeState.TIGHT, MemoryStall(some=9.9), NodeState.AMPLE),
        (NodeState.TIGHT, MemoryStall(full=9.9), NodeState.AMPLE),
        (NodeState.AMPLE, MemoryStall(full=10), NodeState.SCARCE),
        (NodeState.SCARCE, MemoryStall(full=5), NodeState.SCARCE),
        (NodeState.SCARCE, MemoryStall(some=10, full=4.9), NodeState.TIGHT),
    ],
)
def test_a_stall_counts_from_its_limit_on_and_until_half_of_it(
    before: NodeState, stall: MemoryStall, after: NodeState
) -> None:
    assert next_state(before, 100, THRESHOLDS, stall, STALL) is after
