"""This module elects a leader by a Lease: of several replicas of the controller one decides.

The election of kubernetes.aio ends on the first connection that fails and never hands the Lease back, so that every
restart would cost the length of a lease. The names of periods are client-go's. The periods are shorter, so that nodes
are without decisions for less than ten seconds after a leader was killed. That is safe because losing the Lease is
cheap: a holder that cannot renew it writes nothing, but forgets nothing either, and goes on once it has renewed it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from kubeballoon.api.names import LEADER_ACCOUNT, SHUT_OUT_ACCOUNT, UNINSTALLER_PREFIX
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import (
    ApiClient,
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    Object,
    Timeouts,
)

_log = logging.getLogger(__name__)

LEASE_DURATION = 6.0  # seconds for which a Lease is held after its last renewal
RENEW_DEADLINE = 4.0  # seconds without a renewal after which a holder writes nothing: before anybody else may lead
RENEW_PERIOD = 1.5  # seconds between renewals: one may fail before the deadline
RETRY_PERIOD = 1.0  # seconds between attempts to acquire the Lease, or to renew it after a failure
LAST_WRITE_AFTER = RENEW_DEADLINE + Timeouts().request
"""Seconds after which no write of a holder that has lost the Lease is under way any more."""


class Lease:
    """A Lease is one replica's candidacy for a Lease object.

    Attributes:
        namespace: the Lease object's namespace.
        fault: why the Lease could not be read or written at the last attempt, in one line; None if it could.
        renewed_at: when this candidate last acquired or renewed the Lease, seconds of its clock; the least number if it
            does not hold the Lease.
    """

    def __init__(
        self,
        cluster: ApiClient,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Stand for the Lease ``namespace/name`` as ``identity``; ``clock`` gives monotonic seconds."""
        self._cluster = cluster
        self.namespace = namespace
        self._name = name
        self.identity = identity
        self._clock = clock
        self._sleep = sleep
        self.fault: str | None = "the lease has not been looked at yet"
        self.renewed_at = -math.inf
        self._account: str | None = None  # the uid of the candidate's account; empty if it has none, None if not known
        self._last_renewal: tuple[str, float] = ("", 0.0)  # another holder's, and when this candidate first read it

    @property
    def _path(self) -> str:
        return f"{paths.leases(self.namespace)}/{self._name}"

    async def acquire(self) -> None:
        """Wait until this candidate holds the Lease."""
        waiting = False
        while not (acquired := await self._attempt()):
            if acquired is False and not waiting:
                _log.info("another replica leads; standing by")
                waiting = True
            await self._sleep(RETRY_PERIOD)

    @property
    def held(self) -> bool:
        """Whether nobody else can hold the Lease now: it was renewed within RENEW_DEADLINE. Any thread may ask."""
        return self._clock() - self.renewed_at < RENEW_DEADLINE

    def seconds_left(self) -> float:
        """Return for how many seconds nobody else can hold the Lease, if it is not renewed; any thread may ask."""
        return self.renewed_at + LEASE_DURATION - self._clock()

    async def keep(self) -> None:
        """Renew the Lease until another holds it.

        A holder that cannot renew it goes on trying: while the API server is away, nobody else can acquire it either.
        """
        while True:
            await self._sleep(RENEW_PERIOD if self.fault is None else RETRY_PERIOD)
            if await self._attempt() is False:
                return

    async def seize(self, seconds: float = LEASE_DURATION) -> None:
        """Acquire or renew the Lease, whoever holds it; a holder notices at its next renewal, and stops.

        Args:
            seconds: how long nobody else may acquire the Lease, unless it is seized again before.

        Raises:
            ApiError: the Lease cannot be read or written.
        """
        await self._seize(seconds, {})

    async def shut_out(self, seconds: float) -> None:
        """Hold the Lease for so long without another renewal, against the controllers of the account that led last.

        They may be running, or start again, until they are deleted. Controllers of any other account, such as those of
        the next installation, acquire it at once: an account that is deleted and created anew has another uid.

        Raises:
            ApiError: the Lease cannot be read or written.
        """
        lease = await self._read()
        account = "" if lease is None else _annotations(lease).get(LEADER_ACCOUNT, "")
        await self._seize(seconds, {SHUT_OUT_ACCOUNT: account} if account else {})

    async def _seize(self, seconds: float, annotations: dict[str, str]) -> None:
        while True:
            try:
                await self._write(await self._read(), annotations, seconds)
            except ConflictError:
                continue  # its holder has renewed the Lease since it was read
            return

    async def hand_back(self) -> None:
        """Hand the Lease back, so that another replica need not wait until it expires."""
        self.renewed_at = -math.inf
        try:
            lease = await self._cluster.get(self._path)
            if lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"].update(holderIdentity="", leaseDurationSeconds=1)
                await self._cluster.replace(self._path, lease)
        except ApiError as error:
            _log.warning("%s", error)

    async def _attempt(self) -> bool | None:
        """Try to acquire or renew the Lease.

        Returns:
            Whether this candidate holds the Lease now; None if the attempt failed, so that this is not known.
        """
        began = self._clock()  # the API server may have counted from then on
        try:
            async with asyncio.timeout(RENEW_DEADLINE):
                held = await self._acquire_or_renew()
        except ConflictError:
            return None  # another candidate has written the Lease since it was read; the next attempt is due soon
        except (ApiError, TimeoutError) as error:
            fault = str(error) or f"the API server did not answer for the lease {self.namespace}/{self._name}"
            if fault != self.fault:
                _log.warning("%s", fault)
            self.fault = fault
            # Its holder could not renew it either, so it has not expired before it could.
            self._last_renewal = ("", 0.0)
            return None
        self.fault = None
        self.renewed_at = began if held else -math.inf
        return held

    async def _acquire_or_renew(self) -> bool:
        """Acquire or renew the Lease unless another holds it; whether this candidate holds it now."""
        lease = await self._read()
        if lease is not None:
            holder = lease["spec"].get("holderIdentity") or ""
            if (
                holder not in ("", self.identity)
                and not self._expired(lease["spec"])
                and await self._is_shut_out(lease)
            ):
                return False
        await self._write(lease, {LEADER_ACCOUNT: await self._own_account()})
        return True

    async def _is_shut_out(self, lease: Object) -> bool:
        """Whether a Lease that another holds keeps this candidate out; an uninstallation's may be meant for others."""
        account = _annotations(lease).get(SHUT_OUT_ACCOUNT)
        by_uninstallation = str(lease["spec"].get("holderIdentity")).startswith(UNINSTALLER_PREFIX)
        return not (by_uninstallation and account and await self._own_account() not in ("", account))

    async def _own_account(self) -> str:
        """Read the uid of this candidate's account; empty if it has none, or may not be told."""
        if self._account is None:
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            try:
                answer = await self._cluster.create(paths.SELF_REVIEWS, review)
            except (ForbiddenError, NotFoundError):
                answer = {}
            self._account = str(answer.get("status", {}).get("userInfo", {}).get("uid", ""))
        return self._account

    async def _read(self) -> Object | None:
        try:
            return await self._cluster.get(self._path)
        except NotFoundError:
            return None

    async def _write(self, lease: Object | None, annotations: dict[str, str], seconds: float = LEASE_DURATION) -> None:
        """Write this candidate into the Lease, unless the Lease has changed since it was read (ConflictError).

        Whom the Lease shuts out is always written anew; which account led last stays if ``annotations`` lack it.
        """
        before = {} if lease is None else _annotations(lease)
        kept = {key: value for key, value in before.items() if key != SHUT_OUT_ACCOUNT}
        metadata = {"name": self._name, "namespace": self.namespace, "annotations": {**kept, **annotations}}
        if lease is None:
            body = self._body({"spec": {}, "metadata": metadata}, 0, seconds)
            await self._cluster.create(paths.leases(self.namespace), body)
            return
        spec = lease["spec"]
        transitions = int(spec.get("leaseTransitions") or 0) + (spec.get("holderIdentity") != self.identity)
        lease = {**lease, "metadata": {**lease["metadata"], **metadata}}
        await self._cluster.replace(self._path, self._body(lease, transitions, seconds))

    def _expired(self, spec: Object) -> bool:
        """Whether another holder's lease has run out by this candidate's own clock, because nodes' clocks differ."""
        renewal = f"{spec.get('holderIdentity')} {spec.get('renewTime')}"
        if renewal != self._last_renewal[0]:
            self._last_renewal = (renewal, self._clock())
        return self._clock() - self._last_renewal[1] > float(spec.get("leaseDurationSeconds") or LEASE_DURATION)

    def _body(self, lease: Object, transitions: int, seconds: float) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = lease["spec"]
        renews = before.get("holderIdentity") == self.identity
        return {
            **lease,
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(seconds),
                "acquireTime": before.get("acquireTime", now) if renews else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }


def _annotations(lease: Object) -> dict[str, str]:
    return lease.get("metadata", {}).get("annotations") or {}


def own_namespace() -> str:
    """Return the pod's own namespace; outside a pod the one in which the chart is installed by default."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "kubeballoon-system"


_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
