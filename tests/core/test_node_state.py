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
        (NodeState.AMPLE, 39, NodeState.TIGHT),
        (NodeState.TIGHT, 59, NodeState.TIGHT),
        (NodeState.TIGHT, 60, NodeState.AMPLE),
        (NodeState.TIGHT, 19, NodeState.SCARCE),
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


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="must decrease"):
        state_thresholds(1000, 0, 0, (4, 6, 2, 1))
