"""The fair division of memory: one price for all, found exactly.

A VM with weight S and active memory A pays for an allocation P the price C(P)/S, where C(P) = P up to A and
A + k(P - A) above it, k = 1/(1 - idle tax): idle memory costs k times as much. This is min-funding revocation
(Waldspurger, "Memory Resource Management in VMware ESX Server", OSDI 2002, section 5.2) turned round: instead of
revoking page by page from whoever pays least, find the price at which everything is sold. Both end at the same
division, for C is increasing; the price is a water level, and piecewise linear, so no iteration is needed.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

# The level is lowered by this factor before rounding down, which costs less than a byte in 8 TiB and outweighs the
# rounding of the few float operations that found it. What that leaves unsold is then sold byte by byte.
_BELOW = 1 - 2.0**-42


@dataclass(frozen=True, slots=True)
class Claim:
    """One VM's claim: ``minimum`` <= allocation <= ``maximum``, all in bytes.

    Attributes:
        key: unique among the claims; settles ties, so the order of the claims does not matter.
        weight: the VM's shares, positive.
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

    def affordable(self, price: float) -> int:
        """The largest allocation in bounds whose price does not exceed ``price``, but for float rounding."""
        worth = price * self.weight
        if worth > self.active:
            worth = self.active + (worth - self.active) * (100 - self.idle_tax) / 100
        return max(self.minimum, min(self.maximum, int(worth)))


def divide(claims: Sequence[Claim], capacity: int) -> list[int]:
    """Divide ``capacity`` bytes among the claims, in their order, in O(n log n).

    Every allocation is within its bounds, and the sum is exactly the capacity or, when that is less, the sum of the
    maximums. When the minimums alone exceed the capacity each claim gets its minimum: the caller reports the
    shortfall. Growing the capacity never shrinks an allocation, because bytes are sold in one fixed order: by price,
    then by key.
    """
    if sum(claim.maximum for claim in claims) <= capacity:
        return [claim.maximum for claim in claims]
    allocations = [claim.minimum for claim in claims]
    if sum(allocations) >= capacity:
        return allocations
    level = _level(claims, capacity)
    while True:
        level *= _BELOW
        allocations = [claim.affordable(level) for claim in claims]
        unsold = capacity - sum(allocations)
        if unsold >= 0:
            break
    _sell(claims, allocations, unsold)
    return allocations


def scale(claims: Sequence[Claim], capacity: int) -> list[int]:
    """What each minimum is worth when they do not all fit: proportional, and exact in sum.

    Raises:
        ZeroDivisionError: all minimums are zero, so they always fit.
    """
    wanted = sum(claim.minimum for claim in claims)
    scaled = [claim.minimum * capacity // wanted for claim in claims]
    spare = capacity - sum(scaled)
    for index in sorted(range(len(claims)), key=lambda i: claims[i].key)[:spare]:
        scaled[index] += 1
    return scaled


def _level(claims: Sequence[Claim], capacity: int) -> float:
    """The price at which the claims together afford the capacity (within float precision)."""
    slopes: defaultdict[float, float] = defaultdict(float)  # price -> change in bytes sold per unit of price
    for claim in claims:
        weight = float(claim.weight)
        taxed = weight * (100 - claim.idle_tax) / 100
        bend = min(claim.maximum, max(claim.minimum, claim.active))
        at_bend = claim.price(bend)
        slopes[claim.price(claim.minimum)] += weight if claim.minimum < bend else taxed
        if claim.minimum < bend:
            slopes[at_bend] += taxed - weight
        slopes[claim.price(claim.maximum)] -= taxed
    unsold: float = capacity - sum(claim.minimum for claim in claims)
    level = slope = 0.0
    for price in sorted(slopes):
        sold = slope * (price - level)
        if sold >= unsold and slope > 0:
            return level + unsold / slope
        unsold -= sold
        level = price
        slope += slopes[price]
    return level


def _sell(claims: Sequence[Claim], allocations: list[int], unsold: int) -> None:
    """Sell the last bytes one at a time, each to whoever pays least for its next one."""
    offers = [
        (claim.price(held + 1), claim.key, index)
        for index, (claim, held) in enumerate(zip(claims, allocations, strict=True))
        if held < claim.maximum
    ]
    heapq.heapify(offers)
    for _ in range(unsold):
        _, key, index = offers[0]
        allocations[index] += 1
        if allocations[index] < claims[index].maximum:
            heapq.heapreplace(offers, (claims[index].price(allocations[index] + 1), key, index))
        else:
            heapq.heappop(offers)
