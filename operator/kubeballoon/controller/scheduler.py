"""This module schedules rounds: soon after something has changed, and now and then in any case."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, Object
from kubeballoon.cluster.events import EventRecorder
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.node_tainter import NodeTainter
from kubeballoon.controller.policy_status_writer import PolicyStatusWriter
from kubeballoon.controller.report_watch import ReportWatch
from kubeballoon.controller.round_queue import RoundQueue
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.vm_migrator import VMMigrator
from kubeballoon.controller.wait_times import DEFAULT_TIMING, ControllerTiming
from kubeballoon.controller.watch_progress import WatchProgress
from kubeballoon.governance.report_bounds import SILENT_AFTER

_log = logging.getLogger(__name__)

_CONCURRENT_ROUNDS = 4
"""Nodes with a round at the same time, and as many more that are short of memory: while one waits for the API server,
the others keep it busy."""


class Scheduler:
    """A Scheduler runs rounds, of several nodes at once, and keeps policies' statuses up to date.

    Each of these is a task of its own, so that no change, however often it comes, keeps another from its turn. A node
    has one round at a time. Nodes that are short of memory come first, and never wait for calm ones.

    Attributes:
        watches: whether kopf delivers what the API server has.
    """

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        rounds: RoundRunner,
        counters: ControllerCounters,
        clock: Callable[[], float] = time.monotonic,
        timing: ControllerTiming = DEFAULT_TIMING,
    ) -> None:
        """Schedule ``rounds`` for the nodes of ``state``; ``clock`` gives monotonic seconds."""
        self.watches = WatchProgress(timing.delivery, clock)
        self._cluster = cluster
        self._state = state
        self._rounds = rounds
        self._clock = clock
        self._timing = timing
        self._reports = ReportWatch(cluster, state, self.enqueue, clock)
        self._queue = RoundQueue()
        self._tainter = NodeTainter(cluster, state, recorder, rounds.may_write, clock)
        self._migrator = VMMigrator(cluster, state, recorder, rounds.may_write, clock, self.enqueue)
        rounds.is_urgent = self._queue.is_urgent
        self._statuses = PolicyStatusWriter(cluster, state, recorder, rounds, counters, timing.figures_interval, clock)
        self._could_write = True
        self._progress_at = clock()
        self._fault: str | None = "not all policies and nodes are read yet"

    def enqueue(self, name: str) -> None:
        """Run a round of the node ``name`` soon."""
        self._queue.add(name, self._state.severity(name))

    def enqueue_all(self) -> None:
        """Run a round of every node soon."""
        for name in self._state.nodes:
            self.enqueue(name)

    def stalled(self) -> str | None:
        """Say in one line that the loop no longer makes progress; None if it does."""
        seconds = self._clock() - max(self._progress_at, self._rounds.progress_at)
        return f"no round for {seconds:.0f}s" if seconds > self._timing.stalled_after else None

    def unready(self) -> str | None:
        """Say in one line why decisions may not be up to date; None if they are.

        The API server's objects cannot be read, or kopf's watches do not deliver them.
        """
        return self._fault or self._reports.fault() or self.watches.fault()

    async def run(self) -> None:
        """Run for ever; nothing is decided before all policies, namespaces and nodes are known."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reports.run(), name="watch nodes")
            await self._start()
            for number in range(_CONCURRENT_ROUNDS):
                tasks.create_task(self._run_rounds(urgent=False), name=f"rounds {number}")
                tasks.create_task(self._run_rounds(urgent=True), name=f"urgent rounds {number}")
            tasks.create_task(self._repeat(self._timing.tick, self._enqueue_due), name="due rounds")
            tasks.create_task(self._repeat(self._timing.status_interval, self._statuses.update), name="statuses")
            tasks.create_task(self._tainter.watch(), name="watch Nodes")
            tasks.create_task(self._repeat(self._timing.taint_interval, self._tainter.update), name="taints")
            tasks.create_task(self._migrator.watch(), name="watch migrations")
            tasks.create_task(self._repeat(self._timing.migration_interval, self._migrator.update), name="migrations")
            tasks.create_task(self._audit_now_and_then(), name="audit")

    async def _start(self) -> None:
        """Wait until everything is known."""
        while not await self._succeeds(self._load()):
            self._progress_at = self._clock()
            await asyncio.sleep(self._timing.load_retry)
        while not self._reports.synced.is_set():
            self._progress_at = self._clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.load_retry):
                    await self._reports.synced.wait()
        self.enqueue_all()

    async def _run_rounds(self, *, urgent: bool) -> None:
        """Run one round after the other, for ever; with ``urgent`` only of nodes that are short of memory."""
        while True:
            name = await self._queue.next(self._timing.settle, urgent=urgent)
            try:
                await self._rounds.run(name)
            finally:
                self._queue.done(name)
            self._progress_at = self._clock()
            await asyncio.sleep(0)  # a round that writes nothing waits for nothing

    @staticmethod
    async def _repeat(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await step()

    async def _enqueue_due(self) -> None:
        """Enqueue the nodes whose last round was long ago, or whose agents have fallen silent since."""
        now, could_write, self._could_write = self._clock(), self._could_write, self._rounds.may_write()
        if self._queue.idle:
            self._progress_at = now
        for name, result in list(self._rounds.results.items()):
            if self._queue.has(name):
                continue
            if self._could_write > could_write and result.unwritten:
                self.enqueue(name)  # the Lease is held again
            silent = self._state.seconds_since_heard(name, now) > SILENT_AFTER
            interval = self._timing.rest if result.rests and not silent else self._timing.resync
            if now - result.ended_at >= interval or (silent and not result.silent):
                self.enqueue(name)

    async def _audit_now_and_then(self) -> None:
        """Compare what is known with the API server's objects, and forget what only concerned VMs that are gone.

        It is done again soon while kopf has not delivered something: that may only be gone. kopf never tells of a
        namespace that was deleted between the first list and its own, and the controller is not ready meanwhile.
        """
        while True:
            behind = self.watches.fault() is not None
            await asyncio.sleep(self._timing.load_retry if behind else self._timing.audit_interval)
            await self._succeeds(self._audit())
            self._state.prune()

    async def _succeeds(self, reading: Awaitable[None]) -> bool:
        """Read objects from the API server, and say whether that succeeds; the same fault is logged once."""
        try:
            await reading
        except ApiError as error:
            fault = str(error)
            if fault != self._fault:
                _log.error("%s", fault)
            self._fault = fault
            return False
        self._fault = None
        return True

    async def _load(self) -> None:
        for metadata in await self._list(paths.NAMESPACES, metadata_only=True):
            self._state.put_namespace(metadata["name"], metadata.get("labels", {}))
        for policies in self._state.collections:
            for body in await self._list(policies.path):
                policies.put(body)

    async def _list(self, path: str, *, metadata_only: bool = False) -> list[Object]:
        """List a collection for the first time, or its objects' metadata; kopf has yet to deliver the same objects."""
        deliveries = self.watches.deliveries
        pages = self._cluster.pages(path, metadata_only=metadata_only)
        items: list[Object] = [item async for page in pages for item in page["items"]]
        listed = [item["metadata"] for item in items]
        self.watches.compare(path, listed, deliveries, first=True)
        return listed if metadata_only else items

    async def _audit(self) -> None:
        """Compare what is known with the API server's objects.

        Objects that are gone are forgotten: when kopf lists anew, it does not tell what was deleted meanwhile.
        """
        for name in await self._gone(paths.NAMESPACES, lambda: self._state.namespaces):
            self._state.forget_namespace(name)
            self.enqueue_all()
        for policies in self._state.collections:
            for name in await self._gone(policies.path, policies.known):
                policies.forget(name)
                self.enqueue_all()

    async def _gone(self, path: str, known: Callable[[], Mapping[str, object]]) -> Iterable[str]:
        """Find the names of known objects that the API server does not have, and compare what kopf has delivered."""
        before, deliveries = dict(known()), self.watches.deliveries
        listed = await self._cluster.metadata(path)
        self.watches.compare(path, listed, deliveries)
        names = {metadata["name"] for metadata in listed}
        after = known()
        # One that handlers have replaced while the names were read may be newer than the names.
        return [name for name, item in before.items() if name not in names and after.get(name) is item]
