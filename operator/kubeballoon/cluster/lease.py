"""Leadership by a Lease: of several replicas one decides.

kubernetes.aio's own election ends on the first connection that fails and never hands the lease back, so a restart
would cost a lease's length; hence this one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, ConflictError, NotFoundError, Object

_log = logging.getLogger(__name__)

DURATION = 15.0  # seconds a lease is good for after its last renewal; client-go's default
RENEW = 5.0  # seconds between renewals
RETRY = 2.0  # seconds between attempts to take the lease, or to renew it after a failure
CONTROLLER = "kubeballoon-controller"
"""The controllers' lease: whoever holds it decides."""
GIVE_UP = 10.0  # seconds without a renewal after which a holder no longer leads, well before another may take over


class Lease:
    """One candidate for one Lease."""

    def __init__(
        self,
        cluster: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Stand for the lease ``namespace/name`` as ``identity``; ``clock`` gives monotonic seconds.

        ``fault`` says what keeps it from being read, None when it can be.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._clock = clock
        self._sleep = sleep
        self.fault: str | None = "the lease has not been looked at yet"
        self._seen: tuple[str, float] = ("", 0.0)  # another holder's renewal, and when it was first seen here

    @property
    def _path(self) -> str:
        return f"{paths.leases(self._namespace)}/{self._name}"

    async def acquire(self) -> None:
        """Wait until this candidate holds the lease."""
        waiting = False
        while not (taken := await self._attempt()):
            if taken is False and not waiting:
                _log.info("another replica leads; standing by")
                waiting = True
            await self._sleep(RETRY)

    async def keep(self) -> None:
        """Renew until the lease is lost: taken by another, or not renewed in time."""
        renewed = self._clock()
        while (left := renewed + GIVE_UP - self._clock()) > 0:
            await self._sleep(min(left, RENEW if self.fault is None else RETRY))
            now = self._clock()
            kept = await self._attempt(renewed + GIVE_UP - now)
            if kept is False:
                return
            if kept:
                renewed = now

    async def seize(self, seconds: float = DURATION) -> None:
        """Take the lease, or renew it, whoever holds it: a holder finds out when it renews, and stops.

        Args:
            seconds: how long nobody else may take it, unless it is seized again before.

        Raises:
            ClusterError: it cannot be written.
        """
        while True:
            try:
                await self._write(await self._read(), seconds)
            except ConflictError:
                continue  # its holder renewed it a moment ago
            return

    async def release(self) -> None:
        """Hand the lease back, so that another replica need not wait."""
        try:
            lease = await self._cluster.get(self._path)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"].update(holderIdentity="", leaseDurationSeconds=1)
                await self._cluster.replace(self._path, lease)
        except ApiError as error:
            _log.warning("%s", error)

    async def _attempt(self, seconds: float = GIVE_UP) -> bool | None:
        """Whether the lease is held after trying to take or renew it; None when that cannot be told."""
        try:
            async with asyncio.timeout(seconds):
                taken = await self._take()
        except ConflictError:
            return None  # written by another a moment ago: looked at again soon
        except (ApiError, TimeoutError) as error:
            fault = str(error) or f"the API server did not answer for the lease {self._namespace}/{self._name}"
            if fault != self.fault:
                _log.warning("%s", fault)
            self.fault = fault
            return None
        self.fault = None
        return taken

    async def _take(self) -> bool:
        """Take or renew the lease if that is possible now."""
        lease = await self._read()
        if lease is not None:
            holder = lease["spec"].get("holderIdentity") or ""
            if holder not in ("", self._identity) and not self._expired(lease["spec"]):
                return False
        await self._write(lease)
        return True

    async def _read(self) -> Object | None:
        try:
            return await self._cluster.get(self._path)
        except NotFoundError:
            return None

    async def _write(self, lease: Object | None, seconds: float = DURATION) -> None:
        """Hold it, if it is still what was read."""
        if lease is None:
            await self._cluster.create(paths.leases(self._namespace), self._lease({"spec": {}}, 0, seconds))
            return
        spec = lease["spec"]
        transitions = int(spec.get("leaseTransitions") or 0) + (spec.get("holderIdentity") != self._identity)
        await self._cluster.replace(self._path, self._lease(lease, transitions, seconds))

    def _expired(self, spec: Object) -> bool:
        """Whether another's lease ran out, by our own clock: clocks of nodes differ."""
        renewal = f"{spec.get('holderIdentity')} {spec.get('renewTime')}"
        if renewal != self._seen[0]:
            self._seen = (renewal, self._clock())
        return self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or DURATION)

    def _lease(self, lease: Object, transitions: int, seconds: float) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease["spec"]
        mine = before.get("holderIdentity") == self._identity
        return {
            **lease,
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {**lease.get("metadata", {}), "name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(seconds),
                "acquireTime": before.get("acquireTime", now) if mine else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }


def own_namespace() -> str:
    """The pod's own namespace; outside of one, where the chart is installed by default."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "kubeballoon-system"


_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
