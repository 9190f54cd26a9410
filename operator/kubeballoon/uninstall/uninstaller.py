"""This module returns everything to all VMs, and keeps controllers from reclaiming it again until they are deleted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from pydantic import ValidationError

from kubeballoon.api.names import LASTING_ANNOTATIONS, TAINT
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressure
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, ConflictError, ForbiddenError, NotFoundError, Object
from kubeballoon.cluster.heartbeat import read_heartbeats
from kubeballoon.cluster.lease import LAST_WRITE_AFTER, Lease
from kubeballoon.cluster.node_taints import has_taint, write_taint
from kubeballoon.cluster.request_withdrawal import wait_for_returns, withdraw
from kubeballoon.core.formatting import listed
from kubeballoon.governance.pending_returns import PendingReturn, pending_returns
from kubeballoon.governance.report_bounds import as_last_held

_log = logging.getLogger(__name__)

_LAST_LEASE_SECONDS = (
    60.0  # no controller of this installation leads for so long afterwards: helm deletes them meanwhile
)
_TAINT_ATTEMPTS = 5  # kubelets write their Nodes now and then, seldom twice within a second
_OUR_ANNOTATIONS = frozenset(LASTING_ANNOTATIONS)


class Uninstaller:
    """An Uninstaller returns everything to all VMs, once.

    While it holds the controllers' Lease, no controller decides. Policies are not touched: if the uninstaller is
    stopped early, a controller leads again as soon as the Lease has expired, and goes on as before.
    """

    def __init__(
        self,
        cluster: ApiClient,
        lease: Lease,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare the work.

        Args:
            cluster: the API server.
            lease: the controllers' Lease.
            clock: monotonic seconds.
            sleep: passes the time between polls.
        """
        self._cluster = cluster
        self._lease = lease
        self._clock = clock
        self._sleep = sleep

    async def run(self, seconds: float) -> list[PendingReturn]:
        """Return everything to all VMs, and wait until they have it.

        1. Seize the Lease. The leading controller stops at its next renewal, its last write within LAST_WRITE_AFTER.
        2. Withdraw every request, also those that the controller wrote before it stopped. A VM that migrates keeps its
           request for processors until it has arrived.
        3. Wait until every agent reports that its VMs have everything back.
        4. Remove the taints from all Nodes.
        5. Extend the Lease, so that no controller leads while controllers are being deleted. Those of the next
           installation have another account, and need not wait.

        Args:
            seconds: how long to wait for VMs.

        Returns:
            The VMs that do not have everything back after ``seconds``.

        Raises:
            ApiError: a privilege or a kind is missing, or the API server did not answer at the end.
        """
        pending = await wait_for_returns(
            self._withdraw_all,
            lambda progress: _log.info("%s", progress),
            seconds,
            at_least=LAST_WRITE_AFTER,
            clock=self._clock,
            sleep=self._sleep,
        )
        await self._remove_taints()
        if not pending:
            await self._lease.shut_out(_LAST_LEASE_SECONDS)
        return pending

    async def _withdraw_all(self) -> list[PendingReturn]:
        """Withdraw the requests that are left, and find the VMs that lack something."""
        await self._lease.seize()
        try:
            instances = await self._cluster.metadata(paths.INSTANCES)
        except NotFoundError:
            return []  # KubeVirt is uninstalled already, so there are no VMs
        pressures = (await self._cluster.get(paths.NODE_PRESSURES))["items"]
        nodes, unreadable = _read(pressures)
        migrating = set(_migrating_without_processors(nodes))
        requested = [
            (each["namespace"], each["name"], each["uid"])
            for each in instances
            if each.get("annotations", {}).keys() & _OUR_ANNOTATIONS and each["uid"] not in migrating
        ]
        for name in await withdraw(self._cluster, requested):
            _log.info("%s: request withdrawn", name)
        if unreadable:  # only now: what can be given back is
            raise ApiError(
                f"NodePressure {listed(unreadable)} cannot be read, so it is not known whether all is back there: "
                "delete it if no agent of this version runs on that node"
            )
        alive = {each["uid"] for each in instances}  # agents report a VM for a moment after its end
        heartbeats = await self._heartbeats()
        held = [as_last_held(node, heartbeats) for node in nodes]
        return pending_returns(held, datetime.now(UTC), lambda _, report: report.uid in alive)

    async def _remove_taints(self) -> None:
        """Remove our taint from all Nodes, as an installation with taints disabled may have had them enabled before."""
        for _ in range(_TAINT_ATTEMPTS):
            try:
                tainted = [
                    each async for page in self._cluster.pages(paths.NODES) for each in filter(has_taint, page["items"])
                ]
            except ForbiddenError as error:
                _log.warning("Nodes may keep the taint %s: %s", TAINT, error)
                return
            for node in tainted:
                # One that has changed since is listed anew.
                with contextlib.suppress(ConflictError, NotFoundError):
                    await write_taint(self._cluster, node, None)
                    _log.info("node %s: taint removed", node["metadata"]["name"])
            if not tainted:
                return

    async def _heartbeats(self) -> Mapping[str, datetime]:
        """Read when each node's agent last said that its report holds, by the node's name; none if that is forbidden.

        Without heartbeats an agent may seem to be silent, but its VMs that lack memory are named all the same.
        """
        try:
            # Not in the namespaces that reports name: a forged one would be forbidden, and end the uninstallation.
            return await read_heartbeats(self._cluster, self._lease.namespace)
        except ForbiddenError:
            return {}


def _read(bodies: Iterable[Object]) -> tuple[list[NodePressure], list[str]]:
    """Read nodes' reports.

    Returns:
        Those that can be read, and the names of the others: an agent of another version may have written them.
    """
    nodes, unreadable = [], []
    for body in bodies:
        try:
            nodes.append(NodePressure.model_validate(body))
        except ValidationError:
            unreadable.append(body["metadata"]["name"])
    return nodes, unreadable


def _migrating_without_processors(nodes: Iterable[NodePressure]) -> Iterator[str]:
    """Find the uids of VMs that migrate while some of their processors are reclaimed.

    The next node's agent learns from the request alone that processors are to be returned.
    """
    for pressure in nodes:
        for report in () if pressure.status is None else pressure.status.virtual_machines:
            processors = report.processors
            if (
                processors is not None
                and processors.reason is AgentReason.MIGRATING
                and processors.target is not None
                and processors.online != processors.size
            ):
                yield report.uid
