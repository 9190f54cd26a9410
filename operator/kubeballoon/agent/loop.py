"""The agent's loop: one keeper per VM, and a report whenever there is news."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from kubeballoon.agent import report
from kubeballoon.agent.attendant import Attendants
from kubeballoon.agent.host import Host, HostError, HostMemory
from kubeballoon.agent.hypervisor import Hypervisor
from kubeballoon.agent.instance import Instance, read
from kubeballoon.agent.keeper import Keeper, Settings
from kubeballoon.api.v1alpha1 import API_VERSION, NodePressureStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import Cluster, ClusterError, Object
from kubeballoon.cluster.reflector import Reflector
from kubeballoon.core.model import State
from kubeballoon.core.state import StallLimits, Thresholds, next_state, thresholds

_log = logging.getLogger(__name__)

INTERVAL = 2.0  # seconds between looks at the node
SETTLE = 0.3  # seconds in which what VMs show becomes one report
HEARTBEAT = 60.0  # seconds after which a report is written though nothing changed


@dataclass(frozen=True, slots=True)
class Limits:
    """What the node's states are made of: the kubelet's hard eviction threshold, a margin, bytes, and percents."""

    eviction: int
    margin: int
    percents: tuple[float, float, float, float] = (6, 4, 2, 1)

    def thresholds(self, total: int) -> Thresholds:
        """The thresholds for a node of ``total`` bytes."""
        return thresholds(total, self.eviction, self.margin, self.percents)


class Agent:
    """All of one node."""

    def __init__(
        self,
        node: str,
        cluster: Cluster,
        hypervisor: Hypervisor,
        host: Host,
        settings: Settings,
        limits: Limits,
    ) -> None:
        """Be the agent of ``node``."""
        self._node = node
        self._cluster = cluster
        self._hypervisor = hypervisor
        self._host = host
        self._settings = settings
        self._limits = limits
        self._clock: Callable[[], float] = time.monotonic
        self._state = State.HIGH
        self._keepers: dict[str, tuple[Keeper, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._attendants = Attendants(hypervisor, settings.pods, self._wake.set)
        self._written: NodePressureStatus | None = None
        self._written_at = 0.0
        self._beat = self._clock()
        self._refused = ""
        self.vms = Reflector(
            cluster,
            paths.INSTANCES,
            label_selector=f"kubevirt.io/nodeName={node}",
            changed=self._wake.set,
        )

    def stalled(self) -> str | None:
        """What is wrong when the loop has stopped turning, for the liveness probe."""
        silence = self._clock() - self._beat
        return f"the loop has not turned for {silence:.0f}s" if silence > 20 * INTERVAL else None

    def unready(self) -> str | None:
        """What is missing until the agent works, for the readiness probe."""
        if not self.vms.synced.is_set():
            return "the VMs of this node are not read yet"
        return None if self._written is not None else self._refused or "nothing reported yet"

    async def run(self) -> None:
        """Work until cancelled; requests made stay as they are then."""
        following = asyncio.create_task(self.vms.run(), name="watch VMs")
        try:
            # Before the VMs are known nothing is moved: no annotation seen is not no annotation.
            while not self.vms.synced.is_set():
                self._beat = self._clock()
                await self._pause(INTERVAL)
            while True:
                self._beat = self._clock()
                self._match_keepers()
                await self._report()
                await self._pause(INTERVAL)
                await asyncio.sleep(SETTLE)
        finally:
            tasks = [following, *(task for _, task in self._keepers.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, self._attendants.close(), return_exceptions=True)

    def _match_keepers(self) -> None:
        """One keeper for each VM that runs here."""
        running: dict[str, Instance] = {}
        for vmi in self.vms.objects():
            instance = read(vmi, self._node)
            if instance is not None:
                running[instance.uid] = instance
        self._attendants.match(running)
        for uid in self._keepers.keys() - running.keys():
            self._keepers.pop(uid)[1].cancel()
        for uid, instance in running.items():
            known = self._keepers.get(uid)
            if known is not None and not known[1].done():
                known[0].update(instance)
                continue
            if known is not None:
                _log.error("%s: its keeper ended: %r", instance.domain, known[1].exception())
            keeper = Keeper(instance, self._hypervisor, self._settings, self._wake.set)
            self._keepers[uid] = keeper, asyncio.create_task(keeper.run(), name=f"keep {instance.domain}")

    async def _report(self) -> None:
        try:
            memory = await asyncio.to_thread(self._host.memory)
        except HostError as error:
            self._refuse(str(error))
            return
        limits = self._limits.thresholds(memory.total)
        self._settle_state(memory, limits)
        views = [(keeper.instance, keeper.view) for keeper, _ in self._keepers.values()]
        status = report.compose(memory, self._state, limits, views, self._written, datetime.now(UTC))
        status = await self._attendants.complete(status)
        due = self._clock() - self._written_at >= HEARTBEAT
        if due or report.is_news(self._written, status):
            await self._write(status)

    def _settle_state(self, memory: HostMemory, limits: Thresholds) -> None:
        before = self._state
        self._state = next_state(before, memory.available, limits, memory.stall, StallLimits())
        if self._state is not before:
            _log.info("node state %s, was %s", self._state, before)

    async def _write(self, status: NodePressureStatus) -> None:
        body: Object = {"apiVersion": API_VERSION, "kind": "NodePressure", "metadata": {"name": self._node}}
        try:
            if self._written is None:
                await self._create(body)
            await self._cluster.apply(paths.node_pressure_status(self._node), {**body, "status": status.to_wire()})
        except ClusterError as error:
            self._written = None  # it may be gone; made anew when the API server answers again
            self._refuse(str(error))
            return
        if self._refused:
            _log.info("reporting again")
        self._refused = ""
        self._written, self._written_at = status, self._clock()

    async def _create(self, body: Object) -> None:
        """The object itself, owned by its Node, so that it goes with it."""
        node = await self._cluster.get(paths.node(self._node))
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}
        metadata = {"name": self._node, "ownerReferences": [owner]}
        await self._cluster.apply(paths.node_pressure(self._node), {**body, "metadata": metadata})

    def _refuse(self, text: str) -> None:
        """Say once what keeps the report from being made."""
        if text != self._refused:
            _log.warning("%s", text)
        self._refused = text

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()
