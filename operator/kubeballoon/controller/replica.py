"""This module is one replica of the controller: it stands by until it leads, and again if it loses the lead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass
from typing import Any, cast

import kopf
from prometheus_client import CollectorRegistry

from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.events import EventRecorder
from kubeballoon.cluster.lease_thread import LeaseThread
from kubeballoon.controller.agent_heartbeats import AgentHeartbeats
from kubeballoon.controller.cluster_state import MIGRATIONS_AT_ONCE, ClusterState
from kubeballoon.controller.kopf_handlers import Handlers
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.metric_gauges import ControllerGauges
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.scheduler import Scheduler
from kubeballoon.controller.standby_check import StandbyCheck
from kubeballoon.controller.wait_times import DEFAULT_TIMING

_log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 1.0  # for the tasks to end after they were cancelled
_HAND_BACK_SECONDS = 5.0  # for handing the Lease back: if that fails, the next leader waits until it expires


@dataclass(frozen=True, slots=True)
class EnabledRemedies:
    """EnabledRemedies says what the installation allows beyond balloons: to taint nodes, and to migrate VMs.

    Attributes:
        migrations_at_once: how many migrations may be under way in the cluster when one is begun.
    """

    taints: bool = False
    migrations: bool = False
    migrations_at_once: int = MIGRATIONS_AT_ONCE


@dataclass(frozen=True, slots=True)
class _Term:
    """A _Term is what a replica knows and does while it leads once; what it knew is of no use to its next term."""

    state: ClusterState
    rounds: RoundRunner
    scheduler: Scheduler
    heartbeats: AgentHeartbeats | None
    gauges: ControllerGauges


class Replica:
    """A Replica is one of several controllers, of which the one that holds the Lease decides."""

    def __init__(
        self,
        cluster: ApiClient,
        candidacy: LeaseThread,
        cool_down: float,
        registry: CollectorRegistry,
        enabled: EnabledRemedies = EnabledRemedies(),
        *,
        heartbeats: bool = True,
    ) -> None:
        """Decide for ``cluster`` while ``candidacy`` holds the Lease, and export metrics by ``registry``.

        What goes beyond balloons is done as far as it is ``enabled``. Without ``heartbeats``, agents' Leases are not
        read, and agents are judged by their reports alone.
        """
        self._cluster = cluster
        cluster.bound_writes(candidacy.lease.seconds_left)
        self._candidacy = candidacy
        self._cool_down = cool_down
        self._registry = registry
        self._enabled = enabled
        self._heartbeats = heartbeats
        self._recorder = EventRecorder(cluster, candidacy.lease.identity)
        self._counters = ControllerCounters(registry)
        self._standby_check = StandbyCheck(cluster, DEFAULT_TIMING.standby_check_interval)
        self._leads = False
        self._term = self._new_term()

    def live(self) -> str | None:
        """Say in one line why this process should be restarted; None if it should not."""
        return self._term.scheduler.stalled() if self._leads else None

    def ready(self) -> str | None:
        """Say in one line why this replica is not ready; None if it is."""
        if self._leads:
            heartbeats = self._term.heartbeats
            unheard = None if heartbeats is None else heartbeats.fault()
            return self._candidacy.lease.fault or self._term.scheduler.unready() or unheard
        return self._candidacy.lease.fault or self._standby_check.fault

    async def run(self, stop: asyncio.Event) -> int:
        """Stand by and lead, in turn, until ``stop`` is set; return the exit status: 1 if something ends before."""
        while await self._acquire(stop):
            _log.info("leading as %s", self._candidacy.lease.identity)
            self._leads = True
            try:
                status = await self._lead(stop)
            finally:
                self._leads = False
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HAND_BACK_SECONDS):
                        await self._candidacy.hand_back()
            if status is not None:
                return status
            self._registry.unregister(self._term.gauges)
            self._term = self._new_term()
        return 0

    def _new_term(self) -> _Term:
        state = ClusterState(
            self._cool_down,
            taints_enabled=self._enabled.taints,
            migrations_enabled=self._enabled.migrations,
            migrations_at_once=self._enabled.migrations_at_once,
        )
        lease = self._candidacy.lease
        rounds = RoundRunner(self._cluster, state, self._recorder, self._counters, may_write=lambda: lease.held)
        scheduler = Scheduler(self._cluster, state, self._recorder, rounds, self._counters)
        heartbeats = (
            AgentHeartbeats(self._cluster, lease.namespace, state, scheduler.enqueue) if self._heartbeats else None
        )
        gauges = ControllerGauges(state, rounds, lambda: self._leads)
        self._registry.register(gauges)
        return _Term(state, rounds, scheduler, heartbeats, gauges)

    async def _acquire(self, stop: asyncio.Event) -> bool:
        """Stand by until this replica holds the Lease, or ``stop`` is set; whether it holds the Lease."""
        checking = asyncio.create_task(self._standby_check.run(), name="standby check")
        try:
            return await _ends_before(asyncio.create_task(self._candidacy.acquire(), name="acquire"), stop)
        finally:
            checking.cancel()  # a leader reads all objects itself

    async def _lead(self, stop: asyncio.Event) -> int | None:
        """Run scheduler, Lease and kopf until ``stop`` is set or another replica leads.

        Returns:
            The exit status: 0 after ``stop``, 1 if something else ended; None if the lead was lost.
        """
        end = asyncio.Event()
        lease = asyncio.create_task(self._candidacy.keep(), name="lease")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        scheduler = asyncio.create_task(_decide(self._term), name="scheduler")
        registry = Handlers(self._term.state, self._term.scheduler).registry()
        watching = asyncio.create_task(_run_kopf(registry, end, stop, self._candidacy.lease.identity), name="kopf")
        tasks: set[asyncio.Task[Any]] = {lease, stopping, scheduler}
        if self._term.heartbeats is not None:
            tasks.add(asyncio.create_task(self._term.heartbeats.run(), name="heartbeats"))
        first, _ = await asyncio.wait({*tasks, watching}, return_when=asyncio.FIRST_COMPLETED)
        requested = stop.is_set()
        await _end(tasks, watching, end)
        if not requested and first == {lease} and lease.exception() is None:
            _log.error("leadership was lost")
            # If kopf has not ended, it may yet cancel whatever begins now: it takes all later tasks for its own.
            return None if watching.done() else 1
        for task in {*tasks, watching}:
            if task.done() and not task.cancelled():
                unexpected = task in first and not requested
                if unexpected or task.exception() is not None:
                    _log_exit(task)
        return 0 if requested else 1


async def _decide(term: _Term) -> None:
    """Run rounds once it is known which agents are alive: a round would else find most of them silent."""
    if term.heartbeats is not None:
        await term.heartbeats.known()
    await term.scheduler.run()


async def _end(tasks: set[asyncio.Task[Any]], watching: asyncio.Task[None], end: asyncio.Event) -> None:
    """End all tasks, kopf's by ``end``."""
    end.set()
    for task in tasks:
        task.cancel()
    await asyncio.wait({*tasks, watching}, timeout=_SHUTDOWN_SECONDS)
    if not watching.done():
        # kopf waits for every task that was started after it, such as a connection that a probe keeps open.
        watching.cancel()
        await asyncio.wait({watching}, timeout=_SHUTDOWN_SECONDS)


async def _run_kopf(registry: kopf.OperatorRegistry, end: asyncio.Event, stop: asyncio.Event, identity: str) -> None:
    """Run kopf until ``end`` is set; signals set ``stop``.

    kopf is told its ``identity``, for it would else ask for the name of the user that it runs as: the image's has none.
    """
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry, standalone=True, clusterwide=True, stop_flag=end, identity=cast("Any", identity)
    )  # kopf does not export the type of an identity, which is a str
    stop_on_signals(stop)  # kopf has set handlers of its own, with which it takes seconds longer to stop
    await kopf.run_tasks(tasks, ignored=others)


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set ``stop`` when this process is told to end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _log_exit(task: asyncio.Task[Any]) -> None:
    """Log why the controller ends although no signal stopped it."""
    error = task.exception()
    if task.get_name() == "kopf":
        _log.error("watching ended: %s", error or "for an unknown reason", exc_info=_log.isEnabledFor(logging.DEBUG))
    else:
        _log.error("%s ended: %s", task.get_name(), error, exc_info=error)


async def _ends_before(task: asyncio.Task[None], stop: asyncio.Event) -> bool:
    """Wait until a task ends or ``stop`` is set, and say whether the task ended; otherwise it is cancelled."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
        return False
    await task
    return True
