"""This module models a guest with a balloon, a page cache, and a swap device or none.

Between two events, which are changes of its demand and of the request, the balloon moves at a constant speed. What the
guest holds is then linear in time, and the demand that it cannot meet is integrated exactly. So the result does not
depend on how often the guest is advanced.

A guest with swap that demands more than it holds writes the difference to swap as fast as its device can. It touches
what it has swapped out every ``TOUCH_SECONDS``: each touch is a major fault, and swaps out another page. Once the guest
holds enough, what it touches comes back to stay. A guest without swap cannot put anything aside: its balloon does not
take what it demands, and if it demands more than it holds, it drops pages of its programs and reads them again.

Memory that a guest has touched stays resident on the node until the balloon takes it. Its page cache touches more and
more of what the guest does not demand, at a constant rate, until the guest has touched all that it holds.
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
        swaps: whether it has swap space, which is then large enough for everything.
        cache_rate: by how much its page cache grows in a second while there is room.
        actual: what the balloon leaves it.
        request: what the balloon was last asked to leave it.
        time: the time of this state.
        demand: what the guest works with.
        resident: what it occupies on the node.
        swapped: how much of its demand is on its swap device.
        swap_in: bytes read from swap since the start.
        swap_out: bytes written to swap since the start.
        reread: bytes of its programs read again for lack of memory, since the start.
        unmet: demand above what it held, since the start, byte-seconds.
        moved: bytes by which the balloon shrank or grew since the start.
        below_minimum: seconds spent with less than the minimum since the start.
        goal: what the balloon leaves the guest once it comes to rest.
        running: whether the guest runs; while it does not, all of its demand is unmet.
        touch_rate: how much it touches in a second as it boots, beside its page cache.
    """

    size: int
    minimum: int
    actual: float
    request: int
    driver: BalloonDriver = BalloonDriver()
    swaps: bool = True
    cache_rate: float = 0.0
    time: float = 0.0
    demand: int = 0
    resident: float = 0.0
    swapped: float = 0.0
    swap_in: float = 0.0
    swap_out: float = 0.0
    reread: float = 0.0
    unmet: float = 0.0
    moved: float = 0.0
    below_minimum: float = 0.0
    goal: float = field(init=False)
    running: bool = True
    touch_rate: float = 0.0

    def __post_init__(self) -> None:
        """Start with the balloon on its way to the first request."""
        self.set_request(self.request)

    def set_request(self, request: int) -> None:
        """Ask the balloon to leave the guest ``request`` bytes."""
        self.request = request
        self._set_goal()

    def _set_goal(self) -> None:
        """Find where the balloon comes to rest: the driver of a guest without swap finds no page that is in use."""
        self.goal = min(float(self.size), max(self.request + self.driver.error, self.driver.floor))
        if not self.swaps:
            self.goal = max(self.goal, self.used)

    @property
    def missing(self) -> float:
        """Demand that the guest cannot meet now, bytes."""
        return max(0.0, self.demand - self.actual)

    @property
    def used(self) -> float:
        """Demand that the guest meets now, bytes."""
        return min(float(self.demand), self.actual)

    def resident_at(self, now: float) -> float:
        """Return what the guest will occupy on the node at ``now`` seconds if its balloon does not move, bytes."""
        return min(self.actual, self.resident + self.growth * max(0.0, now - self.time))

    @property
    def growth(self) -> float:
        """By how much more the guest occupies in a second, bytes."""
        return self.cache_rate + self.touch_rate if self.resident < self.actual else 0.0

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
            self.resident, self.time = self.resident_at(now), max(self.time, now)
            self._end_boot()
            return
        if not self.running:
            self.unmet += self.demand * max(0.0, now - self.time)
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
        if missing and not self.swaps:
            self.reread += min(SWAP_RATE, missing / TOUCH_SECONDS) * seconds
        elif missing or self.swapped:
            self.swapped, swap_in, swap_out = _swap(self.swapped, missing, seconds)
            self.swap_in += swap_in
            self.swap_out += swap_out
        if before < self.minimum or actual < self.minimum:
            self.below_minimum += seconds
        self.unmet += _positive_area(demand - before, demand - actual, seconds)
        self.moved += abs(actual - before)
        grown = max(self.resident, min(demand, actual)) + (self.cache_rate + self.touch_rate) * seconds
        self.resident, self.time, self.actual = min(actual, grown), now, actual
        self._end_boot()

    def _end_boot(self) -> None:
        """Stop touching once the guest has touched all that its balloon leaves it."""
        if self.resident >= self.actual:
            self.touch_rate = 0.0

    def set_demand(self, demand: int) -> None:
        """Let the guest work with ``demand`` bytes from now on."""
        self.demand = demand
        self.resident = max(self.resident, self.used)
        self.swapped = min(self.swapped, float(demand))  # memory that the guest frees is never read back
        self._set_goal()

    def stop(self) -> None:
        """End the guest: nothing of it is left on the node, or in its swap."""
        self.running = False
        self.actual, self.resident, self.swapped = 0.0, 0.0, 0.0

    def start(self, touch_rate: float) -> None:
        """Start the guest with all of its memory, of which it touches ``touch_rate`` bytes a second at first."""
        self.running, self.touch_rate = True, touch_rate
        self.actual, self.swapped = float(self.size), 0.0
        self.set_request(self.size)
        self.resident = self.used

    def statistics(self, at: float | None = None) -> GuestStatistics:
        """Return what the guest's balloon driver reports now, or, of a steady guest, at a later time."""
        in_memory = min(self.actual, self.demand - self.swapped)
        spare = max(0, int(self.actual - in_memory))
        cached = min(spare, max(0, int(self.resident - in_memory)))
        return GuestStatistics(
            actual=int(self.actual),
            updated=self.time if at is None else at,
            usable=spare,
            unused=spare - cached,
            available=int(self.actual),
            disk_caches=cached,
            swap_in=int(self.swap_in),
            swap_out=int(self.swap_out),
            major_faults=int((self.swap_in + self.reread) / FAULT_BYTES),
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
