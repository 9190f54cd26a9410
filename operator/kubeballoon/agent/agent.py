"""This module runs the agent's two loops: one looks at the node and guards it, the other reports when there is news.

They are apart so that an API server which does not answer never delays help for the node or a guest.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from kubeballoon.agent import emergency, report_changes
from kubeballoon.agent.cluster_watches import ClusterWatches
from kubeballoon.agent.event_wait import wait_for
from kubeballoon.agent.hypervisor.protocols import Hypervisor
from kubeballoon.agent.metrics import AgentMetrics
from kubeballoon.agent.node.kubelet import is_old
from kubeballoon.agent.node.memory import HostError, HostMemory, HostMemoryReader
from kubeballoon.agent.node.processors import HostProcessorReader
from kubeballoon.agent.node_limits import LimitsFinder
from kubeballoon.agent.report import NodeObservation, compose
from kubeballoon.agent.report_changes import News
from kubeballoon.agent.report_writer import ReportWriter
from kubeballoon.agent.reported_labels import ReportedLabels, bound_labels, selector_keys
from kubeballoon.agent.settings import AgentSettings, NodeSettings
from kubeballoon.agent.vm.guest_worker import GuestWorker, GuestWorkers
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.agent.vm.policy_backing import KnownPolicies, PolicyReader
from kubeballoon.agent.vm.vmi import Instance, UnreadableVM, read_overcommit, read_running
from kubeballoon.api.meta import Condition
from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, NodeProcessors
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.core.memory.node_state import next_state
from kubeballoon.vocabulary import NodeState

_log = logging.getLogger(__name__)


class Agent:
    """An Agent is the agent of one node.

    Attributes:
        metrics: what it exports.
    """

    def __init__(
        self,
        node: str,
        cluster: ApiClient,
        hypervisor: Hypervisor,
        host: HostMemoryReader,
        settings: AgentSettings,
        node_settings: NodeSettings,
    ) -> None:
        """Read the settings; ``run`` starts the agent.

        Args:
            node: the node's name.
            cluster: the API server.
            hypervisor: connects to the VMs.
            host: reads the node's memory.
            settings: what an administrator sets, and pauses and deadlines.
            node_settings: what holds where no NodePolicy says otherwise.
        """
        self._node = node
        self._cluster = cluster
        self._host_memory = host
        self._host_processors = HostProcessorReader(host.proc)
        self._settings = settings
        self._limits_finder = LimitsFinder(node_settings)
        self._timing = settings.timing.node
        self.metrics = AgentMetrics(node, self._compose, self._sample_times)
        self._clock: Callable[[], float] = time.monotonic
        self._memory: HostMemory | None = None
        self._processors: NodeProcessors | None = None
        self._processors_unreadable = False  # whether a failure to read them was logged: one warning is enough
        self._state = NodeState.AMPLE
        self._memory_workers: dict[str, tuple[MemoryWorker, asyncio.Task[None]]] = {}  # by the VM's uid
        self._must_restore = True  # whether the last report of an earlier agent is still to be read
        self._restored: NodePressureStatus | None = None  # the last report of an earlier agent
        self._restored_until = 0.0  # when that report last held, seconds of the wall clock
        self._objects_changed = True  # whether VMs or policies changed since they were last read
        self._unreadable_vms: dict[str, UnreadableVM] = {}  # by the VM's uid
        self._matched = False  # whether workers were started for all VMs once: until then nothing is reported
        self._wake_guard = asyncio.Event()
        self._wake_reporter = asyncio.Event()
        self._guest_workers = GuestWorkers(
            lambda instance: GuestWorker(
                instance, hypervisor, settings.pods, self._wake_reporter.set, settings.timing, settings.wait
            )
        )
        self._writer = ReportWriter(node, cluster, self.metrics, self._clock, self._timing)
        self._reported_at = -math.inf  # when a report was last written, or was tried to be
        self._conditions: Sequence[Condition] = ()  # of the last report, whether it could be written or not
        self._pending = False  # whether there is news that had to wait, or could not be written
        self._turns = {"guard": self._clock(), "report": self._clock()}  # when each loop last turned
        self._watches = ClusterWatches(
            cluster,
            node,
            self._on_change,
            self._on_namespace_change,
            self._on_kubevirt_change,
            self._on_node_change,
            self._timing.labels_interval,
        )
        self._node_labels = ReportedLabels()
        self._policy_reader = PolicyReader()
        self._selected_by: frozenset[str] = frozenset()  # the keys of labels by which policies select VMs
        self._overcommit = read_overcommit(())
        self._namespace_labels: dict[str, Mapping[str, str]] = {}  # of the VMs' namespaces, where they are known

    def stalled(self) -> str | None:
        """Say which loop has stopped turning, for the liveness probe; None if none has."""
        name, turned_at = min(self._turns.items(), key=lambda item: item[1])
        silence = self._clock() - turned_at
        return f"the {name} loop has not turned for {silence:.0f}s" if silence > self._timing.stuck_after else None

    def unready(self) -> str | None:
        """Say what is missing until the agent works, for the readiness probe; None if nothing is."""
        return self._watches.unread() or self._writer.unready() or self._watches.fault()

    async def run(self) -> None:
        """Work until cancelled; VMs then stay as they are."""
        loop = asyncio.get_running_loop()
        self._host_memory.alarm(lambda: loop.call_soon_threadsafe(self._wake_guard.set))
        try:
            async with asyncio.TaskGroup() as tasks:
                self._watches.start(tasks)
                tasks.create_task(self._guard(), name="guard")
                tasks.create_task(self._report(), name="report")
        finally:
            working = [task for _, task in self._memory_workers.values()]
            for task in working:
                task.cancel()
            await asyncio.gather(*working, self._guest_workers.close(), return_exceptions=True)

    def _on_change(self) -> None:
        self._objects_changed = True
        self._wake_guard.set()

    def _on_vm_change(self) -> None:
        """Report what a worker saw, and have the guard look at once if a guest may be short of memory."""
        self._wake_reporter.set()
        workers = [worker for worker, _ in self._memory_workers.values()]
        # Where many VMs move at once, the guard turns no more often than it can be of use.
        rested = self._clock() - self._turns["guard"] >= self._timing.first_settle
        if rested and emergency.may_be_needed(self._state, workers):
            self._wake_guard.set()

    def _on_kubevirt_change(self) -> None:
        overcommit = read_overcommit(self._watches.kubevirts.objects())
        if overcommit != self._overcommit:
            self._overcommit = overcommit
            self._on_change()

    def _on_namespace_change(self) -> None:
        if self._watches.labels(self._namespace_labels.keys()) != self._namespace_labels:
            self._on_change()

    def _on_node_change(self) -> None:
        """Find out anew which NodePolicy governs the node."""
        labels, policies = self._watches.node_labels.known, self._watches.node_policies.objects()
        self._limits_finder.govern(policies, labels)
        self._node_labels = bound_labels(labels or {}, selector_keys(policies, "nodeSelector"))
        self._wake_guard.set()
        self._wake_reporter.set()

    async def _guard(self) -> None:
        """Look at the node, give each VM its worker, and help where help cannot wait for the controller."""
        while True:
            self._turns["guard"] = self._clock()
            self._observe()
            if self._watches.known:
                if self._must_restore:
                    await self._read_last_report()
                self._match_workers()
                self._help()
            await wait_for(self._wake_guard, self._timing.guard_interval)

    async def _read_last_report(self) -> None:
        """Read what an earlier agent reported, so that no balloon moves because of a restart."""
        self._must_restore = False
        try:
            pressure = NodePressure.model_validate(await self._cluster.get(paths.node_pressure(self._node)))
        except (ApiError, ValidationError):
            return  # nothing was reported, or it cannot be read: then the requests hold
        if pressure.status is not None:
            self._conditions = pressure.status.conditions
            self._restored = pressure.status
            held = await self._writer.last_heartbeat()
            self._restored_until = max(pressure.status.observed_at, held or pressure.status.observed_at).timestamp()

    def _observe(self) -> None:
        """Read the node's memory, and find out its state."""
        try:
            memory = self._host_memory.memory()
        except HostError as error:
            self._writer.log_fault(str(error))
            self._memory = None
            return
        if self._memory is None:
            self._wake_reporter.set()
        # Before the policies are known the thresholds may be others, so a state entered by those must not last.
        before, self._memory = self._state if self._matched else NodeState.AMPLE, memory
        limits = self._limits_finder.limits(memory)
        self._state = next_state(before, memory.least_available, limits.thresholds, memory.stall, limits.stall)
        if self._state is not before:
            _log.info("node state %s, was %s", self._state, before)
            self._wake_reporter.set()

    def _match_workers(self) -> None:
        """Have one worker for each VM that runs here, with what is requested of the VM now."""
        ended = [uid for uid, (_, task) in self._memory_workers.items() if task.done()]
        if not self._objects_changed and not ended:
            return
        self._objects_changed = False
        known = self._watches.policies
        policies = self._policy_reader.read(known.objects()) if known.synced.is_set() else KnownPolicies()
        self._selected_by = selector_keys([*known.objects(), *self._watches.processor_policies.objects()])
        running = self._read_vms()
        self._namespace_labels = self._watches.labels({vm.namespace for vm in running.values()})
        backings = {uid: policies.backing(vm, self._namespace_labels.get(vm.namespace)) for uid, vm in running.items()}
        self._guest_workers.match(running, [uid for uid, vm in running.items() if backings[uid].governs(vm)])
        for uid in ended:  # a worker ends by an error alone; it is replaced below
            worker, task = self._memory_workers.pop(uid)
            fields = worker.instance.log_fields
            _log.error("%s: its worker ended: %r", worker.instance.domain, task.exception(), extra=fields)
        for uid in self._memory_workers.keys() - running.keys():
            self._memory_workers.pop(uid)[1].cancel()
        for uid, vm in running.items():
            if uid not in self._memory_workers:
                self._start_worker(vm)
            self._memory_workers[uid][0].update(vm, backings[uid])
        self._restore_workers()
        self._matched = True
        self._wake_reporter.set()

    def _restore_workers(self) -> None:
        """Let the first workers start from an earlier agent's report; later VMs are not in it."""
        if self._matched or self._restored is None:
            return
        self._guest_workers.restore(self._restored)
        for vm in self._restored.virtual_machines:
            if vm.uid in self._memory_workers:
                self._memory_workers[vm.uid][0].restore(vm, self._restored_until)

    def _read_vms(self) -> dict[str, Instance]:
        """Read the VMs that run here, by uid; log once those that cannot be read."""
        before = {uid: worker.instance for uid, (worker, _) in self._memory_workers.items()}
        running, unreadable = read_running(self._watches.vms.objects(), self._node, self._overcommit, before)
        for uid in unreadable.keys() - self._unreadable_vms.keys():
            vm = unreadable[uid]
            name = f"{vm.namespace}/{vm.name}"
            _log.error("%s cannot be read, and is left alone: %s", name, vm.why, extra={"vm": name})
        self._unreadable_vms = unreadable
        return running

    def _start_worker(self, vm: Instance) -> None:
        guest_worker = self._guest_workers.find(vm.uid)
        if guest_worker is None:
            raise LookupError(f"{vm.domain} has no guest worker")
        worker = MemoryWorker(
            vm,
            guest_worker.memory_hypervisor(),
            self._settings,
            self._on_vm_change,
            timed=self.metrics.sample_durations.time,
            process=guest_worker.process,
        )
        task = asyncio.create_task(worker.run(), name=f"memory worker {vm.domain}")
        self._memory_workers[vm.uid] = worker, task

    def _help(self) -> None:
        """Let node and guests in trouble have what the controller would give them, before it does."""
        workers = [worker for worker, _ in self._memory_workers.values()]
        status = self._compose() if emergency.may_be_needed(self._state, workers) else None
        if status is not None and emergency.set_emergency_targets(self._node, status, workers):
            self._wake_reporter.set()

    async def _report(self) -> None:
        """Report news, and say now and then that there is none."""
        vms_changed = True
        while True:
            self._turns["report"] = self._clock()
            if self._matched:
                await self._report_news(vms_changed=vms_changed)
            pause = self._writer.pause(News.MOVED) if self._pending else 0.0
            interval = self._timing.check_interval
            vms_changed = await wait_for(self._wake_reporter, min(pause or interval, interval))
            rested = self._clock() - self._reported_at
            await asyncio.sleep(max(self._timing.first_settle, self._timing.settle - rested))

    async def _report_news(self, *, vms_changed: bool) -> None:
        """Write what is news, once that may be; VMs are compared only where a worker said they changed.

        What has to wait is composed anew when it may be written, so what is written then is never older than that.
        """
        self._measure_processors()
        due = self._writer.due()
        if not (vms_changed or self._pending or due or self._node_changed()):
            return
        self._pending = True
        if self._writer.pause(News.URGENT):
            return
        status = self._compose()
        if status is None:
            return
        self._conditions = status.conditions
        status = self._writer.replace_refused(status)
        news = report_changes.report_news(self._writer.written, status)
        if news and (due or not self._writer.pause(news)):
            await self._writer.write(status)
            self._reported_at = self._clock()
        elif due:
            await self._writer.confirm(status)
        elif news:
            return
        self._pending = self._writer.unready() is not None
        self._host_memory.old_kubelet = is_old(self._writer.kubelet_version)

    def _measure_processors(self) -> None:
        try:
            host = self._host_processors.read()
        except HostError as error:
            _log.log(logging.DEBUG if self._processors_unreadable else logging.WARNING, "%s", error)
            self._processors_unreadable, self._processors = True, None
            return
        usage, stall = round(host.pressure.usage), round(host.pressure.stall)
        self._processors = NodeProcessors(count=host.count, usage=usage, stall=stall)

    def _node_changed(self) -> bool:
        return self._memory is None or report_changes.node_changed(self._writer.written, self._memory, self._processors)

    def _compose(self) -> NodePressureStatus | None:
        """Compose the report as of now; None while the node's memory is not known."""
        if self._memory is None:
            return None
        finder, memory = self._limits_finder, self._memory
        node = NodeObservation(
            memory, self._state, finder.limits(memory), self._processors, finder.report(memory), self._node_labels
        )
        # One that could be read before has a worker, which reports it.
        unreadable = [vm for uid, vm in self._unreadable_vms.items() if uid not in self._memory_workers]
        return compose(node, self._workers(), self._conditions, datetime.now(UTC), self._selected_by, unreadable)

    def _workers(self) -> list[tuple[MemoryWorker, GuestWorker | None]]:
        return [(worker, self._guest_workers.find(uid)) for uid, (worker, _) in self._memory_workers.items()]

    def _sample_times(self) -> dict[tuple[str, ...], float | None]:
        """Collect when each VM was last sampled, seconds, by namespace and name."""
        workers = [worker for worker, _ in self._memory_workers.values()]
        return {(worker.instance.namespace, worker.instance.name): worker.sampled_at for worker in workers}
