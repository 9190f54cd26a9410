"""This module removes kubeballoon's taint from the agent's Node while no controller is there to do it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from kubeballoon.api.names import CONTROLLER_LEASE
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, ConflictError, NotFoundError
from kubeballoon.cluster.node_taints import has_taint, write_taint

_log = logging.getLogger(__name__)

_INTERVAL = 60.0  # seconds between looks at the Node, and at the controllers' Lease too while the Node is tainted
LEADERLESS_AFTER = 300.0
"""Seconds for which the controllers' Lease must not have been renewed. A new leader takes less than half a minute."""


class TaintRemover:
    """A TaintRemover removes the taint of one Node once the controllers' Lease has not been renewed for a while.

    The Lease's dates are compared with each other alone: clocks of nodes differ.
    """

    def __init__(
        self,
        cluster: ApiClient,
        node: str,
        namespace: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Look after the Node ``node``.

        Args:
            cluster: the API server.
            node: the node's name.
            namespace: the namespace of the controllers' Lease.
            clock: monotonic seconds.
            sleep: passes the time between two looks.
        """
        self._cluster = cluster
        self._node = paths.node(node)
        self._lease = f"{paths.leases(namespace)}/{CONTROLLER_LEASE}"
        self._clock = clock
        self._sleep = sleep
        self._renewed: object = None  # what the Lease said last: who held it, and when it was renewed
        self._renewed_at = clock()
        self._fault = ""

    async def run(self) -> None:
        """Look now and then until cancelled; the same fault is logged once."""
        while True:
            await self._sleep(_INTERVAL)
            try:
                await self.look()
                self._fault = ""
            except ApiError as error:
                if str(error) != self._fault:
                    _log.warning("a taint that no controller looks after may stay: %s", error)
                self._fault = str(error)

    async def look(self) -> None:
        """Remove the taint if there is one, and no controller has led for a while.

        Raises:
            ApiError: Node or Lease cannot be read, or the Node cannot be patched.
        """
        node = await self._cluster.get(self._node, resourceVersion="0")  # the API server's cache may answer
        if not has_taint(node):
            self._renewed, self._renewed_at = None, self._clock()
            return
        renewed = await self._read_lease()
        if renewed is not None and renewed != self._renewed:
            self._renewed, self._renewed_at = renewed, self._clock()
        if self._clock() - self._renewed_at >= LEADERLESS_AFTER:
            try:
                await write_taint(self._cluster, node, None)
            except ConflictError:
                return  # the node has changed since it was read: the next look removes the taint
            _log.warning("removed the taint of this node: no controller has led for %.0f s", LEADERLESS_AFTER)

    async def _read_lease(self) -> object:
        try:
            spec = (await self._cluster.get(self._lease)).get("spec", {})
        except NotFoundError:
            return None
        return spec.get("holderIdentity"), spec.get("renewTime")
