"""This module models a guest with a balloon and a swap device.

Between two events, which are changes of its demand and of the request, the balloon moves at a constant speed. What the
guest holds is then linear in time, and the demand that it cannot meet is integrated exactly. So the result does not
depend on how often the guest is advanced.

A guest that demands more than it holds writes the difference to swap as fast as its device can. It touches what it has
swapped out every ``TOUCH_SECONDS``: each touch is a major fault, and swaps out another page. Once the guest holds
enough, what it touches comes back to stay. Memory that a guest has touched stays resident on the node until the
balloon takes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.units import GIB

INFLATION_RATE = 0.86 * GIB
"""Bytes a second that a virtio-balloon takes from a guest (HyperAlloc, EuroSys 2025: measured on a Xeon 6252)."""

DEFLATION_RATE = 2.1 * GIB
"""Bytes a second that a virtio-balloon gives back (HyperAlloc, EuroSys 2025: measured on a Xeon 6252)."""

SWAP_RATE = 0.25 * GIB
"""Bytes a second that a guest's swap device writes, or reads."""

TOUCH_SECONDS = 10.0
"""Seconds in which a guest touches all the memory it works with."""

FAULT_BYTES = 32 << 10
"""Bytes that one major fault brings in: Linux reads clusters of eight pages from swap."""


@dataclass(frozen=True, slots=True)
class BalloonDriver:
    """A BalloonDriver is how a guest's balloon behaves.

    Attributes:
        inflation: bytes a second that it takes at most.
        deflation: bytes a second that it gives back at most.
        floor: bytes that it always leaves the guest, whatever is requested.
        error: bytes that it leaves the guest above the request, at rest.
        stuck: from when until when it does nothing, seconds.
    """

    inflation: float = INFLATION_RATE
    deflation: float = DEFLATION_RATE
    floor: int = 0
    error: int = 0
    stuck: tuple[float, float] = (math.inf, math.inf)


@dataclass(slots=True)
class SimulatedGuest:
    """A SimulatedGuest is the state of a guest at one time; amounts are in bytes, times in seconds.

    Attributes:
        minimum: what the policy guarantees the guest.
        actual: what the balloon leaves it.
        request: what the balloon was last asked to leave it.
        time: the time of this state.
        demand: what the guest works with.
        resident: what it occupies on the node.
        swapped: how much of its demand is on its swap device.
        swap_in: bytes read from swap since the start.
        swap_out: bytes written to swap since the start.
        unmet: demand above what it held, since the start, byte-seconds.
        moved: bytes by which the balloon shrank or grew since the start.
        below_minimum: seconds spent with less than the minimum since the start.
        goal: what the balloon leaves the guest once it comes to rest.
    """

    size: int
    minimum: int
    actual: float
    request: int
    driver: BalloonDriver = BalloonDriver()
    time: float = 0.0
    demand: int = 0
    resident: float = 0.0
    swapped: float = 0.0
    swap_in: float = 0.0
    swap_out: float = 0.0
    unmet: float = 0.0
    moved: float = 0.0
    below_minimum: float = 0.0
    goal: float = field(init=False)

    def __post_init__(self) -> None:
        """Start with the balloon on its way to the first request."""
        self.set_request(self.request)

    def set_request(self, request: int) -> None:
        """Ask the balloon to leave the guest ``request`` bytes."""
        self.request = request
        self.goal = min(float(self.size), max(request + self.driver.error, self.driver.floor))

    @property
    def missing(self) -> float:
        """Demand that the guest cannot meet now, bytes."""
        return max(0.0, self.demand - self.actual)

    @property
    def used(self) -> float:
        """Demand that the guest meets now, bytes."""
        return min(float(self.demand), self.actual)

    @property
    def is_moving(self) -> bool:
        """Whether the balloon has yet to come to rest."""
        return self.actual != self.goal

    @property
    def is_steady(self) -> bool:
        """Whether the guest stays exactly as it is, its counters included, until its demand or request changes."""
        actual = self.actual
        return actual == self.goal and self.demand <= actual and self.swapped == 0 and actual >= self.minimum

    def advance(self, now: float) -> None:
        """Let time pass until ``now``, seconds."""
        if self.is_steady:
            self.time = max(self.time, now)
            return
        for end in (*self.driver.stuck, now):  # between these times the balloon's speed is constant
            if self.time < end <= now:
                self._advance_at_constant_speed(end)

    def _advance_at_constant_speed(self, now: float) -> None:
        """Let time pass in which the balloon moves at one speed, or moves and then rests."""
        if self.is_moving and not self.driver.stuck[0] <= self.time < self.driver.stuck[1]:
            deflates = self.goal > self.actual
            speed = self.driver.deflation if deflates else self.driver.inflation
            arrival = self.time + abs(self.goal - self.actual) / speed
            if arrival <= now:
                self._advance_linearly(arrival, self.goal)
            else:
                step = speed * (now - self.time)
                self._advance_linearly(now, self.actual + step if deflates else self.actual - step)
        if self.time < now:
            self._advance_linearly(now, self.actual)

    def _advance_linearly(self, now: float, actual: float) -> None:
        """Let time pass in which what the guest holds changes linearly to ``actual`` bytes."""
        seconds, before, demand = now - self.time, self.actual, self.demand
        missing = max(0.0, demand - actual)
        if missing or self.swapped:
            self.swapped, swap_in, swap_out = _swap(self.swapped, missing, seconds)
            self.swap_in += swap_in
            self.swap_out += swap_out
        if before < self.minimum or actual < self.minimum:
            self.below_minimum += seconds
        self.unmet += _positive_area(demand - before, demand - actual, seconds)
        self.moved += abs(actual - before)
        self.resident = min(actual, max(self.resident, min(demand, actual)))
        self.time, self.actual = now, actual

    def set_demand(self, demand: int) -> None:
        """Let the guest work with ``demand`` bytes from now on."""
        self.demand = demand
        self.resident = max(self.resident, self.used)
        self.swapped = min(self.swapped, float(demand))  # memory that the guest frees is never read back

    def statistics(self, at: float | None = None) -> GuestStatistics:
        """Return what the guest's balloon driver reports now, or, of a steady guest, at a later time."""
        spare = max(0, int(self.actual - min(self.actual, self.demand - self.swapped)))
        return GuestStatistics(
            actual=int(self.actual),
            updated=self.time if at is None else at,
            usable=spare,
            unused=spare,
            available=int(self.actual),
            disk_caches=0,
            swap_in=int(self.swap_in),
            swap_out=int(self.swap_out),
            major_faults=int(self.swap_in / FAULT_BYTES),
        )


def _swap(swapped: float, missing: float, seconds: float) -> tuple[float, float, float]:
    """Compute what ``seconds`` with ``missing`` bytes too few do to a guest that has ``swapped`` bytes in swap.

    Returns:
        The bytes in swap afterwards, the bytes read from it and the bytes written to it.
    """
    if swapped == missing == 0:
        return 0.0, 0.0, 0.0
    if missing >= swapped:
        out = min(missing - swapped, SWAP_RATE * seconds)
        thrashed = min(SWAP_RATE, (swapped + out) / TOUCH_SECONDS) * seconds
        return swapped + out, thrashed, out + thrashed
    # What has room again comes back as it is touched: a constant share of it in each second.
    back = (swapped - missing) * -math.expm1(-seconds / TOUCH_SECONDS)
    left = swapped - back
    if left - missing < 1:
        left, back = missing, swapped - missing
    thrashed = min(SWAP_RATE, missing / TOUCH_SECONDS) * seconds
    return left, back + thrashed, thrashed


def _positive_area(start: float, end: float, seconds: float) -> float:
    """Integrate the positive part of a line from ``start`` to ``end`` over ``seconds``."""
    if start > 0 and end > 0:
        return (start + end) / 2 * seconds
    high = max(start, end)
    return 0.0 if high <= 0 else high / 2 * seconds * high / (high - min(start, end))
