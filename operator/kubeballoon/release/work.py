"""How everything is given back, and stays so until the controllers are gone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from kubeballoon.api.names import CONTROLLER_ANNOTATIONS
from kubeballoon.api.v1alpha1 import NodePressure, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import Cluster, ConflictError, NotFoundError, Object, UnreachableError
from kubeballoon.cluster.lease import GIVE_UP, Lease
from kubeballoon.core.wording import human

_log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between looks
LEAVE = 60.0  # seconds for which no controller may lead afterwards, so that what deletes them can
_AT_ONCE = 8  # patches under way at one time
_MANY = 5  # VMs named before "and N more"
_ALLOWANCE = 64  # agents report a balloon's move from a hundredth of the VM's size on


class Release:
    """Gives everything back, once.

    While it holds the controllers' Lease none of them decides. Policies stay as they are, so if it does not come to
    its end, a controller leads again when the Lease has run out, and all is as before.
    """

    def __init__(
        self,
        cluster: Cluster,
        lease: Lease,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Work through ``cluster``, under ``lease``; ``clock`` gives monotonic seconds."""
        self._cluster = cluster
        self._lease = lease
        self._clock = clock
        self._sleep = sleep
        self._limit = asyncio.Semaphore(_AT_ONCE)

    async def run(self, seconds: float) -> list[str]:
        """Give back, and wait for it; what is left after ``seconds``, as one line for each VM.

        1. Take the Lease: whoever led stops at its next renewal, at the latest when it could not renew for `GIVE_UP`.
        2. Take every request off, also those written before that.
        3. Wait until no agent reports a request or a balloon that is not let go of.
        4. Leave the Lease so that no controller leads while they are deleted.

        Raises:
            ClusterError: a privilege is missing, or a kind.
        """
        started = self._clock()
        said: list[str] = []
        while True:
            try:
                left = await self._turn()
            except UnreachableError as error:
                left = [str(error)]
            passed = self._clock() - started
            if not left and passed >= GIVE_UP:
                await self._lease.seize(LEAVE)
                return []
            if left and passed + LOOK > seconds:
                return left
            if left != said:
                _log.info("%s", "; ".join(left) or "all memory is back; making sure that it stays")
            said = left
            await self._sleep(LOOK)

    async def _turn(self) -> list[str]:
        await self._lease.seize()
        instances = await self._cluster.metadata(paths.INSTANCES)
        asked = [metadata for metadata in instances if metadata.get("annotations", {}).keys() & _OURS]
        await asyncio.gather(*(self._withdraw(metadata) for metadata in asked))
        pressures = (await self._cluster.get(paths.NODE_PRESSURES))["items"]
        nodes = [NodePressure.model_validate(body) for body in pressures]
        return outstanding({metadata["uid"] for metadata in instances}, nodes)

    async def _withdraw(self, metadata: Object) -> None:
        body = {"metadata": {"uid": metadata["uid"], "annotations": dict.fromkeys(_OURS)}}
        try:
            async with self._limit:
                await self._cluster.merge(paths.instance(metadata["namespace"], metadata["name"]), body)
        except (NotFoundError, ConflictError):
            return  # gone, and its request with it; or another by that name, seen at the next look
        _log.info("%s/%s: request withdrawn", metadata["namespace"], metadata["name"])


_OURS = frozenset(CONTROLLER_ANNOTATIONS)


def outstanding(instances: set[str], nodes: Sequence[NodePressure]) -> list[str]:
    """Which VMs have not got all of their memory back, as one line each; ``instances`` are the uids of those that are.

    A VM that an agent must not touch is none of them; one whose agent cannot see it is.
    """
    lines = [
        f"{report.namespace}/{report.name} on {node.metadata.name} {reason}"
        for node in nodes
        if node.status is not None
        for report in node.status.virtual_machines
        if report.uid in instances and (reason := _missing(report)) is not None
    ]
    return lines if len(lines) <= _MANY else [*lines[:_MANY], f"and {len(lines) - _MANY} more"]


def _missing(report: VirtualMachineReport) -> str | None:
    if report.target is not None:
        return f"is still asked to keep to {human(report.target)}"
    if report.processors is not None and report.processors.target is not None:
        return f"is still asked to keep to {report.processors.target} processors"
    if not report.eligible:
        return None
    if report.actual is None:
        return f"is out of sight ({report.message or 'its agent does not reach it'})"
    if report.size - report.actual > report.size // _ALLOWANCE:
        return f"has {human(report.actual)} of {human(report.size)}"
    return None
