"""Which of balloon and guest program reclaims a guest's memory: all inputs, and what the two do together."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.reclaim_state import BalloonStatus, ReclaimState, may_need_program, reclaim_state
from kubeballoon.vocabulary import ReclaimMethod

MIB = 1 << 20
AUTO, BALLOON, GUEST_AGENT = ReclaimMethod.AUTO, ReclaimMethod.BALLOON, ReclaimMethod.GUEST_AGENT
WORKS = (None, False, True)
LOCKED = (None, 0, MIB)
ALL_INPUTS = list(product(ReclaimMethod, WORKS, (False, True), LOCKED))


def expected(method: ReclaimMethod, works: bool | None, locked: int | None, *, inflated: bool) -> ReclaimState:  # noqa: FBT001 - of three values
    """Read the state off a table by hand."""
    program_is_chosen = method is GUEST_AGENT or (method, works, locked is None) == (AUTO, False, False)
    return {
        (True, True): ReclaimState.EMPTYING_BALLOON,
        (True, False): ReclaimState.PROGRAM_RECLAIMS,
        (False, True): ReclaimState.EMPTYING_PROGRAM,
        (False, False): ReclaimState.BALLOON_RECLAIMS,
    }[program_is_chosen, inflated if program_is_chosen else bool(locked)]


@pytest.mark.parametrize(("method", "works", "inflated", "locked"), ALL_INPUTS)
def test_every_input_has_its_state(
    method: ReclaimMethod,
    works: bool | None,  # noqa: FBT001 - a parameter
    inflated: bool,  # noqa: FBT001 - a parameter
    locked: int | None,
) -> None:
    state = reclaim_state(method, BalloonStatus(works, inflated), locked)
    assert state is expected(method, works, locked, inflated=inflated)


@pytest.mark.parametrize(("method", "works", "inflated", "locked"), ALL_INPUTS)
def test_neither_reclaims_while_the_other_keeps_memory_from_the_guest(
    method: ReclaimMethod,
    works: bool | None,  # noqa: FBT001 - a parameter
    inflated: bool,  # noqa: FBT001 - a parameter
    locked: int | None,
) -> None:
    state = reclaim_state(method, BalloonStatus(works, inflated), locked)
    if state is ReclaimState.PROGRAM_RECLAIMS:
        assert not inflated
    if state is ReclaimState.BALLOON_RECLAIMS:
        assert not locked


def test_every_state_is_reached() -> None:
    reached = {
        reclaim_state(method, BalloonStatus(works, inflated), locked) for method, works, inflated, locked in ALL_INPUTS
    }
    assert reached == set(ReclaimState)


@pytest.mark.parametrize(
    ("method", "worth_asking"),
    [(AUTO, (True, True, False)), (GUEST_AGENT, (True, True, True)), (BALLOON, (False, False, False))],
)
def test_a_program_is_asked_for_where_the_balloon_may_not_be_enough(
    method: ReclaimMethod, worth_asking: tuple[bool, ...]
) -> None:
    assert tuple(may_need_program(method, BalloonStatus(works)) for works in WORKS) == worth_asking


@given(
    minimum=st.integers(0, 1024),
    events=st.lists(st.tuples(st.sampled_from(ReclaimMethod), st.sampled_from(WORKS), st.integers(0, 1024))),
)
def test_together_the_two_never_take_a_guest_below_its_minimum(
    minimum: int, events: list[tuple[ReclaimMethod, bool | None, int]]
) -> None:
    """Whatever is asked and in whatever order, with a guest that follows as far as it likes; figures are MiB."""
    size, balloon, locked = 1024, 0, 0
    for method, works, moved in events:
        state = reclaim_state(method, BalloonStatus(works, inflated=balloon > 0), locked)
        allowed = min(moved, size - minimum)
        match state:
            case ReclaimState.BALLOON_RECLAIMS:
                balloon = allowed
            case ReclaimState.PROGRAM_RECLAIMS:
                locked = allowed
            case ReclaimState.EMPTYING_BALLOON:
                balloon = max(0, balloon - moved)
            case ReclaimState.EMPTYING_PROGRAM:
                locked = max(0, locked - moved)
        assert size - balloon - locked >= minimum
