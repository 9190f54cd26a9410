"""A replica of the controller and a small fleet, on a fake API server."""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from hack.testbed.fake_api_server import NAMESPACE, FakeApiServer, FakeVMI, Write, refuse
from hack.testbed.fleet import Fleet, policy, serve_fleet
from kubeballoon.api.names import CONTROLLER_LEASE, MEMORY_MIN, MEMORY_TARGET
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, Timeouts
from kubeballoon.cluster.heartbeat import lease_name
from kubeballoon.cluster.lease import Lease
from kubeballoon.cluster.lease_thread import LeaseThread
from kubeballoon.controller.replica import Replica
from kubeballoon.metrics import new_registry
from tests.support.cluster import Object
from tests.support.processes import Command
from tests.support.proxy import Proxy
from tests.support.waiting import soon

SECONDS = 150.0  # as long as a process may take to start on a machine that is busy


class Cluster:
    """A fleet of ten nodes with three VMs each, and replicas of the controller.

    Attributes:
        faults: a line for each write by which a node's targets came to exceed its capacity although the VM had its
            minimum, or by which a VM's target fell below its minimum.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.server = FakeApiServer(written=self._follow)
        self.fleet = fleet
        self.kubeconfig = Path()
        self.faults: list[str] = []

    def _follow(self, write: Write) -> None:
        """Let a VM follow a request, and check what must hold after each."""
        node = self.fleet.home(write.vmi)
        before = self.fleet.granted(node)
        self.fleet.follow(write)
        after, annotations = self.fleet.granted(node), self.server.vmis[write.vmi].annotations
        if MEMORY_TARGET not in annotations:
            return  # nothing is requested any more: the VM has all of its memory, whatever its node has
        target, minimum = (parse_quantity(annotations[each]) for each in (MEMORY_TARGET, MEMORY_MIN))
        if after > max(before, self.capacity(node)) and target > minimum:
            self.faults.append(f"{node}: {after} bytes are granted of {self.capacity(node)}")
        if target < minimum:
            self.faults.append(f"{write.vmi}: {annotations} is less than the minimum")

    @asynccontextmanager
    async def replica(
        self, identity: str, timeouts: Timeouts | None = None, *, heartbeats: bool = True
    ) -> AsyncIterator[Replica]:
        """Run a replica inside the context."""

        async def connect() -> ApiClient:
            client = await ApiClient.connect("test", self.kubeconfig)
            if timeouts is not None:
                client._timeouts = timeouts  # noqa: SLF001 - commands have no option for it
            return client

        stop = asyncio.Event()
        async with (
            await connect() as cluster,
            LeaseThread(connect, lambda own: Lease(own, NAMESPACE, CONTROLLER_LEASE, identity)) as candidacy,
        ):
            replica = Replica(cluster, candidacy, 1.0, new_registry("controller"), heartbeats=heartbeats)
            running = asyncio.create_task(replica.run(stop))
            try:
                yield replica
            finally:
                stop.set()
                assert await running == 0

    @asynccontextmanager
    async def other(self, identity: str) -> AsyncIterator[Lease]:
        """Be somebody else who may take the Lease."""
        async with await ApiClient.connect("test", self.kubeconfig) as cluster:
            yield Lease(cluster, NAMESPACE, CONTROLLER_LEASE, identity)

    def beat(self, node: str) -> None:
        """Have a node's agent say that its last report holds."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.server.put(paths.leases(NAMESPACE), {"metadata": {"name": lease_name(node)}, "spec": {"renewTime": now}})

    def dead(self) -> Object:
        """Make an old report of a node whose agent no longer says that it holds, with a VM named "unheard"."""
        body = copy.deepcopy(next(iter(self.fleet.bodies.values())))
        body["metadata"] = {"name": "dead"}
        body["status"]["virtualMachines"] = body["status"]["virtualMachines"][:1]
        vm = body["status"]["virtualMachines"][0]
        vm |= {"name": "unheard", "uid": "unheard"}
        self.server.vmis[vm["namespace"], "unheard"] = FakeVMI("unheard", "dead")
        return body

    def requested(self) -> int:
        """Count the VMs that have a request."""
        return sum(MEMORY_TARGET in vmi.annotations for vmi in self.server.vmis.values())

    def set_headroom(self, headroom: str, generation: int) -> None:
        """Change the policy."""
        body = policy("all", None, headroom=headroom)
        body["metadata"]["generation"] = generation
        self.server.put(paths.MEMORY_POLICIES, body)

    def capacity(self, node: str) -> int:
        """What a node's guests may use together, bytes."""
        status = self.fleet.bodies[node]["status"]
        memory = {key: int(value) for key, value in status["memory"].items()}
        overhead = sum(int(vm["overhead"]) for vm in status["virtualMachines"])
        return memory["total"] - memory["other"] - memory["reserve"] - overhead

    def holds_what_must_hold(self) -> bool:
        """Whether on every node what VMs may use fits, and no VM is below its guaranteed minimum."""
        if any(self.fleet.granted(name) > self.capacity(name) for name in self.fleet.bodies):
            return False
        annotations = [vmi.annotations for vmi in self.server.vmis.values() if MEMORY_TARGET in vmi.annotations]
        return all(parse_quantity(each[MEMORY_TARGET]) >= parse_quantity(each[MEMORY_MIN]) for each in annotations)


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    cluster = Cluster(Fleet(nodes=10, vms=3, pooled=5, namespaces=3))
    async with cluster.server as server:
        serve_fleet(server, cluster.fleet)
        server.put(paths.MEMORY_POLICIES, policy("all", None))
        cluster.kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))  # kopf reads it from nowhere else
        yield cluster
    assert not cluster.faults


async def test_a_replica_lists_the_nodes_once_and_requests_what_fits(cluster: Cluster) -> None:
    async with cluster.replica("first") as replica:
        await soon(lambda: cluster.requested() == 30, SECONDS)
        await soon(cluster.holds_what_must_hold, SECONDS)
        await soon(lambda: replica.ready() is None, SECONDS)
        assert replica.live() is None
    assert cluster.server.requests[f"LIST {paths.NODE_PRESSURES}"] == 1
    assert cluster.server.requests[f"WATCH {paths.NODE_PRESSURES}"] == 1
    assert len({write.vmi for write in cluster.server.writes}) == 30


async def test_without_heartbeats_no_lease_of_an_agent_is_read_and_reports_alone_count(cluster: Cluster) -> None:
    old = cluster.dead()
    old["status"]["observedAt"] = "2026-01-01T00:00:00Z"
    cluster.server.put(paths.NODE_PRESSURES, old)
    cluster.beat("dead")
    async with cluster.replica("first", heartbeats=False) as replica:
        await soon(lambda: cluster.requested() == 30, SECONDS)
        await soon(lambda: replica.ready() is None, SECONDS)
        assert replica.live() is None
    assert f"LIST {paths.leases(NAMESPACE)}" not in cluster.server.requests
    assert not any(vmi.annotations for key, vmi in cluster.server.vmis.items() if key[1] == "unheard")


async def test_a_replica_that_loses_the_lead_says_so_stands_by_and_leads_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    options = (f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}")
    with Command(tmp_path / "log", "controller", *options) as replica:
        async with cluster.other("other") as other:
            await soon(lambda: cluster.requested() == 30, SECONDS)
            await other.seize(3600.0)
            await soon(lambda: "leadership was lost" in replica.output(), SECONDS)
            await soon(lambda: "standing by" in replica.output(), SECONDS)
            written = len(cluster.server.writes)
            cluster.set_headroom("60%", 2)
            await other.seize(3600.0)
            assert len(cluster.server.writes) == written
            await other.hand_back()
            await soon(lambda: len(cluster.server.writes) > written, SECONDS)
            assert replica.output().count("leading as") == 2
            await soon(cluster.holds_what_must_hold, SECONDS)
        await asyncio.to_thread(replica.stop)
        assert "Traceback" not in replica.output()


async def test_decisions_go_on_after_an_outage_of_the_api_server_without_a_new_start(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with cluster.replica("first") as replica:
        await soon(lambda: cluster.requested() == 30, SECONDS)
        async with cluster.server.outage():
            written = len(cluster.server.writes)
            cluster.set_headroom("60%", 2)
            await soon(lambda: replica.ready() is not None, SECONDS)
        await soon(lambda: len(cluster.server.writes) > written, SECONDS)
        await soon(lambda: replica.ready() is None, SECONDS)
        await soon(cluster.holds_what_must_hold, SECONDS)
    assert caplog.text.count("leading as first") == 1


async def test_old_reports_that_leases_confirm_are_decided_upon_from_the_first_round_of_each_term(
    cluster: Cluster, tmp_path: Path
) -> None:
    for name, body in cluster.fleet.bodies.items():
        body["status"]["observedAt"] = "2026-01-01T00:00:00Z"
        cluster.server.put(paths.NODE_PRESSURES, body)
        cluster.beat(name)
    cluster.server.put(paths.NODE_PRESSURES, cluster.dead())
    options = (f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}")
    with Command(tmp_path / "log", "controller", *options) as replica:
        async with cluster.other("other") as other:
            await soon(lambda: cluster.requested() == 30, SECONDS)
            await other.seize(3600.0)
            await soon(lambda: "standing by" in replica.output(), SECONDS)
            for name in cluster.fleet.bodies:
                cluster.fleet.bodies[name]["status"]["observedAt"] = "2026-01-01T00:00:00Z"
                cluster.server.put(paths.NODE_PRESSURES, cluster.fleet.bodies[name])
                cluster.beat(name)
            written = len(cluster.server.writes)
            cluster.set_headroom("60%", 2)
            await other.hand_back()
            await soon(lambda: len({write.vmi for write in cluster.server.writes[written:]}) > 3, SECONDS)
            await soon(cluster.holds_what_must_hold, SECONDS)
        await asyncio.to_thread(replica.stop)
    assert not any(vmi.annotations for key, vmi in cluster.server.vmis.items() if key[1] == "unheard"), "nobody spoke"


async def test_nodes_and_vms_that_vanish_together_leave_nothing_behind(cluster: Cluster) -> None:
    async with cluster.replica("first") as replica:
        await soon(lambda: cluster.requested() == 30 and cluster.fleet.settled, SECONDS)
        names = list(cluster.fleet.bodies)
        cluster.server.vmis.clear()
        for name in names[:5]:
            cluster.server.delete(paths.NODE_PRESSURES, name)
        for name in names[5:]:
            cluster.fleet.bodies[name]["status"]["virtualMachines"] = []
            cluster.fleet.report(name)
        results = replica._term.rounds.results  # noqa: SLF001 - what it keeps

        def decided() -> int:
            return sum(len(plan.decisions) for result in results.values() for plan in result.plans.values())

        await soon(lambda: set(results) == set(names[5:]) and not decided(), SECONDS)


async def test_all_namespaces_relabelled_move_their_vms_to_another_policy(cluster: Cluster) -> None:
    body = policy("staging", None, min="70%")
    body["spec"]["selector"] = {"namespaceSelector": {"matchLabels": {"env": "staging"}}}
    body["spec"]["priority"] = 1
    cluster.server.put(paths.MEMORY_POLICIES, body)
    async with cluster.replica("first"):
        await soon(lambda: cluster.requested() == 30, SECONDS)
        for name in cluster.fleet.namespace_names():
            cluster.server.put(paths.NAMESPACES, {"metadata": {"name": name, "labels": {"env": "staging"}}})

        def policies() -> set[str | None]:
            return {vmi.annotations.get("kubeballoon.io/policy") for vmi in cluster.server.vmis.values()}

        await soon(lambda: policies() == {"staging"}, SECONDS)
        await soon(lambda: any(name == "staging" for _, name, _ in cluster.server.statuses), SECONDS)


async def test_requests_that_fail_and_watches_that_are_cut_delay_decisions_and_nothing_else(cluster: Cluster) -> None:
    requests = itertools.count(1)

    def fault(_: web.Request) -> web.Response | None:
        number = next(requests)
        if number % 7 == 0:
            return refuse(500, "etcdserver: leader changed")
        return refuse(429, "too many requests", **{"Retry-After": "1"}) if number % 11 == 0 else None

    async def cut() -> None:
        while True:
            await asyncio.sleep(0.5)
            cluster.server.cut_watches()

    async with cluster.replica("first") as replica:
        await soon(lambda: cluster.requested() == 30, SECONDS)
        cluster.server.fault = fault
        cutting = asyncio.create_task(cut())
        for generation, headroom in enumerate(("60%", "5%", "40%"), start=2):
            written = len(cluster.server.writes)
            cluster.set_headroom(headroom, generation)
            await soon(lambda before=written: len(cluster.server.writes) > before, SECONDS)  # type: ignore[misc]
            await soon(cluster.holds_what_must_hold, SECONDS)
        cutting.cancel()
        cluster.server.fault = lambda _: None
        await soon(lambda: replica.ready() is None, SECONDS)
        cluster.server.delete(paths.MEMORY_POLICIES, "all")
        await soon(lambda: not cluster.requested(), SECONDS)


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(hours=1)], ids=["back", "ahead"])
async def test_nodes_whose_clocks_step_by_an_hour_are_decided_for_all_the_same(
    cluster: Cluster, step: timedelta
) -> None:
    async with cluster.replica("first"):
        await soon(lambda: cluster.requested() == 30 and cluster.fleet.settled, SECONDS)
        for name, body in cluster.fleet.bodies.items():
            body["status"]["observedAt"] = (datetime.now(UTC) + step).strftime("%Y-%m-%dT%H:%M:%SZ")
            cluster.server.put(paths.NODE_PRESSURES, cluster.fleet.bodies[name])
        written = len(cluster.server.writes)
        cluster.set_headroom("60%", 2)
        await soon(lambda: len({cluster.fleet.home(each.vmi) for each in cluster.server.writes[written:]}) > 5, SECONDS)
        await soon(cluster.holds_what_must_hold, SECONDS)


async def test_agents_of_a_newer_version_are_decided_for_beside_older_ones(cluster: Cluster) -> None:
    for name in list(cluster.fleet.bodies)[:5]:
        status = cluster.fleet.bodies[name]["status"]
        status |= {"agentVersion": "9.0.0", "weather": {"sunny": True}}
        status["virtualMachines"][0] |= {"swapAbility": "Sometimes", "mood": "good"}
        cluster.server.put(paths.NODE_PRESSURES, cluster.fleet.bodies[name])
    async with cluster.replica("first"):
        await soon(lambda: cluster.requested() == 30, SECONDS)
        await soon(cluster.holds_what_must_hold, SECONDS)


async def test_half_a_second_on_the_way_to_the_api_server_delays_decisions_and_nothing_else(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Proxy(cluster.kubeconfig) as proxy:
        proxy.delay = 0.5
        async with cluster.replica("first") as replica:
            await soon(lambda: cluster.requested() == 30, SECONDS)
            written = len(cluster.server.writes)
            cluster.set_headroom("60%", 2)
            await soon(lambda: len(cluster.server.writes) > written, SECONDS)
            await soon(cluster.holds_what_must_hold, SECONDS)
            await soon(lambda: replica.ready() is None, SECONDS)
    assert caplog.text.count("leading as first") == 1


async def test_a_node_in_need_is_decided_for_although_all_connections_have_died_silently(cluster: Cluster) -> None:
    async with (
        Proxy(cluster.kubeconfig) as proxy,
        cluster.replica("first", Timeouts(request=10.0, watch_silence=5.0)) as replica,
    ):
        await soon(lambda: cluster.requested() == 30 and cluster.fleet.settled, SECONDS)
        proxy.freeze()
        written, (node, *_) = len(cluster.server.writes), cluster.fleet.bodies

        def helped() -> bool:
            return any(cluster.fleet.home(write.vmi) == node for write in cluster.server.writes[written:])

        cluster.fleet.run_short(node)
        await soon(helped, SECONDS)
        await soon(cluster.holds_what_must_hold, SECONDS)
        await soon(lambda: replica.ready() is None, SECONDS)


async def test_a_write_that_hangs_is_broken_off_before_another_replica_may_lead(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster.replica("first"):
        await soon(lambda: cluster.requested() == 30 and cluster.fleet.settled, SECONDS)
        cluster.server.latency = SECONDS
        cluster.server.fault = lambda request: refuse(500, "away") if "/leases" in request.path else None
        cluster.set_headroom("60%", 2)
        await soon(lambda: "was broken off: another replica may lead now" in caplog.text, SECONDS)
        cluster.server.latency, cluster.server.fault = 0.0, lambda _: None
        await soon(cluster.holds_what_must_hold, SECONDS)
