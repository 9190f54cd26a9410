"""This module reads agents' heartbeats: the Leases by which they say that their last reports hold."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, ConflictError, NotFoundError, Object
from kubeballoon.cluster.heartbeat import SELECTOR, node_of, renewed_at
from kubeballoon.cluster.reflector import Reflector
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.governance.report_bounds import SILENT_AFTER

_log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for the first list of Leases: without it, an agent whose report is old seems to be silent
_PRUNE_INTERVAL = 60.0  # seconds


class _LeaseWatch(Reflector):
    """A _LeaseWatch knows agents' Leases, and passes on each one that is listed, created or changed."""

    def __init__(self, cluster: ApiClient, namespace: str, receive: Callable[[Object], None]) -> None:
        """Watch the Leases of agents in ``namespace``, and pass them to ``receive``."""
        super().__init__(cluster, paths.leases(namespace), label_selector=SELECTOR)
        self._receive = receive

    def _kept(self, item: Object) -> Object:
        """Keep only what is read of a Lease: an agent may write into its own whatever fits into an object."""
        metadata, spec = item["metadata"], item.get("spec") or {}
        return {
            "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion")},
            "spec": {"renewTime": spec.get("renewTime")},
        }

    def _take(self, item: Object) -> None:
        super()._take(item)
        self._receive(item)


class AgentHeartbeats:
    """AgentHeartbeats keep the cluster state up to date with agents' Leases."""

    def __init__(
        self,
        cluster: ApiClient,
        namespace: str,
        state: ClusterState,
        enqueue: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Follow the Leases in ``namespace``.

        Args:
            cluster: the API server.
            namespace: the controller's own, in which its agents are as well.
            state: what the controller knows.
            enqueue: runs a round of a node whose agent was silent and is no longer.
            clock: monotonic seconds.
            sleep: passes the time between two searches for Leases that are of no use.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._state = state
        self._enqueue = enqueue
        self._clock = clock
        self._sleep = sleep
        self._leases = _LeaseWatch(cluster, namespace, self._receive)

    async def run(self) -> None:
        """Follow the Leases until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._leases.run(), name="watch agents' Leases")
            tasks.create_task(self._prune(), name="delete agents' Leases")

    async def known(self) -> None:
        """Wait until the Leases are known; if they cannot be read, agents are judged by their reports alone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._leases.synced.wait()

    def fault(self) -> str | None:
        """Say in one line that the Leases cannot be watched; None if they can."""
        return None if self._leases.reachable else "the Leases of agents cannot be watched"

    def _receive(self, lease: Object) -> None:
        node, moment = node_of(lease), renewed_at(lease)
        if node is None or moment is None:
            return
        now = self._clock()
        was_silent = self._state.seconds_since_heard(node, now) > SILENT_AFTER
        self._state.put_heartbeat(node, moment, now)
        if was_silent and self._state.seconds_since_heard(node, now) <= SILENT_AFTER:
            self._enqueue(node)

    async def _prune(self) -> None:
        """Delete now and then the Leases of nodes without a NodePressure.

        The node is gone, or someone has deleted its NodePressure. Its agent, if there is one, then finds its Lease
        gone, and reports anew.
        """
        while True:
            await self._sleep(_PRUNE_INTERVAL)
            try:
                await self.prune()
            except ApiError as error:
                _log.warning("%s", error)

    async def prune(self) -> None:
        """Delete the Leases of nodes without a NodePressure.

        Raises:
            ApiError: the API server refuses it, or cannot be reached.
        """
        known = {None, *self._state.nodes}  # a Lease that is of no agent is somebody else's
        unknown = [lease for lease in self._leases.objects() if node_of(lease) not in known]
        if not unknown:
            return
        nodes = await self._cluster.names(paths.NODE_PRESSURES)  # one that cannot be read is not known
        for lease in unknown:
            metadata = lease["metadata"]
            if node_of(lease) in nodes:
                continue
            path = f"{paths.leases(self._namespace)}/{metadata['name']}"
            try:
                await self._cluster.delete(path, metadata["uid"], metadata["resourceVersion"])
            except (ConflictError, NotFoundError):
                continue  # its agent has written it since, or it is gone
            _log.info("%s: deleted the Lease of an agent whose node has no NodePressure", metadata["name"])
