"""A guest with a balloon and a swap device, at any moment while its demand and its request stay the same.

The balloon moves at a constant speed, so memory held is linear in time and the demand it leaves unmet is integrated
exactly: a guest may be looked at as often or as seldom as one likes, and shows the same.

A guest that demands more than it holds swaps the difference out as fast as its device can and touches what is out
there again every ``TOUCH`` seconds: each touch is a major fault, and puts another page out. Once it holds enough, what
is out comes back as it is touched. What a guest has touched stays resident on the node until the balloon takes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.units import GIB

INFLATION = 0.86 * GIB
"""Bytes a second a virtio-balloon takes from a guest (HyperAlloc, EuroSys 2025: measured on a Xeon 6252)."""

DEFLATION = 2.1 * GIB
"""Bytes a second it gives back (the same)."""

SWAP = 0.25 * GIB
"""Bytes a second a guest's swap device takes."""

TOUCH = 10.0
"""Seconds in which a guest touches all it works with; an active page is one touched at least that often."""

FAULT = 32 << 10
"""Bytes brought in by one major fault: Linux reads clusters of eight pages from swap."""


@dataclass(frozen=True, slots=True)
class BalloonDriver:
    """How a guest's balloon behaves.

    Attributes:
        inflation: bytes a second it takes at most.
        deflation: bytes a second it gives back at most.
        floor: bytes below which the guest hands over nothing, whatever is asked.
        error: bytes by which what the guest is left with exceeds the request, at rest.
        stuck: from when until when it does nothing, seconds.
    """

    inflation: float = INFLATION
    deflation: float = DEFLATION
    floor: int = 0
    error: int = 0
    stuck: tuple[float, float] = (math.inf, math.inf)


@dataclass(slots=True)
class SimulatedGuest:
    """One guest, as it is at one moment; bytes, seconds and byte-seconds.

    Attributes:
        minimum: what the policy guarantees it.
        actual: what the balloon leaves it.
        request: what the balloon was last told to leave it.
        at: the moment.
        demand: what it works with.
        resident: what it occupies on the node.
        swapped: what of its demand is on its swap device.
        swap_in: read back from there since it started.
        swap_out: written there since it started.
        unmet: demand above what it held, so far, byte-seconds.
        moved: by which the balloon shrank or grew, so far.
        below: seconds spent with less than the minimum.
        goal: where the balloon comes to rest.
    """

    size: int
    minimum: int
    actual: float
    request: int
    driver: BalloonDriver = BalloonDriver()
    at: float = 0.0
    demand: int = 0
    resident: float = 0.0
    swapped: float = 0.0
    swap_in: float = 0.0
    swap_out: float = 0.0
    unmet: float = 0.0
    moved: float = 0.0
    below: float = 0.0
    goal: float = field(init=False)

    def __post_init__(self) -> None:
        """Aim the balloon at the request."""
        self.ask(self.request)

    def ask(self, request: int) -> None:
        """Tell the balloon what to leave the guest, bytes."""
        self.request = request
        self.goal = min(float(self.size), max(request + self.driver.error, self.driver.floor))

    @property
    def missing(self) -> float:
        """Demand that cannot be met now, bytes."""
        return max(0.0, self.demand - self.actual)

    @property
    def used(self) -> float:
        """Demand that is met now, bytes."""
        return min(float(self.demand), self.actual)

    @property
    def moving(self) -> bool:
        """Whether the balloon has yet to come to rest."""
        return self.actual != self.goal

    @property
    def calm(self) -> bool:
        """Whether nothing about the guest changes by itself, not even a counter."""
        actual = self.actual
        return actual == self.goal and self.demand <= actual and self.swapped == 0 and actual >= self.minimum

    def advance(self, now: float) -> None:
        """Let time pass until ``now``, seconds."""
        if self.calm:
            self.at = max(self.at, now)
            return
        for moment in (*self.driver.stuck, now):  # a constant speed on either side of each
            if self.at < moment <= now:
                self._steadily(moment)

    def _steadily(self, now: float) -> None:
        """``advance``, when the balloon has one speed until then or until it comes to rest."""
        if self.moving and not self.driver.stuck[0] <= self.at < self.driver.stuck[1]:
            rising = self.goal > self.actual
            speed = self.driver.deflation if rising else self.driver.inflation
            arrival = self.at + abs(self.goal - self.actual) / speed
            if arrival <= now:
                self._move(arrival, self.goal)
            else:
                step = speed * (now - self.at)
                self._move(now, self.actual + step if rising else self.actual - step)
        if self.at < now:
            self._move(now, self.actual)

    def _move(self, now: float, actual: float) -> None:
        """``advance``, when what the guest holds changes linearly to ``actual``."""
        seconds, before, demand = now - self.at, self.actual, self.demand
        missing = max(0.0, demand - actual)
        if missing or self.swapped:
            self.swapped, swap_in, swap_out = _swap(self.swapped, missing, seconds)
            self.swap_in += swap_in
            self.swap_out += swap_out
        if before < self.minimum or actual < self.minimum:
            self.below += seconds
        self.unmet += _positive_area(demand - before, demand - actual, seconds)
        self.moved += abs(actual - before)
        self.resident = min(actual, max(self.resident, min(demand, actual)))
        self.at, self.actual = now, actual

    def demands(self, demand: int) -> None:
        """From now on the guest works with ``demand`` bytes."""
        self.demand = demand
        self.resident = max(self.resident, self.used)
        self.swapped = min(self.swapped, float(demand))  # what is no longer wanted is dropped unread

    def statistics(self, at: float | None = None) -> GuestStatistics:
        """What its balloon driver reports now, or, of a calm guest, at a later moment."""
        spare = max(0, int(self.actual - min(self.actual, self.demand - self.swapped)))
        return GuestStatistics(
            actual=int(self.actual),
            updated=self.at if at is None else at,
            usable=spare,
            unused=spare,
            available=int(self.actual),
            disk_caches=0,
            swap_in=int(self.swap_in),
            swap_out=int(self.swap_out),
            major_faults=int(self.swap_in / FAULT),
        )


def _swap(swapped: float, missing: float, seconds: float) -> tuple[float, float, float]:
    """What is swapped after ``seconds`` with ``missing`` bytes too few, and what went in and out meanwhile."""
    if swapped == missing == 0:
        return 0.0, 0.0, 0.0
    if missing >= swapped:
        out = min(missing - swapped, SWAP * seconds)
        thrash = min(SWAP, (swapped + out) / TOUCH) * seconds
        return swapped + out, thrash, out + thrash
    back = (swapped - missing) * -math.expm1(-seconds / TOUCH)
    left = swapped - back
    if left - missing < 1:
        left, back = missing, swapped - missing
    thrash = min(SWAP, missing / TOUCH) * seconds
    return left, back + thrash, thrash


def _positive_area(start: float, end: float, seconds: float) -> float:
    """The integral of the positive part of a line from ``start`` to ``end`` over ``seconds``."""
    if start > 0 and end > 0:
        return (start + end) / 2 * seconds
    high = max(start, end)
    return 0.0 if high <= 0 else high / 2 * seconds * high / (high - min(start, end))
