"""The division: bounded, exact, fair, and the same whatever the order."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.entitlement import Claim, divide, scale_minimums
from tests.core.generators import claim, claims

capacities = st.integers(0, 1 << 41)


def revoked_page_by_page(drawn: list[Claim], capacity: int) -> list[int]:
    """Divide as ESX does: while too much is allocated, who funds its last page (here byte) least loses it."""
    allocations = [claim.maximum for claim in drawn]
    while sum(allocations) > capacity:
        victims = [index for index, claim in enumerate(drawn) if allocations[index] > claim.minimum]
        if not victims:
            break
        dearest = max(victims, key=lambda index: (drawn[index].price(allocations[index]), drawn[index].key))
        allocations[dearest] -= 1
    return allocations


def sold_byte_by_byte(drawn: list[Claim], capacity: int) -> list[int]:
    """Divide by the same rule run backwards: each byte goes to the claim whose price for it is lowest."""
    allocations = [claim.minimum for claim in drawn]
    while sum(allocations) < capacity:
        buyers = [index for index, claim in enumerate(drawn) if allocations[index] < claim.maximum]
        if not buyers:
            break
        cheapest = min(buyers, key=lambda index: (drawn[index].price(allocations[index] + 1), drawn[index].key))
        allocations[cheapest] += 1
    return allocations


@given(claims(), capacities)
def test_every_claim_stays_within_its_bounds(drawn: list[Claim], capacity: int) -> None:
    for each, share in zip(drawn, divide(drawn, capacity), strict=True):
        assert each.minimum <= share <= each.maximum


@given(claims(), capacities)
def test_no_byte_is_lost_or_invented(drawn: list[Claim], capacity: int) -> None:
    least, most = sum(claim.minimum for claim in drawn), sum(claim.maximum for claim in drawn)
    assert sum(divide(drawn, capacity)) == max(least, min(capacity, most))


@given(claims(), capacities, st.integers(0, 1 << 20))
def test_more_capacity_is_less_for_nobody(drawn: list[Claim], capacity: int, more: int) -> None:
    before, after = divide(drawn, capacity), divide(drawn, capacity + more)
    assert all(low <= high for low, high in zip(before, after, strict=True))


@given(claims(), capacities, st.randoms(use_true_random=False))
def test_the_order_of_claims_does_not_matter(drawn: list[Claim], capacity: int, shuffle: random.Random) -> None:
    shares = dict(zip((claim.key for claim in drawn), divide(drawn, capacity), strict=True))
    shuffle.shuffle(drawn)
    assert [shares[claim.key] for claim in drawn] == divide(drawn, capacity)


@given(claims(most=60, at_most=5), st.integers(0, 350))
def test_the_division_is_that_of_repeated_min_funding_revocation(drawn: list[Claim], capacity: int) -> None:
    assert divide(drawn, capacity) == revoked_page_by_page(drawn, capacity)
    assert divide(drawn, capacity) == sold_byte_by_byte(drawn, capacity)


@given(claim("vm"), st.integers(1, 1 << 38))
def test_the_price_is_the_inverse_of_the_paper_s_shares_per_page(one: Claim, allocation: int) -> None:
    active = Fraction(min(one.active, allocation), allocation)
    tax = 1 / (1 - Fraction(one.idle_tax, 100))
    funding = one.weight / (allocation * (active + tax * (1 - active)))
    assert one.price(allocation) == pytest.approx(float(1 / funding), rel=1e-12)


@given(claims(), capacities)
def test_between_the_bounds_all_pay_one_price(drawn: list[Claim], capacity: int) -> None:
    shares = divide(drawn, capacity)
    sellers = [claim.price(share) for claim, share in zip(drawn, shares, strict=True) if share > claim.minimum]
    buyers = [claim.price(share + 1) for claim, share in zip(drawn, shares, strict=True) if share < claim.maximum]
    if sellers and buyers and sum(shares) == capacity:
        assert max(sellers) <= min(buyers)


def test_shares_decide_where_nobody_is_idle() -> None:
    declared = [Claim("a", 0, 900, 2, 900), Claim("b", 0, 900, 1, 900)]
    assert divide(declared, 900) == [600, 300]


def test_idle_memory_costs_what_the_tax_says() -> None:
    # At 75 % an idle byte costs four: (100 + 4 * 200) / 1 == 900 / 1.
    declared = [Claim("idle", 0, 2000, 1, 100, 75), Claim("busy", 0, 2000, 1, 2000, 75)]
    assert divide(declared, 1200) == [300, 900]


def test_minimums_that_do_not_fit_are_kept_and_scaled_for_the_report() -> None:
    declared = [Claim("a", 300, 400, 1, 0), Claim("b", 100, 400, 1, 0)]
    assert divide(declared, 200) == [300, 100]
    assert scale_minimums(np.array([claim.minimum for claim in declared]), 200).tolist() == [150, 50]


@given(claims(at_most=8).filter(lambda drawn: any(claim.minimum for claim in drawn)), st.integers(0, 1 << 40))
def test_scaled_minimums_add_up_exactly(drawn: list[Claim], capacity: int) -> None:
    assert sum(scale_minimums(np.array([claim.minimum for claim in drawn]), capacity).tolist()) == capacity


@pytest.mark.parametrize("idle_tax", [0, 75])
@given(st.integers(1, 600), st.integers(1, 100), st.integers(0, 10**6))
def test_many_like_claims_divide_every_capacity_exactly(idle_tax: int, count: int, maximum: int, capacity: int) -> None:
    """All of them round alike, and reach their maximums at one price."""
    like = [Claim(f"vm-{index:03}", 0, maximum, 1, 50, idle_tax) for index in range(count)]
    capacity %= count * maximum + 1
    shares = divide(like, capacity)
    assert sum(shares) == capacity
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True), "bytes left over go by the claims' keys"


@pytest.mark.parametrize("seed", range(10))
def test_the_last_bytes_before_all_have_their_maximums_are_sold(seed: int) -> None:
    """At the end of the curve many claims reach their maximums at almost one price, and rounding adds up."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    almost_alike = [
        Claim(f"vm-{index:03}", 0, 1000 + draw.choice([0, 0, draw.randint(0, 5)]), draw.choice([1, 1, 2]), 2000)
        for index in range(500)
    ]
    most = sum(claim.maximum for claim in almost_alike)
    for missing in (1, 2, 3):
        assert sum(divide(almost_alike, most - missing)) == most - missing


@pytest.mark.parametrize("maximum", [1900, 1901, 5000])
@pytest.mark.parametrize("capacity", range(1895, 1911))
def test_a_claim_of_many_shares_may_buy_several_of_the_last_bytes(maximum: int, capacity: int) -> None:
    """Its next bytes differ less in price than the first bytes of claims with few shares."""
    declared = [Claim("heavy", 0, maximum, 1000, 5000), Claim("light", 0, 9, 1, 9), Claim("lighter", 0, 9, 1, 9)]
    assert divide(declared, capacity) == sold_byte_by_byte(declared, capacity)
