"""The agent's two loops: one looks at the node and guards it, the other reports whenever there is news.

They are apart so that an API server which does not answer never delays help for the node or a guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from kubeballoon.agent import emergency, report
from kubeballoon.agent.hypervisor.interface import Hypervisor
from kubeballoon.agent.metrics import AgentMetrics
from kubeballoon.agent.node.memory import HostError, HostMemory, HostMemoryReader
from kubeballoon.agent.vm import guest_worker, instance
from kubeballoon.agent.vm.authorization import KnownPolicies
from kubeballoon.agent.vm.guest_worker import GuestWorkers
from kubeballoon.agent.vm.instance import Instance
from kubeballoon.agent.vm.memory_worker import MemoryWorker, WorkerSettings
from kubeballoon.api.meta import Condition
from kubeballoon.api.v1alpha1 import API_VERSION, NodePressure, NodePressureStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, Object
from kubeballoon.cluster.reflector import Reflector
from kubeballoon.core.memory.node_state import StallLimits, StateThresholds, next_state, state_thresholds
from kubeballoon.vocabulary import NodeState

_log = logging.getLogger(__name__)

INTERVAL = 0.5  # seconds between looks at the node
CHECK = 3.0  # seconds between looks whether the node's own figures are news
SETTLE = 0.2  # seconds in which what VMs show becomes one report
HEARTBEAT = 60.0  # seconds after which a report is written though nothing changed
SLOW = 40.0  # seconds without a turn after which a loop counts as stuck


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What the node's states are made of: the kubelet's hard eviction threshold, a margin, bytes, and percents."""

    eviction: int
    margin: int
    percents: tuple[float, float, float, float] = (6, 4, 2, 1)

    def thresholds(self, total: int) -> StateThresholds:
        """The thresholds for a node of ``total`` bytes."""
        return state_thresholds(total, self.eviction, self.margin, self.percents)


class Agent:
    """All of one node."""

    def __init__(
        self,
        node: str,
        cluster: ApiClient,
        hypervisor: Hypervisor,
        host: HostMemoryReader,
        settings: WorkerSettings,
        limits: NodeLimits,
    ) -> None:
        """Be the agent of ``node``."""
        self._node = node
        self._cluster = cluster
        self._hypervisor = hypervisor
        self._host = host
        self._settings = settings
        self._limits = limits
        self.metrics = AgentMetrics(node, self._compose, self._looked)
        self._clock: Callable[[], float] = time.monotonic
        self._memory: HostMemory | None = None
        self._state = NodeState.AMPLE
        self._memory_workers: dict[str, tuple[MemoryWorker, asyncio.Task[None]]] = {}
        self._recall_due = True
        self._recalled: NodePressureStatus | None = None  # what the agent before this one last reported
        self._stale = True  # whether VMs or policies changed since they were last read
        self._unread: set[str] = set()  # VMs that cannot be read
        self._matched = False  # whether each VM has had its worker
        self._look = asyncio.Event()
        self._news = asyncio.Event()
        self._guest_workers = GuestWorkers(hypervisor, settings.pods, self._news.set)
        self._written: NodePressureStatus | None = None
        self._written_at = 0.0
        self._conditions: Sequence[Condition] = ()  # as last composed, written or not
        self._missing = True  # whether our NodePressure may have to be created
        self._beats = {"guard": self._clock(), "report": self._clock()}
        self._refused = ""
        selector = f"kubevirt.io/nodeName={node}"
        self._vms = Reflector(cluster, paths.INSTANCES, label_selector=selector, changed=self._changed)
        self._policies = Reflector(cluster, paths.MEMORY_POLICIES, changed=self._changed)
        self._namespaces = Reflector(cluster, paths.NAMESPACES, changed=self._namespace_changed)
        self._labels: dict[str, Mapping[str, str]] = {}  # of the VMs' namespaces, where they are known

    def stalled(self) -> str | None:
        """What is wrong when a loop has stopped turning, for the liveness probe."""
        name, beat = min(self._beats.items(), key=lambda item: item[1])
        silence = self._clock() - beat
        return f"the {name} loop has not turned for {silence:.0f}s" if silence > SLOW else None

    def unready(self) -> str | None:
        """What is missing until the agent works, for the readiness probe."""
        if not self._vms.synced.is_set():
            return "the VMs of this node are not read yet"
        return None if not self._missing else self._refused or "nothing reported yet"

    async def run(self) -> None:
        """Work until cancelled; requests made stay as they are then."""
        loop = asyncio.get_running_loop()
        self._host.alarm(lambda: loop.call_soon_threadsafe(self._look.set))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._vms.run(), name="watch VMs")
                tasks.create_task(self._policies.run(), name="watch policies")
                tasks.create_task(self._namespaces.run(), name="watch namespaces")
                tasks.create_task(self._guard(), name="guard")
                tasks.create_task(self._tell(), name="report")
        finally:
            keeping = [task for _, task in self._memory_workers.values()]
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, self._guest_workers.close(), return_exceptions=True)

    def _changed(self) -> None:
        self._stale = True
        self._look.set()

    def _namespace_changed(self) -> None:
        if self._read_labels(self._labels.keys()) != self._labels:
            self._changed()

    async def _guard(self) -> None:
        """Look at the node, have each VM kept, and help where help cannot wait for the controller."""
        while True:
            self._beats["guard"] = self._clock()
            self._observe()
            # Before the VMs are known nothing is moved: no annotation seen is not no annotation.
            if self._vms.synced.is_set() and self._policies.tried and self._namespaces.tried:
                if self._recall_due:
                    await self._recall()
                self._match_workers()
                self._help()
            await _pause(self._look, INTERVAL)

    async def _recall(self) -> None:
        """Take up what the agent before this one saw, and decided on its own: no balloon moves because of a restart."""
        self._recall_due = False
        try:
            pressure = NodePressure.model_validate(await self._cluster.get(paths.node_pressure(self._node)))
        except (ApiError, ValidationError):
            return  # nothing was reported, or it cannot be had: then the requests hold
        if pressure.status is not None:
            self._conditions = pressure.status.conditions
            self._recalled = pressure.status

    def _observe(self) -> None:
        try:
            memory = self._host.memory()
        except HostError as error:
            self._refuse(str(error))
            self._memory = None
            return
        if self._memory is None:
            self._news.set()
        before, self._memory = self._state, memory
        limits = self._limits.thresholds(memory.total)
        self._state = next_state(before, memory.available, limits, memory.stall, StallLimits())
        if self._state is not before:
            _log.info("node state %s, was %s", self._state, before)
            self._news.set()

    def _match_workers(self) -> None:
        """One worker for each VM that runs here, with what is asked of it now."""
        ended = [uid for uid, (_, task) in self._memory_workers.items() if task.done()]
        if not self._stale and not ended:
            return
        self._stale = False
        policies = KnownPolicies.read(self._policies.objects()) if self._policies.synced.is_set() else KnownPolicies()
        read = (self._read(vmi) for vmi in self._vms.objects())
        running = {vm.uid: vm for vm in read if vm is not None}
        self._labels = self._read_labels({vm.namespace for vm in running.values()})
        self._guest_workers.match(running)
        for uid in ended:
            worker, task = self._memory_workers.pop(uid)
            _log.error("%s: its worker ended: %r", worker.instance.domain, task.exception())
        for uid in self._memory_workers.keys() - running.keys():
            self._memory_workers.pop(uid)[1].cancel()
        for uid, vm in running.items():
            if uid not in self._memory_workers:
                self._keep(vm)
            self._memory_workers[uid][0].update(vm, policies.authorization(vm, self._labels.get(vm.namespace)))
        if not self._matched and self._recalled is not None:  # of a VM that comes later it tells nothing
            self._guest_workers.recall(self._recalled)
            for known in self._recalled.virtual_machines:
                if known.uid in self._memory_workers:
                    self._memory_workers[known.uid][0].recall(known, self._recalled.observed_at.timestamp())
        self._matched = True
        self._news.set()

    def _read(self, vmi: Object) -> Instance | None:
        """The VM; None where it does not run here, or cannot be read: then it is left alone, and counts as in use."""
        name = "{namespace}/{name}".format_map(vmi["metadata"])
        try:
            found = instance.read(vmi, self._node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if name not in self._unread:
                _log.error("%s cannot be read, and is left alone: %r", name, error)
            self._unread.add(name)
            return None
        self._unread.discard(name)
        return found

    def _keep(self, vm: Instance) -> None:
        uid, looks = vm.uid, self.metrics.looks.time
        reached_by, process = self._guest_workers.hypervisor(uid), self._guest_workers.process(uid)
        worker = MemoryWorker(vm, reached_by, self._settings, self._news.set, timed=looks, process=process)
        self._memory_workers[uid] = worker, asyncio.create_task(worker.run(), name=f"keep {vm.domain}")

    def _read_labels(self, namespaces: Collection[str]) -> dict[str, Mapping[str, str]]:
        """The labels of those of the namespaces that are known."""
        known = (namespace["metadata"] for namespace in self._namespaces.objects())
        return {each["name"]: each.get("labels", {}) for each in known if each["name"] in namespaces}

    def _help(self) -> None:
        """Let node and guests in trouble have what the controller would give them, before it does."""
        workers = [worker for worker, _ in self._memory_workers.values()]
        status = self._compose() if emergency.may_be_needed(self._state, workers) else None
        if status is not None and emergency.set_emergency_targets(self._node, status, workers):
            self._news.set()

    async def _tell(self) -> None:
        """Report what is news, and now and then that nothing is."""
        told = True
        while True:
            self._beats["report"] = self._clock()
            if self._matched:
                await self._report(told=told)
            told = await _pause(self._news, CHECK)
            await asyncio.sleep(SETTLE)

    async def _report(self, *, told: bool) -> None:
        """Look for news: at the VMs only where one of their workers has told that there is."""
        self._guest_workers.measure()
        due = self._missing or self._clock() - self._written_at >= HEARTBEAT
        if not (told or due or self._node_moved()):
            return
        status = self._compose()
        if status is not None and (due or report.is_news(self._written, status)):
            await self._write(status)

    def _node_moved(self) -> bool:
        written, memory = self._written, self._memory
        if written is None or memory is None:
            return True
        moved = report.moved(written.memory.available, memory.available, memory.total)
        return moved or guest_worker.is_node_news(written.processors, self._guest_workers.processors)

    def _compose(self) -> NodePressureStatus | None:
        """The report as of now; None while the node's memory is not known."""
        memory = self._memory
        if memory is None:
            return None
        workers = [worker for worker, _ in self._memory_workers.values()]
        limits = self._limits.thresholds(memory.total)
        status = report.compose(memory, self._state, limits, workers, self._conditions, datetime.now(UTC))
        self._conditions = status.conditions
        return self._guest_workers.complete(status)

    def _looked(self) -> dict[tuple[str, ...], float | None]:
        """When each VM was last looked at, seconds, by namespace and name."""
        workers = [worker for worker, _ in self._memory_workers.values()]
        return {(worker.instance.namespace, worker.instance.name): worker.looked for worker in workers}

    async def _write(self, status: NodePressureStatus) -> None:
        body: Object = {"apiVersion": API_VERSION, "kind": "NodePressure", "metadata": {"name": self._node}}
        try:
            if self._missing:
                await self._create(body)
            await self._cluster.apply(paths.node_pressure_status(self._node), {**body, "status": status.to_wire()})
        except ApiError as error:
            self.metrics.wrote(None)
            self._missing = True  # it may be gone; made anew when the API server answers again
            self._refuse(str(error))
            return
        if self._refused:
            _log.info("reporting again")
        self._refused = ""
        self.metrics.wrote(status.observed_at)
        self._written, self._written_at, self._missing = status, self._clock(), False

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


async def _pause(event: asyncio.Event, seconds: float) -> bool:
    """Wait, but no longer than until the event, which is over then; whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    came = event.is_set()
    event.clear()
    return came
