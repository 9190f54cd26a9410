"""How everything is given back, and stays so until the controllers are gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime

from kubeballoon.api.names import CONTROLLER_ANNOTATIONS
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressure
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, NotFoundError
from kubeballoon.cluster.lease import GIVE_UP, Lease
from kubeballoon.cluster.withdrawal import wait_for_returns, withdraw
from kubeballoon.governance.returns import PendingReturn, pending_returns

_log = logging.getLogger(__name__)

LEAVE = 60.0  # seconds for which no controller may lead afterwards, so that what deletes them can
_OURS = frozenset(CONTROLLER_ANNOTATIONS)


class Uninstaller:
    """Gives everything back, once.

    While it holds the controllers' Lease none of them decides. Policies stay as they are, so if it does not come to
    its end, a controller leads again when the Lease has run out, and all is as before.
    """

    def __init__(
        self,
        cluster: ApiClient,
        lease: Lease,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Work through ``cluster``, under ``lease``; ``clock`` gives monotonic seconds."""
        self._cluster = cluster
        self._lease = lease
        self._clock = clock
        self._sleep = sleep

    async def run(self, seconds: float) -> list[PendingReturn]:
        """Give back, and wait for it; what is left after ``seconds``.

        1. Take the Lease: whoever led stops at its next renewal, at the latest when it could not renew for `GIVE_UP`.
        2. Take every request off, also those written before that; of a VM that migrates as soon as it has arrived.
        3. Wait until no agent reports a request or a balloon that is not let go of.
        4. Leave the Lease so that no controller leads while they are deleted.

        Raises:
            ClusterError: a privilege is missing, or a kind; or the API server did not answer to the end.
        """
        left = await wait_for_returns(
            self._turn,
            lambda state: _log.info("%s", state),
            seconds,
            least=GIVE_UP,
            clock=self._clock,
            sleep=self._sleep,
        )
        if not left:
            await self._lease.seize(LEAVE)
        return left

    async def _turn(self) -> list[PendingReturn]:
        await self._lease.seize()
        try:
            instances = await self._cluster.metadata(paths.INSTANCES)
        except NotFoundError:
            return []  # KubeVirt was uninstalled before, and its VMs with it
        pressures = (await self._cluster.get(paths.NODE_PRESSURES))["items"]
        nodes = [NodePressure.model_validate(body) for body in pressures]
        between = set(_between_nodes(nodes))
        asked = [
            each for each in instances if each.get("annotations", {}).keys() & _OURS and each["uid"] not in between
        ]
        withdrawn = await withdraw(self._cluster, [(each["namespace"], each["name"], each["uid"]) for each in asked])
        for name in withdrawn:
            _log.info("%s: request withdrawn", name)
        alive = {each["uid"] for each in instances}  # agents report a VM for a moment after its end
        return pending_returns(nodes, datetime.now(UTC), lambda _, report: report.uid in alive)


def _between_nodes(nodes: Iterable[NodePressure]) -> Iterator[str]:
    """The VMs that migrate without all of their processors: by the request the next agent knows that some are due."""
    for pressure in nodes:
        for report in () if pressure.status is None else pressure.status.virtual_machines:
            seen = report.processors
            if (
                seen is not None
                and seen.reason is AgentReason.MIGRATING
                and seen.target is not None
                and seen.online != seen.size
            ):
                yield report.uid
