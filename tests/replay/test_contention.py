"""The replay, of nodes whose VMs demand half as much again as there is."""

from __future__ import annotations

import pytest

from hack.bench import contention
from hack.testbed.workloads import CONTENDED_FROM


@pytest.fixture(scope="module")
def shared() -> contention.ContendedNode:
    """Twenty busy VMs whose guests have swap, of which ten have twice the shares of the others."""
    return contention.shares(swap_share=1.0)


@pytest.fixture(scope="module")
def half_swapping() -> contention.ContendedNode:
    """The same VMs, of which half the guests have no swap."""
    return contention.shares(swap_share=0.5)


@pytest.fixture(scope="module")
def claimed() -> contention.ContendedNode:
    """Four VMs that start, and come to work with what they are guaranteed, beside twelve that use all there is."""
    return contention.minimums()


@pytest.mark.parametrize("scene", ["shared", "half_swapping", "claimed"])
def test_nobody_is_killed_or_waits_or_falls_below_its_minimum(scene: str, request: pytest.FixtureRequest) -> None:
    played: contention.ContendedNode = request.getfixturevalue(scene)
    assert played.totals.killed == 0
    assert played.totals.below_min_seconds == 0
    assert played.waiting == 0


def test_shares_hold_among_guests_that_swap(shared: contention.ContendedNode) -> None:
    assert shared.share_error_percent <= 5


def test_shares_do_not_hold_before_the_guests_are_asked_for_what_they_work_with(
    shared: contention.ContendedNode,
) -> None:
    before = next(point for point in shared.recording.points if point.at >= CONTENDED_FROM)
    assert before.held[0] < 1.5 * before.held[1], "twice the shares are worth twice the memory only later"


def test_what_guests_without_swap_keep_is_named(
    half_swapping: contention.ContendedNode, shared: contention.ContendedNode
) -> None:
    assert half_swapping.named_seconds <= 30
    assert not any(point.withheld for point in shared.recording.points)


def test_a_minimum_comes_within_a_minute_from_guests_that_swap(claimed: contention.ContendedNode) -> None:
    assert claimed.short_seconds <= 60
    at_end = claimed.recording.points[-1]
    busy = [held for held, trace in zip(at_end.held, claimed.node.traces, strict=True) if trace.name.startswith("busy")]
    assert sum(busy) < claimed.node.capacity - 4 * claimed.node.traces[-1].size // 2
