"""The fair division of memory: one price for all, found exactly.

A VM with weight S and active memory A pays for an allocation P the price C(P)/S, where C(P) = P up to A and
A + k(P - A) above it, k = 1/(1 - idle tax): idle memory costs k times as much. This is min-funding revocation
(Waldspurger, "Memory Resource Management in VMware ESX Server", OSDI 2002, section 5.2) turned round: instead of
revoking page by page from whoever pays least, find the price at which everything is sold. Both end at the same
division, for C is increasing; the price is a water level, and piecewise linear, so no iteration is needed.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The level is lowered by this factor before rounding down, which costs less than a byte in 8 TiB and outweighs the
# rounding of the few float operations that found it. What that leaves unsold is then sold byte by byte.
_BELOW = 1 - 2.0**-42


class Claim(NamedTuple):
    """One VM's claim: ``minimum`` <= allocation <= ``maximum``, all in bytes.

    Attributes:
        key: unique among the claims; settles ties, so the order of the claims does not matter.
        weight: the VM's shares, positive; of all claims together less than 2**56.
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
        """C(P)/S for an allocation of P bytes."""
        idle = allocation - self.active
        cost = allocation if idle <= 0 else self.active + idle * 100 / (100 - self.idle_tax)
        return cost / self.weight


class Claims(NamedTuple):
    """Many claims: the same by columns."""

    key: Sequence[str]
    minimum: Ints
    maximum: Ints
    weight: Ints
    active: Ints
    idle_tax: Ints

    def price(self, allocations: Ints) -> Floats:
        """``Claim.price`` of each."""
        idle = allocations - self.active
        cost = np.where(idle <= 0, allocations, self.active + idle * 100 / (100 - self.idle_tax))
        return cost / self.weight

    def price_at(self, index: int, allocation: int) -> float:
        """``Claim.price`` of one."""
        return Claim(self.key[index], *[column.item(index) for column in self[1:]]).price(allocation)


def divide(claims: Sequence[Claim], capacity: int) -> list[int]:
    """Divide ``capacity`` bytes among the claims, in their order, in O(n log n).

    Every allocation is within its bounds, and the sum is exactly the capacity or, when that is less, the sum of the
    maximums. When the minimums alone exceed the capacity each claim gets its minimum: the caller reports the
    shortfall. Growing the capacity never shrinks an allocation, because bytes are sold in one fixed order: by price,
    then by key.
    """
    if not claims:
        return []
    key, *columns = zip(*claims, strict=True)
    allocations: list[int] = share_out(Claims(key, *(np.array(each, np.int64) for each in columns)), capacity).tolist()
    return allocations


def share_out(claims: Claims, capacity: int) -> Ints:
    """``divide``, by columns."""
    if claims.maximum.sum() <= capacity:
        return claims.maximum
    if claims.minimum.sum() >= capacity:
        return claims.minimum
    curve = _curve(claims)
    unsold = capacity - int(claims.minimum.sum())
    for level in (curve.level(curve.with_rounding(unsold)), curve.level(unsold)):
        allocations = _affordable(claims, level * _BELOW)
        left = capacity - int(allocations.sum())
        if left >= 0:
            break
    while left < 0:  # float rounding, of more than _BELOW allows for
        level *= _BELOW
        allocations = _affordable(claims, level)
        left = capacity - int(allocations.sum())
    _sell(claims, allocations, left)
    return allocations


def scale(minimums: Ints, capacity: int) -> Ints:
    """What each minimum is worth when they do not all fit: proportional, and exact in sum."""
    wanted = int(minimums.sum())
    scaled = np.array([minimum * capacity // wanted for minimum in minimums.tolist()], np.int64)
    scaled[: capacity - int(scaled.sum())] += 1
    return scaled


def _affordable(claims: Claims, price: float) -> Ints:
    """The largest allocations in bounds whose prices do not exceed ``price``, but for float rounding."""
    _, minimum, maximum, weight, active, idle_tax = claims
    worth = price * weight
    taxed = active + (worth - active) * (100 - idle_tax) / 100
    worth = np.minimum(np.where(worth > active, taxed, worth), maximum)
    return np.maximum(worth.astype(np.int64), minimum)


class _Curve(NamedTuple):
    """How much the claims afford together at each price beyond their minimums: piecewise linear.

    Attributes:
        prices: at which it bends, rising.
        slopes: bytes per unit of price between one bend and the next.
        sold: bytes at each bend but the first.
        buyers: how many claims are between their bounds from each bend on.
    """

    prices: Floats
    slopes: Floats
    sold: Floats
    buyers: Ints

    def level(self, unsold: int) -> float:
        """The price at which ``unsold`` bytes are sold (within float precision)."""
        place = min(int(self.sold.searchsorted(unsold)), len(self.sold) - 1)
        excess = max(0.0, self.sold.item(place) - unsold)
        return self.prices.item(place + 1) - excess / self.slopes.item(place)

    def with_rounding(self, unsold: int) -> int:
        """``unsold`` and what allocations will lose when they are rounded down: half a byte each, but for a margin."""
        between = self.buyers.item(min(int(self.sold.searchsorted(unsold)), len(self.buyers) - 1))
        return unsold + max(0, int(between / 2 - math.sqrt(between)))


def _curve(claims: Claims) -> _Curve:
    _, minimum, maximum, weight, active, idle_tax = claims
    bend = np.clip(active, minimum, maximum)
    # Bytes sold per hundred units of price, above the bend and below it; integers, or they would not add up to nothing.
    taxed, untaxed = weight * (100 - idle_tax), weight * 100
    prices = np.concatenate([claims.price(minimum), claims.price(bend), claims.price(maximum)])
    changes = np.concatenate([untaxed, taxed - untaxed, -taxed])
    order = prices.argsort()
    prices = prices[order]
    slopes = changes[order].cumsum() / 100
    sold = (slopes[:-1] * np.diff(prices)).cumsum()
    count = len(weight)
    buyers = ((order < count).astype(np.int64) - (order >= 2 * count)).cumsum()
    return _Curve(prices, slopes, sold, buyers)


def _sell(claims: Claims, allocations: Ints, unsold: int) -> None:
    """Sell the last bytes, each to whoever pays least for its next one: fewer than there are claims, but for rounding.

    First at one go those that are cheaper than anybody's second byte, then one by one.
    """
    if unsold == 0:
        return
    prices = np.where(allocations < claims.maximum, claims.price(allocations + 1), math.inf)
    # As many next bytes as are to be sold cost at most this, so none of the bytes sold costs more.
    most = float(np.partition(prices, unsold - 1)[unsold - 1]) if unsold < len(prices) else math.inf
    buyers = np.flatnonzero(prices <= min(most, sys.float_info.max))  # nobody who has its maximum buys
    sure = buyers[prices[buyers] < claims.price(allocations + 2)[buyers].min()]
    if len(sure) > unsold:
        tied = sure[prices[sure] == most].tolist()
        tied.sort(key=claims.key.__getitem__)
        sure = np.append(sure[prices[sure] < most], tied[: unsold - len(sure)])
    allocations[sure] += 1
    unsold -= len(sure)
    if unsold:
        _sell_one_by_one(claims, allocations, unsold, buyers.tolist())


def _sell_one_by_one(claims: Claims, allocations: Ints, unsold: int, buyers: Sequence[int]) -> None:
    offers = [
        (claims.price_at(index, held + 1), claims.key[index], index)
        for index, held in ((index, allocations.item(index)) for index in buyers)
        if held < claims.maximum[index]
    ]
    heapq.heapify(offers)
    for _ in range(unsold):
        _, key, index = offers[0]
        allocations[index] += 1
        held = allocations.item(index)
        if held < claims.maximum[index]:
            heapq.heapreplace(offers, (claims.price_at(index, held + 1), key, index))
        else:
            heapq.heappop(offers)
