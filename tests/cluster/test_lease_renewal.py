"""Who holds a Lease while its renewals fail, on a fake API server and a clock that only the test advances."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubeballoon.cluster.client import ConflictError, NotFoundError, UnreachableError
from kubeballoon.cluster.lease import LEASE_DURATION, RENEW_DEADLINE, RETRY_PERIOD, Lease
from tests.support.cluster import Object
from tests.support.waiting import Clock


class OneLease:
    """An API server with one Lease, which can be away."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.away = False
        self._version = 0

    async def get(self, _path: str) -> Object:
        """Read the Lease."""
        self._answer()
        if self.lease is None:
            raise NotFoundError("none")
        return self.lease

    async def create(self, path: str, body: Object) -> Object:
        """Create the Lease, or say nothing of the account that asks."""
        self._answer()
        return {} if path.endswith("reviews") else self._store(body)

    async def replace(self, _path: str, body: Object) -> Object:
        """Replace the Lease if nobody else has."""
        self._answer()
        if self.lease is None or body["metadata"].get("version") != self.lease["metadata"].get("version"):
            raise ConflictError("changed")
        return self._store(body)

    def _answer(self) -> None:
        if self.away:
            raise UnreachableError("away")

    def _store(self, body: Object) -> Object:
        self._version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "version": self._version}}
        return self.lease


class Turns:
    """A sleep that ends after so many turns, and lets time pass with each."""

    def __init__(self, clock: Clock, turns: int) -> None:
        self.clock = clock
        self.left = turns

    async def __call__(self, seconds: float) -> None:
        """Let time pass, or end the test's part."""
        await asyncio.sleep(0)
        if not self.left:
            raise asyncio.CancelledError
        self.left -= 1
        self.clock.now += seconds


def candidate(server: OneLease, clock: Clock, name: str, turns: int = 0) -> Lease:
    cluster: Any = server
    return Lease(cluster, "system", "leader", name, clock, Turns(clock, turns))


def holds(lease: Lease) -> bool:
    """Whether a candidate may write."""
    return lease.held


async def run(lease: Lease, turns: int) -> None:
    """Let a holder renew its Lease so many times."""
    lease._sleep.left = turns  # type: ignore[attr-defined]  # noqa: SLF001 - the test's own
    with pytest.raises(asyncio.CancelledError):
        await lease.keep()


async def test_a_holder_that_cannot_renew_writes_nothing_but_goes_on_once_it_can() -> None:
    server, clock = OneLease(), Clock()
    lease = candidate(server, clock, "first")
    assert not holds(lease)
    await lease.acquire()
    assert lease.renewed_at == clock.now
    server.away = True
    await run(lease, 10)
    assert not holds(lease)
    assert clock.now > 1000 + RENEW_DEADLINE
    server.away = False
    await run(lease, 1)
    assert holds(lease)
    await lease.hand_back()
    assert not holds(lease)


async def test_a_holder_stops_before_anybody_else_may_lead() -> None:
    server, clock = OneLease(), Clock()
    first, second = candidate(server, clock, "first"), candidate(server, clock, "second", turns=100)
    await first.acquire()
    held_until = clock.now
    acquiring = asyncio.create_task(second.acquire())
    while not acquiring.done():
        if holds(first):
            held_until = clock.now
            assert not holds(second)
        await asyncio.sleep(0)
    assert holds(second)
    assert held_until < clock.now - (LEASE_DURATION - RENEW_DEADLINE) / 2


async def test_an_outage_of_the_api_server_does_not_count_against_the_holder() -> None:
    server, clock = OneLease(), Clock()
    first, second = candidate(server, clock, "first"), candidate(server, clock, "second", turns=2)
    await first.acquire()
    with pytest.raises(asyncio.CancelledError):
        await second.acquire()
    server.away = True
    clock.now += 10 * LEASE_DURATION
    second._sleep.left = 1  # type: ignore[attr-defined]  # noqa: SLF001 - the test's own
    with pytest.raises(asyncio.CancelledError):
        await second.acquire()
    server.away = False
    second._sleep.left = int(LEASE_DURATION / RETRY_PERIOD) - 1  # type: ignore[attr-defined]  # noqa: SLF001
    with pytest.raises(asyncio.CancelledError):
        await second.acquire()
    await run(first, 1)
    assert holds(first)
    assert not holds(second)
