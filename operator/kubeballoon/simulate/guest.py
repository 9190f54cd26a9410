"""A guest with a balloon and a swap device, at any moment while its demand and its request stay the same.

The balloon moves at a constant speed, so memory held is linear in time and the demand it leaves unmet is integrated
exactly: a guest may be looked at as often or as seldom as one likes, and shows the same.

A guest that demands more than it holds swaps the difference out as fast as its device can and touches what is out
there again every ``TOUCH`` seconds: each touch is a major fault, and puts another page out. Once it holds enough, what
is out comes back as it is touched. What a guest has touched stays resident on the node until the balloon takes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from kubeballoon.core.demand import GuestStatistics
from kubeballoon.core.model import GIB

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
class Driver:
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


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest at one moment; bytes, seconds and byte-seconds.

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
    """

    size: int
    minimum: int
    actual: float
    request: int
    driver: Driver = Driver()
    at: float = 0.0
    demand: int = 0
    resident: float = 0.0
    swapped: float = 0.0
    swap_in: float = 0.0
    swap_out: float = 0.0
    unmet: float = 0.0
    moved: float = 0.0
    below: float = 0.0

    @property
    def missing(self) -> float:
        """Demand that cannot be met now, bytes."""
        return max(0.0, self.demand - self.actual)

    @property
    def used(self) -> float:
        """Demand that is met now, bytes."""
        return min(float(self.demand), self.actual)

    @property
    def goal(self) -> float:
        """Where the balloon comes to rest, bytes."""
        return min(float(self.size), max(self.request + self.driver.error, self.driver.floor))

    @property
    def moving(self) -> bool:
        """Whether the balloon has yet to come to rest (a stuck one has)."""
        return self.actual != self.goal

    @property
    def calm(self) -> bool:
        """Whether nothing about the guest changes by itself, not even a counter."""
        return not self.moving and self.missing == 0 and self.swapped == 0 and self.actual >= self.minimum

    def until(self, now: float) -> Guest:
        """The guest at ``now``, seconds."""
        if now <= self.at:
            return self
        guest = self
        for moment in (*self.driver.stuck, now):  # a constant speed on either side of each
            if guest.at < moment <= now:
                guest = guest._steadily(moment)
        return guest

    def _steadily(self, now: float) -> Guest:
        """``until``, when the balloon has one speed until then or until it comes to rest."""
        if self.moving and not self.driver.stuck[0] <= self.at < self.driver.stuck[1]:
            rising = self.goal > self.actual
            distance = abs(self.goal - self.actual)
            speed = self.driver.deflation if rising else self.driver.inflation
            arrival = self.at + distance / speed
            if arrival <= now:
                arrived = self._moved(arrival, self.goal)
                return arrived._moved(now, self.goal)  # noqa: SLF001 - the same class
            step = speed * (now - self.at)
            return self._moved(now, self.actual + step if rising else self.actual - step)
        return self._moved(now, self.actual)

    def _moved(self, now: float, actual: float) -> Guest:
        """``until``, when what the guest holds changes linearly to ``actual``."""
        seconds = now - self.at
        if self.calm and actual == self.actual:
            return replace(self, at=now)
        missing = max(0.0, self.demand - actual)
        swapped, swap_in, swap_out = _swap(self.swapped, missing, seconds)
        return replace(
            self,
            at=now,
            actual=actual,
            resident=min(actual, max(self.resident, min(self.demand, actual))),
            swapped=swapped,
            swap_in=self.swap_in + swap_in,
            swap_out=self.swap_out + swap_out,
            unmet=self.unmet + _positive_area(self.demand - self.actual, self.demand - actual, seconds),
            moved=self.moved + abs(actual - self.actual),
            below=self.below + (seconds if min(actual, self.actual) < self.minimum else 0.0),
        )

    def demanding(self, demand: int) -> Guest:
        """The guest as its demand changes."""
        used = min(float(demand), self.actual)
        # What is no longer wanted is dropped from the swap device unread.
        return replace(self, demand=demand, resident=max(self.resident, used), swapped=min(self.swapped, float(demand)))

    def statistics(self) -> GuestStatistics:
        """What its balloon driver reports now."""
        spare = max(0, int(self.actual - min(self.actual, self.demand - self.swapped)))
        return GuestStatistics(
            actual=int(self.actual),
            updated=self.at,
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
