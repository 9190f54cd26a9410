"""This module divides memory among VMs by shares and idle tax, as ESX does: it finds the price at which all is sold.

A VM with weight S and active memory A pays the price C(P)/S for an allocation of P bytes. C(P) is P up to A and
A + k(P - A) above it, with k = 1/(1 - idle tax): idle memory costs k times as much.

This is min-funding revocation (Waldspurger, "Memory Resource Management in VMware ESX Server", OSDI 2002, section 5.2)
turned round. ESX revokes memory page by page, always from the VM with the fewest shares for each page, which is the one
with the highest price C(P)/S. This module looks for the price at which that ends. C is increasing, so both lead to the
same division. The amount sold is piecewise linear in the price, so no iteration is needed.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Sequence
from itertools import accumulate, chain, repeat
from operator import mul
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The price found is lowered by this factor, so that rounding of the float operations that found it cannot make it too
# high: memory would be sold twice. That costs less than a byte in 8 TiB. Bytes left unsold are then sold one by one.
_ROUNDING_MARGIN = 1 - 2.0**-42


class Claim(NamedTuple):
    """A Claim is what one VM may be allocated, and on what terms; amounts are bytes.

    Attributes:
        key: unique among the claims; it settles ties, so that the order of the claims does not matter.
        minimum: the least that the VM is allocated.
        maximum: the most that the VM is allocated.
        weight: the policy's shares times the VM's size, positive; less than 2**56 for all claims together.
        active: the allocation up to which the VM is not taxed.
        idle_tax: percent, 0 to 99.
    """

    key: str
    minimum: int
    maximum: int
    weight: int
    active: int
    idle_tax: int = 0

    def price(self, allocation: int) -> float:
        """Return the price C(P)/S that the VM pays for an allocation of P bytes."""
        idle = allocation - self.active
        cost = allocation if idle <= 0 else self.active + idle * 100 / (100 - self.idle_tax)
        return cost / self.weight


class Claims(NamedTuple):
    """Claims are the claims of many VMs, with one column for each attribute of a Claim, in the same order."""

    key: Sequence[str]
    minimum: Ints
    maximum: Ints
    weight: Ints
    active: Ints
    idle_tax: Ints

    def price(self, allocations: Ints) -> Floats:
        """Return the price that each VM pays for its allocation."""
        idle = allocations - self.active
        cost = np.where(idle <= 0, allocations, self.active + idle * 100 / (100 - self.idle_tax))
        return cost / self.weight

    def price_at(self, index: int, allocation: int) -> float:
        """Return the price that the VM in row ``index`` pays for an allocation."""
        claim = Claim(
            key=self.key[index],
            minimum=self.minimum.item(index),
            maximum=self.maximum.item(index),
            weight=self.weight.item(index),
            active=self.active.item(index),
            idle_tax=self.idle_tax.item(index),
        )
        return claim.price(allocation)


def divide(claims: Sequence[Claim], capacity: int) -> list[int]:
    """Divide ``capacity`` bytes among the claims, in O(n log n).

    Every allocation is within its bounds, and the sum is exactly the capacity or, if that is less, the sum of the
    maximums. When the minimums alone exceed the capacity, each claim gets its minimum, and the caller reports the
    shortfall. A larger capacity never makes an allocation smaller, because bytes are sold in one fixed order: by price,
    then by key.

    Returns:
        The allocations in bytes, in the order of the claims.
    """
    if not claims:
        return []
    columns = Claims(
        key=[claim.key for claim in claims],
        minimum=np.array([claim.minimum for claim in claims], np.int64),
        maximum=np.array([claim.maximum for claim in claims], np.int64),
        weight=np.array([claim.weight for claim in claims], np.int64),
        active=np.array([claim.active for claim in claims], np.int64),
        idle_tax=np.array([claim.idle_tax for claim in claims], np.int64),
    )
    allocations: list[int] = divide_columns(columns, capacity).tolist()
    return allocations


def divide_columns(claims: Claims, capacity: int) -> Ints:
    """Divide ``capacity`` bytes among claims given by columns, by the rules of ``divide``."""
    if claims.maximum.sum() <= capacity:
        return claims.maximum
    if claims.minimum.sum() >= capacity:
        return claims.minimum
    curve = _curve(claims)
    unsold = capacity - int(claims.minimum.sum())
    # The first price leaves fewer bytes to be sold one by one, but may sell too many, and so may the second if rounding
    # exceeded the margin. Then the price falls on until it does not.
    lower = accumulate(repeat(_ROUNDING_MARGIN), mul, initial=curve.price(unsold) * _ROUNDING_MARGIN)
    for price in chain([curve.price(curve.with_rounding(unsold)) * _ROUNDING_MARGIN], lower):
        allocations = _affordable(claims, price)
        left = capacity - int(allocations.sum())
        if left >= 0:
            break
    _sell_last_bytes(claims, allocations, left)
    return allocations


def scale_minimums(minimums: Ints, capacity: int) -> Ints:
    """Scale minimums that do not all fit the capacity in proportion, so that their sum is the capacity, in bytes."""
    total = int(minimums.sum())
    scaled = np.array([minimum * capacity // total for minimum in minimums.tolist()], np.int64)
    scaled[: capacity - int(scaled.sum())] += 1
    return scaled


def _affordable(claims: Claims, price: float) -> Ints:
    """Return the largest allocations in bounds that cost at most ``price`` each, up to float rounding."""
    untaxed = price * claims.weight
    taxed = claims.active + (untaxed - claims.active) * (100 - claims.idle_tax) / 100
    affordable = np.minimum(np.where(untaxed > claims.active, taxed, untaxed), claims.maximum)
    return np.maximum(affordable.astype(np.int64), claims.minimum)


class _Curve(NamedTuple):
    """A _Curve tells how many bytes beyond their minimums all claims together buy at each price.

    It is piecewise linear.

    Attributes:
        prices: where the curve bends, rising.
        slopes: bytes per unit of price between each bend and the next.
        sold: bytes at each bend but the first.
        buyers: how many claims are between their bounds from each bend on.
    """

    prices: Floats
    slopes: Floats
    sold: Floats
    buyers: Ints

    def price(self, unsold: int) -> float:
        """Return the price at which ``unsold`` bytes are sold, within float precision."""
        index = min(int(self.sold.searchsorted(unsold)), len(self.sold) - 1)
        excess = max(0.0, self.sold.item(index) - unsold)
        price = self.prices.item(index + 1)
        # The slope may be 0 only at the end of the curve, where several claims reach their maximums at one price.
        return price - excess / self.slopes.item(index) if excess else price

    def with_rounding(self, unsold: int) -> int:
        """Return ``unsold`` plus the bytes that allocations will lose when each is rounded down.

        That is half a byte on average for each of n buyers. The square root of n, 3.5 standard deviations, is
        subtracted, so that too much is hardly ever sold.
        """
        buyers = self.buyers.item(min(int(self.sold.searchsorted(unsold)), len(self.buyers) - 1))
        return unsold + max(0, int(buyers / 2 - math.sqrt(buyers)))


def _curve(claims: Claims) -> _Curve:
    """Build the curve: each claim's slope changes at its minimum, where its tax begins, and at its maximum."""
    bend = np.clip(claims.active, claims.minimum, claims.maximum)
    # Bytes sold per hundred units of price, above the bend and below it. They are integers, because sums of floats
    # would not come back to exactly 0 where all claims have their maximums.
    taxed, untaxed = claims.weight * (100 - claims.idle_tax), claims.weight * 100
    prices = np.concatenate([claims.price(claims.minimum), claims.price(bend), claims.price(claims.maximum)])
    changes = np.concatenate([untaxed, taxed - untaxed, -taxed])
    order = prices.argsort()
    prices = prices[order]
    slopes = changes[order].cumsum() / 100
    sold = (slopes[:-1] * np.diff(prices)).cumsum()
    count = len(claims.key)
    buyers = ((order < count).astype(np.int64) - (order >= 2 * count)).cumsum()
    return _Curve(prices, slopes, sold, buyers)


def _sell_last_bytes(claims: Claims, allocations: Ints, unsold: int) -> None:
    """Sell the last bytes one by one, each to the claim whose price for it is lowest, and add them to ``allocations``.

    There are usually fewer of them than claims. Buyers whose next byte is cheaper than any buyer's second byte are
    served in one step.
    """
    if unsold == 0:
        return
    prices = np.where(allocations < claims.maximum, claims.price(allocations + 1), math.inf)
    # The cheapest ``unsold`` next bytes cost at most this, so no byte sold here costs more.
    highest = float(np.partition(prices, unsold - 1)[unsold - 1]) if unsold < len(prices) else math.inf
    buyers = np.flatnonzero(prices <= min(highest, sys.float_info.max))  # claims at their maximums have infinite prices
    certain = buyers[prices[buyers] < claims.price(allocations + 2)[buyers].min()]
    if len(certain) > unsold:
        tied = certain[prices[certain] == highest].tolist()
        tied.sort(key=claims.key.__getitem__)
        certain = np.append(certain[prices[certain] < highest], tied[: unsold - len(certain)])
    allocations[certain] += 1
    unsold -= len(certain)
    if unsold:
        _sell_one_by_one(claims, allocations, unsold, buyers.tolist())


def _sell_one_by_one(claims: Claims, allocations: Ints, unsold: int, buyers: Sequence[int]) -> None:
    """Sell ``unsold`` bytes to claims in rows ``buyers``, always to the one whose price for a byte is lowest."""
    offers = [
        (claims.price_at(index, allocation + 1), claims.key[index], index)
        for index, allocation in ((index, allocations.item(index)) for index in buyers)
        if allocation < claims.maximum[index]
    ]
    heapq.heapify(offers)
    for _ in range(unsold):
        _, key, index = offers[0]
        allocations[index] += 1
        allocation = allocations.item(index)
        if allocation < claims.maximum[index]:
            heapq.heapreplace(offers, (claims.price_at(index, allocation + 1), key, index))
        else:
            heapq.heappop(offers)
