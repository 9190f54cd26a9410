"""What holds on a node whose VMs' demands exceed its memory: shares, minimums, and words for what cannot be had."""

from __future__ import annotations

import pytest

from hack.testbed.closed_loop import EVICTION_THRESHOLD, OVERHEAD, ClosedLoop, ModelGuest, constant, memory_policy, ramp
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import NodeState

IRON = memory_policy("iron", min="25%")
GOLD = memory_policy("gold", min="25%", shares=4000)
HALF = memory_policy("half", min="50%")
MARGIN = 1.05  # shares are enforced within 5 %


def two_busy_guests(*, swap_of_a: int = 8 * GIB, cold_of_a: int = 0, shares_of_b: int = 1000) -> ClosedLoop:
    """Two guests of 8 GiB on a node with 11 GiB for them: A works with 7.5 GiB, B with as much from minute 15 on."""
    policy = GOLD if shares_of_b > 1000 else IRON
    a = ModelGuest("a", 8 * GIB, IRON, constant(7.5 * GIB), cold=cold_of_a, swap=swap_of_a)
    b = ModelGuest("b", 8 * GIB, policy, ramp(GIB, 7.5 * GIB, start=600, rate=0.02 * GIB), swap=8 * GIB)
    return ClosedLoop(12 * GIB, [a, b], period=1.0)


def three_busy_guests(swap: int) -> ClosedLoop:
    """Three guests of 8 GiB, each sure of half, on a node with 14.8 GiB for them.

    A and B work with 7 GiB. C starts at minute 10, and comes to work with the 4 GiB that it is sure of.
    """
    guests = [ModelGuest(name, 8 * GIB, HALF, constant(7 * GIB), swap=swap) for name in "ab"]
    c = ModelGuest("c", 8 * GIB, HALF, ramp(GIB / 2, 4 * GIB, start=600, rate=0.02 * GIB), swap=swap, starts_at=600)
    return ClosedLoop(16 * GIB, [*guests, c], period=1.0)


def assert_calm(loop: ClosedLoop, since: float) -> None:
    """Check that the node has been Ample since a time, in seconds, and never came near an eviction."""
    assert loop.state is NodeState.AMPLE
    assert loop.changes_of_state(since) == 0
    assert loop.lowest_available > EVICTION_THRESHOLD


@pytest.mark.parametrize(("shares", "entitled"), [(1000, 5.52), (4000, 7.5)])
def test_a_guest_that_can_swap_gives_what_another_has_a_better_claim_to(shares: int, entitled: float) -> None:
    loop = two_busy_guests(shares_of_b=shares).run(1500)
    assert loop.guest("b").actual * MARGIN >= entitled * GIB
    assert loop.guest("a").actual <= (11.04 - entitled) * GIB * MARGIN
    assert loop.guest("a").lowest_actual >= 2 * GIB, "its minimum"
    unmet = loop.guest("b").unmet
    assert_calm(loop.run(2100), since=1500)
    assert loop.guest("b").unmet - unmet <= (7.5 - entitled / MARGIN) * GIB * 600


def test_what_a_guest_does_not_touch_is_taken_without_harm() -> None:
    loop = two_busy_guests(cold_of_a=4 * GIB, shares_of_b=4000).run(1500)
    assert loop.guest("b").actual * MARGIN >= 7.5 * GIB
    assert loop.guest("a").unmet < 0.1 * GIB * 60
    assert_calm(loop.run(2100), since=1500)
    assert loop.guest("a").lacks + loop.guest("b").lacks < 16 * MIB, "less is worth no request"


@pytest.mark.parametrize("shares", [1000, 4000])
def test_nobody_waits_for_what_a_guest_without_swap_cannot_give(shares: int) -> None:
    loop = two_busy_guests(swap_of_a=0, shares_of_b=shares).run(1500)
    a, b = loop.guest("a"), loop.guest("b")
    assert a.unmet == 0
    assert max(loop.longest_waits.values(), default=0.0) <= 30
    assert loop.decision("b").entitlement <= loop.plan.sharers_capacity, "it is entitled to nothing that A keeps"
    assert loop.decision("b").entitlement + a.actual <= (11.05 + 0.05) * GIB
    assert b.actual * MARGIN >= 11.05 * GIB - a.actual
    assert_calm(loop.run(2100), since=1500)


def test_shares_hold_within_five_percent_where_demands_exceed_the_node_by_half() -> None:
    """Three guests of 8 GiB work with 7.5 GiB each, and share 15 GiB as 1 : 1 : 4, of which the third needs no 4.

    The first gives 3.7 GiB in all, from second 500 on: a step of 32 MiB every 6 s, for it swaps all the while.
    """
    guests = [
        ModelGuest("iron-0", 8 * GIB, IRON, constant(7.5 * GIB), swap=8 * GIB),
        ModelGuest("iron-1", 8 * GIB, IRON, ramp(GIB, 7.5 * GIB, start=300, rate=0.02 * GIB), swap=8 * GIB),
        ModelGuest("gold", 8 * GIB, GOLD, ramp(GIB, 7.5 * GIB, start=500, rate=0.02 * GIB), swap=8 * GIB),
    ]
    loop = ClosedLoop(int((15 * GIB + 3 * OVERHEAD) / 0.94), guests, period=1.0).run(1300)
    for guest, part in zip(guests, (3.75, 3.75, 7.5), strict=True):
        assert guest.actual == pytest.approx(part * GIB, rel=0.05)
        assert guest.lowest_actual >= 2 * GIB
    assert loop.lowest_available > EVICTION_THRESHOLD


def test_what_a_guest_without_swap_withholds_is_named_within_half_a_minute() -> None:
    loop = two_busy_guests(swap_of_a=0)
    loop.run(600)
    while loop.decision("a").entitlement >= 7.5 * GIB:
        loop.step()
        assert loop.now < 1200, "A's part becomes less than it works with"
    loop.run(loop.now + 30)
    decision = loop.decision("a")
    assert (decision.reason, decision.withheld > 0) == (DecisionReason.WITHHOLDING, True)
    assert "it cannot swap: it keeps that" in decision.message


def test_a_minimum_is_delivered_within_a_minute_where_guests_can_swap() -> None:
    loop = three_busy_guests(swap=8 * GIB).run(900)
    c = loop.guest("c")
    assert c.unmet <= 0.1 * GIB * 60
    assert all(guest.lowest_actual >= 4 * GIB for guest in loop.guests)
    assert_calm(loop.run(1500), since=900)
    assert max(loop.longest_waits.values(), default=0.0) <= 60


def test_minimums_that_cannot_be_had_from_guests_without_swap_are_a_shortfall() -> None:
    loop = three_busy_guests(swap=0).run(775 + 60)
    a, b, c = loop.guests
    assert a.unmet == b.unmet == c.unmet == 0
    assert c.lowest_actual >= 4 * GIB
    assert loop.plan.shortfall >= a.actual + b.actual + c.actual - 14.76 * GIB - 0.1 * GIB
    assert max(loop.longest_waits.values(), default=0.0) <= 30
