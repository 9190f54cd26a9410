"""This module runs a Lease's candidacy in a thread of its own.

A leader that is busy must still renew its Lease: otherwise whatever makes it busy ends its lead, and its successor's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self, TypeVar

from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.lease import Lease

T = TypeVar("T")

_JOIN_SECONDS = 5.0


class LeaseThread:
    """A LeaseThread is a thread with an event loop and a connection, in which a Lease is acquired and renewed.

    It is used as an async context manager, by one other event loop.

    Attributes:
        lease: the Lease; only its attributes may be read outside of the thread.
    """

    lease: Lease

    def __init__(self, connect: Callable[[], Awaitable[ApiClient]], candidacy: Callable[[ApiClient], Lease]) -> None:
        """Prepare the thread.

        Args:
            connect: makes the thread's own connection to the API server.
            candidacy: makes the Lease, given that connection.
        """
        self._connect = connect
        self._candidacy = candidacy
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lease", daemon=True)
        self._cluster: ApiClient | None = None

    async def __aenter__(self) -> Self:
        self._thread.start()
        try:
            self._cluster = await self._call(self._open())
        except BaseException:
            await self._stop()
            raise
        self.lease = self._candidacy(self._cluster)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._cluster is not None:
            await self._call(self._cluster.close())
        await self._stop()

    async def acquire(self) -> None:
        """Wait until this candidate holds the Lease."""
        await self._call(self.lease.acquire())

    async def keep(self) -> None:
        """Renew the Lease until another holds it."""
        await self._call(self.lease.keep())

    async def hand_back(self) -> None:
        """Hand the Lease back, so that another replica need not wait until it expires."""
        await self._call(self.lease.hand_back())

    async def _open(self) -> ApiClient:
        return await self._connect()

    async def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread, and wait for it; cancelling the call cancels it there too."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, _JOIN_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()
