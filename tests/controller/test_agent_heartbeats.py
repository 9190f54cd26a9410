"""When an agent counts as alive: by its reports, and by the Lease by which it says that its last report holds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ConflictError
from kubeballoon.cluster.heartbeat import lease_name
from kubeballoon.controller.agent_heartbeats import AgentHeartbeats
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.governance.report_bounds import SILENT_AFTER
from tests.controller.test_rounds import report
from tests.support.cluster import Object
from tests.support.waiting import Clock, soon

TODAY = datetime(2026, 6, 1, tzinfo=UTC)
until = partial(soon, seconds=10.0)
OLD = TODAY - timedelta(hours=5)


def lease(node: str, moment: datetime, version: int = 1) -> Object:
    metadata = {"name": lease_name(node), "uid": f"lease of {node}", "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"renewTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}


class FakeCluster:
    """An API server with Leases of agents, and the names of NodePressures."""

    def __init__(self, leases: list[Object], nodes: set[str]) -> None:
        self.leases = leases
        self.nodes = nodes
        self.events: asyncio.Queue[Object] = asyncio.Queue()
        self.deleted: list[str] = []
        self.moved = False

    async def pages(self, path: str, query: Mapping[str, str], **_: object) -> AsyncIterator[Object]:
        """List the Leases in one page."""
        assert path == paths.leases("own")
        assert "labelSelector" in query
        yield {"metadata": {"resourceVersion": "1"}, "items": self.leases}

    async def names(self, path: str) -> set[str]:
        """List the names of NodePressures."""
        assert path == paths.NODE_PRESSURES
        return self.nodes

    async def delete(self, path: str, uid: str, version: str) -> None:
        """Delete a Lease, unless it has changed."""
        assert (uid.split(maxsplit=1)[0], version) == ("lease", "1")
        if self.moved:
            raise ConflictError("it has changed")
        self.deleted.append(path.rpartition("/")[2])

    @asynccontextmanager
    async def watch(self, *_: object, **__: str) -> AsyncIterator[AsyncIterator[Object]]:
        """Yield what the test has happen."""

        async def events() -> AsyncIterator[Object]:
            while True:
                yield await self.events.get()

        yield events()


class Scene:
    """A controller that knows the node n by a report of OLD."""

    def __init__(self, *leases: Object, nodes: frozenset[str] = frozenset({"n"})) -> None:
        self.clock = Clock()
        self.state = ClusterState(utc_now=lambda: TODAY)
        self.state.put_node(report(OLD), self.clock())
        self.cluster = FakeCluster(list(leases), set(nodes))
        cluster: Any = self.cluster
        self.enqueued: list[str] = []
        self.heartbeats = AgentHeartbeats(cluster, "own", self.state, self.enqueued.append, self.clock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the Leases inside the context."""
        task = asyncio.create_task(self.heartbeats.run())
        await self.heartbeats.known()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def silent(self) -> bool:
        """Whether the agent of n is silent."""
        return self.state.seconds_since_heard("n", self.clock()) > SILENT_AFTER


async def test_of_a_lease_only_a_little_is_kept_whatever_its_agent_writes_into_it() -> None:
    long, never = lease("n", TODAY), lease("m", TODAY)
    long["metadata"]["labels"] = {f"label-{number}": "x" * 63 for number in range(1000)}
    long["spec"]["holderIdentity"] = "x" * (1 << 20)
    never["spec"] = None
    scene = Scene(long, never, nodes=frozenset({"m"}))
    async with scene.running():
        assert not scene.silent()
        kept = list(scene.heartbeats._leases.objects())  # noqa: SLF001 - what it costs shows nowhere else
        assert len(json.dumps(kept)) < 1000
        await scene.heartbeats.prune()


async def test_an_old_report_holds_while_its_agent_says_so() -> None:
    scene = Scene(lease("n", TODAY))
    assert scene.silent()
    async with scene.running():
        assert not scene.silent()
        assert scene.heartbeats.fault() is None
        scene.clock.now += SILENT_AFTER + 1
        assert scene.silent()


@pytest.mark.parametrize("wrong", [timedelta(hours=-3), timedelta(hours=3)], ids=str)
async def test_a_heartbeat_counts_by_the_controller_s_clock_and_brings_a_round(wrong: timedelta) -> None:
    scene = Scene(lease("n", OLD))
    async with scene.running():
        assert scene.silent()
        scene.cluster.events.put_nowait({"type": "MODIFIED", "object": lease("n", TODAY + wrong, 2)})
        await until(lambda: not scene.silent())
        assert scene.enqueued == ["n"]


async def test_a_lease_that_is_read_again_or_is_dated_in_the_future_is_no_heartbeat() -> None:
    scene = Scene(lease("n", TODAY + timedelta(days=1)))
    async with scene.running():
        scene.clock.now += SILENT_AFTER + 1
        scene.cluster.events.put_nowait({"type": "MODIFIED", "object": lease("n", TODAY + timedelta(days=1), 2)})
        await until(scene.cluster.events.empty)
        assert scene.silent()


@pytest.mark.parametrize("text", ["", "yesterday", None])
async def test_a_lease_that_cannot_be_read_harms_nobody(text: str | None) -> None:
    broken = lease("n", TODAY)
    broken["spec"]["renewTime"] = text
    scene = Scene(broken, {"metadata": {"name": "other", "uid": "o", "resourceVersion": "1"}, "spec": None})
    async with scene.running():
        assert scene.silent()


async def test_a_target_s_age_counts_until_its_report_last_held() -> None:
    scene = Scene(lease("n", OLD + timedelta(minutes=9)))
    pressure = report(OLD, target="400Mi", targetSince=(OLD - timedelta(minutes=5)).isoformat())
    pressure["status"]["leaseNamespace"] = "own"
    scene.state.put_node(pressure, scene.clock())

    def age() -> float | None:
        status = scene.state.nodes["n"].status
        assert status is not None
        (vm,) = scene.state.snapshot("n", status, scene.clock()).vms
        return None if vm.last_change is None else vm.last_change.age

    assert age() == timedelta(minutes=5).total_seconds()
    async with scene.running():
        assert age() == timedelta(minutes=14).total_seconds()


async def test_the_lease_of_a_node_without_a_report_is_deleted() -> None:
    scene = Scene(
        lease("n", TODAY), lease("gone", TODAY), lease("unreadable", TODAY), nodes=frozenset({"n", "unreadable"})
    )
    async with scene.running():
        await scene.heartbeats.prune()
        assert scene.cluster.deleted == [lease_name("gone")]
        scene.cluster.moved = True
        await scene.heartbeats.prune()
