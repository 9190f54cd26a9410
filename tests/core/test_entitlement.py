"""The division: bounded, exact, fair, and the same whatever the order."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.entitlement import Claim, divide, scale_minimums
from tests.core.strategies import claim, claims

capacities = st.integers(0, 1 << 41)


def revoked_page_by_page(wanted: list[Claim], capacity: int) -> list[int]:
    """The reference, as ESX does it: while too much is held, who funds its last page least loses it (here a byte)."""
    held = [claim.maximum for claim in wanted]
    while sum(held) > capacity:
        victims = [index for index, claim in enumerate(wanted) if held[index] > claim.minimum]
        if not victims:
            break
        dearest = max(victims, key=lambda index: (wanted[index].price(held[index]), wanted[index].key))
        held[dearest] -= 1
    return held


def sold_byte_by_byte(wanted: list[Claim], capacity: int) -> list[int]:
    """The same run backwards: each byte goes to whoever pays least for it."""
    held = [claim.minimum for claim in wanted]
    while sum(held) < capacity:
        buyers = [index for index, claim in enumerate(wanted) if held[index] < claim.maximum]
        if not buyers:
            break
        cheapest = min(buyers, key=lambda index: (wanted[index].price(held[index] + 1), wanted[index].key))
        held[cheapest] += 1
    return held


@given(claims(), capacities)
def test_every_claim_stays_within_its_bounds(wanted: list[Claim], capacity: int) -> None:
    for each, share in zip(wanted, divide(wanted, capacity), strict=True):
        assert each.minimum <= share <= each.maximum


@given(claims(), capacities)
def test_no_byte_is_lost_or_invented(wanted: list[Claim], capacity: int) -> None:
    least, most = sum(claim.minimum for claim in wanted), sum(claim.maximum for claim in wanted)
    assert sum(divide(wanted, capacity)) == max(least, min(capacity, most))


@given(claims(), capacities, st.integers(0, 1 << 20))
def test_more_capacity_is_less_for_nobody(wanted: list[Claim], capacity: int, more: int) -> None:
    before, after = divide(wanted, capacity), divide(wanted, capacity + more)
    assert all(low <= high for low, high in zip(before, after, strict=True))


@given(claims(), capacities, st.randoms(use_true_random=False))
def test_the_order_of_claims_does_not_matter(wanted: list[Claim], capacity: int, shuffle: random.Random) -> None:
    shares = dict(zip((claim.key for claim in wanted), divide(wanted, capacity), strict=True))
    shuffle.shuffle(wanted)
    assert [shares[claim.key] for claim in wanted] == divide(wanted, capacity)


@given(claims(most=60, at_most=5), st.integers(0, 350))
def test_it_is_what_repeated_min_funding_revocation_comes_to(wanted: list[Claim], capacity: int) -> None:
    assert divide(wanted, capacity) == revoked_page_by_page(wanted, capacity)
    assert divide(wanted, capacity) == sold_byte_by_byte(wanted, capacity)


@given(claim("vm"), st.integers(1, 1 << 38))
def test_the_price_is_the_paper_s_shares_per_page_turned_over(one: Claim, held: int) -> None:
    active = Fraction(min(one.active, held), held)
    tax = 1 / (1 - Fraction(one.idle_tax, 100))
    funding = one.weight / (held * (active + tax * (1 - active)))
    assert one.price(held) == pytest.approx(float(1 / funding), rel=1e-12)


@given(claims(), capacities)
def test_between_the_bounds_all_pay_one_price(wanted: list[Claim], capacity: int) -> None:
    shares = divide(wanted, capacity)
    sellers = [claim.price(share) for claim, share in zip(wanted, shares, strict=True) if share > claim.minimum]
    buyers = [claim.price(share + 1) for claim, share in zip(wanted, shares, strict=True) if share < claim.maximum]
    if sellers and buyers and sum(shares) == capacity:
        assert max(sellers) <= min(buyers)


def test_shares_decide_where_nobody_is_idle() -> None:
    wanted = [Claim("a", 0, 900, 2, 900), Claim("b", 0, 900, 1, 900)]
    assert divide(wanted, 900) == [600, 300]


def test_idle_memory_costs_what_the_tax_says() -> None:
    # At 75 % an idle byte costs four: (100 + 4 * 200) / 1 == 900 / 1.
    wanted = [Claim("idle", 0, 2000, 1, 100, 75), Claim("busy", 0, 2000, 1, 2000, 75)]
    assert divide(wanted, 1200) == [300, 900]


def test_minimums_that_do_not_fit_are_kept_and_scaled_for_the_report() -> None:
    wanted = [Claim("a", 300, 400, 1, 0), Claim("b", 100, 400, 1, 0)]
    assert divide(wanted, 200) == [300, 100]
    assert scale_minimums(np.array([claim.minimum for claim in wanted]), 200).tolist() == [150, 50]


@given(claims(at_most=8).filter(lambda wanted: any(claim.minimum for claim in wanted)), st.integers(0, 1 << 40))
def test_scaled_minimums_add_up_exactly(wanted: list[Claim], capacity: int) -> None:
    assert sum(scale_minimums(np.array([claim.minimum for claim in wanted]), capacity).tolist()) == capacity
