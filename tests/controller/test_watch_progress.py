"""A controller knows whether kopf delivers what the API server has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from kubeballoon.cluster import paths
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.scheduler import Scheduler
from kubeballoon.controller.wait_times import DEFAULT_TIMING
from kubeballoon.controller.watch_progress import WatchProgress
from kubeballoon.metrics import new_registry
from tests.support.cluster import Object
from tests.support.waiting import Clock, soon

PATIENCE = 30.0


def at(version: int, uid: str = "u") -> dict[str, str]:
    """The metadata of an object in one of its versions."""
    return {"uid": uid, "resourceVersion": str(version)}


def watches(clock: Clock) -> WatchProgress:
    return WatchProgress(PATIENCE, clock)


def test_nothing_is_in_step_until_every_object_has_been_delivered() -> None:
    progress = watches(Clock())
    progress.compare(paths.NAMESPACES, [at(1, "a"), at(2, "b")], progress.deliveries, first=True)
    progress.compare(paths.NODE_PRESSURES, [at(3, "n")], progress.deliveries, first=True)
    assert progress.fault() == ("watches are not in step: 2 namespaces, 1 nodepressures have not been delivered yet")
    progress.record(paths.NAMESPACES, None, at(1, "a"))
    progress.record(paths.NODE_PRESSURES, None, at(3, "n"))
    assert progress.fault() == "watches are not in step: 1 namespaces have not been delivered yet"
    progress.record(paths.NAMESPACES, "DELETED", at(4, "b"))
    assert progress.fault() is None


def test_what_kopf_delivered_before_it_was_listed_is_in_step() -> None:
    progress = watches(Clock())
    progress.record(paths.NAMESPACES, None, at(1))
    progress.compare(paths.NAMESPACES, [at(1)], progress.deliveries, first=True)
    assert progress.fault() is None


def test_a_change_that_is_not_delivered_in_time_is_a_fault_until_any_newer_one_is() -> None:
    clock = Clock()
    progress = watches(clock)
    progress.record(paths.MEMORY_POLICIES, None, at(1))
    progress.compare(paths.MEMORY_POLICIES, [at(2)], progress.deliveries)
    assert progress.fault() is None, "it may be on its way"
    clock.now += PATIENCE / 2
    progress.compare(paths.MEMORY_POLICIES, [at(3)], progress.deliveries)
    clock.now += PATIENCE / 2
    assert progress.fault() == "watches are not in step: 1 memorypolicies have not been delivered yet"
    progress.record(paths.MEMORY_POLICIES, "MODIFIED", at(4))
    assert progress.fault() is None


def test_an_object_that_was_delivered_while_it_was_listed_may_be_newer_than_the_list() -> None:
    clock = Clock()
    progress = watches(clock)
    before = progress.deliveries
    progress.record(paths.NODE_PRESSURES, "MODIFIED", at(3))
    progress.compare(paths.NODE_PRESSURES, [at(2)], before)
    clock.now += PATIENCE
    assert progress.fault() is None


def test_an_object_that_is_gone_when_the_next_list_is_read_is_missed_no_more() -> None:
    clock = Clock()
    progress = watches(clock)
    progress.compare(paths.NAMESPACES, [at(1)], progress.deliveries)
    clock.now += PATIENCE
    assert progress.fault() is not None
    progress.compare(paths.NAMESPACES, [], progress.deliveries)
    assert progress.fault() is None


def test_an_object_that_comes_back_in_an_older_version_has_to_be_delivered_again() -> None:
    """As after a backup of the API server was restored."""
    clock = Clock()
    progress = watches(clock)
    progress.record(paths.NAMESPACES, None, at(5))
    progress.compare(paths.NAMESPACES, [], progress.deliveries)
    progress.compare(paths.NAMESPACES, [at(5)], progress.deliveries)
    clock.now += PATIENCE
    assert progress.fault() is not None


class OneNamespace:
    """A fake cluster with one namespace, in the version that a test says; None: it is deleted."""

    version: int | None = 1

    async def pages(self, path: str, *_: object, **__: object) -> AsyncIterator[Object]:
        """List the namespace, and nothing else."""
        items = [{"metadata": each} for each in await self.metadata(path)]
        yield {"items": items, "metadata": {"resourceVersion": "1"}}

    @asynccontextmanager
    async def watch(self, path: str, idle: float, **_: str) -> AsyncIterator[AsyncIterator[Object]]:
        """Watch for what never comes."""
        assert path
        await asyncio.sleep(idle)
        yield self.pages(path)

    async def metadata(self, path: str) -> list[Object]:
        """List the namespace's metadata, and nothing else."""
        await asyncio.sleep(0)
        exists = path == paths.NAMESPACES and self.version is not None
        return [{"name": "shop", **at(self.version or 0)}] if exists else []


async def test_a_leader_is_ready_while_every_change_that_it_lists_is_delivered() -> None:
    cluster, counters, state = OneNamespace(), ControllerCounters(new_registry("controller")), ClusterState()
    fake: Any = cluster
    often = replace(DEFAULT_TIMING, resync=0.01, audit_interval=0.0, delivery=0.0)
    scheduler = Scheduler(fake, state, fake, RoundRunner(fake, state, fake, counters), counters, timing=often)
    assert scheduler.unready() == "not all policies and nodes are read yet"
    running = asyncio.create_task(scheduler.run())
    behind = "watches are not in step: 1 namespaces have not been delivered yet"
    await soon(lambda: scheduler.unready() == behind, 10)
    scheduler.watches.record(paths.NAMESPACES, None, at(1))
    assert scheduler.unready() is None
    cluster.version = 2
    await soon(lambda: scheduler.unready() == behind, 10)
    assert scheduler.stalled() is None
    scheduler.watches.record(paths.NAMESPACES, "MODIFIED", at(2))
    assert scheduler.unready() is None
    running.cancel()


async def test_a_namespace_that_is_deleted_while_a_leader_begins_does_not_keep_it_from_being_ready() -> None:
    cluster, counters, state = OneNamespace(), ControllerCounters(new_registry("controller")), ClusterState()
    fake: Any = cluster
    soon_after = replace(DEFAULT_TIMING, load_retry=0.0)
    scheduler = Scheduler(fake, state, fake, RoundRunner(fake, state, fake, counters), counters, timing=soon_after)
    running = asyncio.create_task(scheduler.run())
    await soon(lambda: "1 namespaces" in (scheduler.unready() or ""), 10)
    cluster.version = None
    await soon(lambda: scheduler.unready() is None, 10)
    running.cancel()
