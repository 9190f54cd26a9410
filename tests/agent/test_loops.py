"""The agent's loops, with an API server and guests that are fakes, on a node where nothing moves by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.lab import MIB, GuestSpec, vmi_object
from hack.testbed.lab.fakes import FakeChannel, FakeDomain, FakeHypervisor
from kubeballoon.agent import agent
from kubeballoon.agent.agent import Agent, NodeLimits
from kubeballoon.agent.hypervisor.launchers import Launcher
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.node.processors import HostProcessorReader
from kubeballoon.agent.vm import guest_worker, memory_worker
from kubeballoon.agent.vm.guest_program import DIRECTORY
from kubeballoon.agent.vm.memory_worker import WorkerSettings
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ForbiddenError, NotFoundError, UnreachableError
from tests.support.cluster import Object, memory_policy
from tests.support.waiting import soon

until = partial(soon, seconds=10.0)

SIZE = 1024 * MIB
LONG_AGO = "2020-01-01T00:00:00Z"


@dataclass
class FakeCluster:
    """An API server with what an agent reads; ``away`` it takes no report.

    Attributes:
        collections: objects by path, None where they may not be read.
        reports: every status that was written, in order.
        refused: how many were not taken.
    """

    collections: dict[str, list[Object] | None]
    pressure: Object | None = None
    away: bool = False
    reports: list[Object] = field(default_factory=list)
    refused: int = 0
    events: dict[str, asyncio.Queue[Object]] = field(default_factory=dict)

    async def get(self, path: str, **_: str) -> Object:
        """Read one, or list them."""
        if path == paths.node_pressure("here"):
            if self.pressure is None:
                raise NotFoundError("there is none")
            return self.pressure
        if path == paths.node("here"):
            return {"metadata": {"uid": "node"}}
        items = self.collections[path]
        if items is None:
            raise ForbiddenError(f"{path} may not be read")
        return {"metadata": {"resourceVersion": "1"}, "items": items}

    async def apply(self, path: str, body: Object) -> Object:
        """Take a report, or not."""
        if self.away:
            self.refused += 1
            raise UnreachableError("the fake is away")
        if path == paths.node_pressure_status("here"):
            self.reports.append(body["status"])
        return body

    @asynccontextmanager
    async def watch(self, path: str, *_: object, **__: str) -> AsyncIterator[AsyncIterator[Object]]:
        """Everything that the test has happen."""
        queue = self.events.setdefault(path, asyncio.Queue())

        async def events() -> AsyncIterator[Object]:
            while True:
                yield await queue.get()

        yield events()

    def happen(self, path: str, item: Object) -> None:
        """Have an object change."""
        self.events.setdefault(path, asyncio.Queue()).put_nowait({"type": "MODIFIED", "object": item})

    def vm(self, name: str) -> Object:
        """What was last reported of a VM; empty where nothing was."""
        vms = self.reports[-1].get("virtualMachines", []) if self.reports else []
        return next((vm for vm in vms if vm["name"] == name), {})


@pytest.fixture(autouse=True)
def still(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A node whose figures stay as they are, and looks that follow each other quickly; its /proc."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    (tmp_path / "stat").write_text("cpu 1 0 1 8 0 0 0 0\ncpu0 1 0 1 8 0 0 0 0\n")
    monkeypatch.setattr(guest_worker, "HostProcessorReader", lambda: HostProcessorReader(tmp_path))
    monkeypatch.setattr(guest_worker, "QemuProcess", lambda *_: FakeChannel(held=700 * MIB))
    for name in ("INTERVAL", "SETTLE", "CHECK"):
        monkeypatch.setattr(agent, name, 0.01)
    for name in ("LOOK", "REST", "STEP"):
        monkeypatch.setattr(memory_worker, name, 0.01)
    for module in (memory_worker, guest_worker):
        monkeypatch.setattr(module, "RETRY", (0.02,))
        monkeypatch.setattr(module, "find_launcher", lambda pods, uids: Launcher(uids[0], pods / uids[0]))
    return tmp_path


def vmi(name: str = "vm", **annotations: str) -> Object:
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name=name, memory_bytes=SIZE), f"pod-{name}", "here", annotations=keys)
    made["metadata"] |= {"uid": name, "resourceVersion": "1"}
    return made


def namespace(**labels: str) -> Object:
    return {"metadata": {"name": "default", "uid": "default", "resourceVersion": "1", "labels": labels}}


def cluster(*vms: Object, policies: list[Object] | None = None, namespaces: list[Object] | None = None) -> FakeCluster:
    named = [
        {**policy, "metadata": {**policy["metadata"], "uid": policy["metadata"]["name"]}} for policy in policies or []
    ]
    collections: dict[str, list[Object] | None] = {
        paths.INSTANCES: list(vms),
        paths.MEMORY_POLICIES: list(named),
        paths.NAMESPACES: namespaces,
    }
    return FakeCluster(collections)


@asynccontextmanager
async def running(
    api: FakeCluster, proc: Path, channels: Mapping[str, FakeChannel] | None = None, **domains: FakeDomain
) -> AsyncIterator[Agent]:
    fakes = {f"default_{name}": domain for name, domain in domains.items()}
    given = channels or {}
    channel_of = {f"default_{name}": given.get(name) or FakeChannel() for name in domains}
    hypervisor = FakeHypervisor(fakes, channel_of)
    connection: Any = api
    agent = Agent(
        "here",
        connection,
        hypervisor,
        HostMemoryReader(proc),
        WorkerSettings(Path("/pods"), 60.0, 1),
        NodeLimits(0, 64 * MIB),
    )
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def hostile(**figures: object) -> bytes:
    """What a program in a guest says that is none."""
    return json.dumps({"number": 1, "asked": 0, "held": 0, "available": 5, "spare": 5, **figures}).encode()


@pytest.mark.parametrize(
    "status",
    [
        hostile(held=2 * SIZE),
        hostile(held=-5),
        hostile(available=-1),
        hostile(held=10**30, available=10**30),
        hostile(held=-1e30),
        hostile(number=float("inf")),
        b"[" * 100000,
    ],
    ids=["too much", "negative", "negative left", "absurd", "absurd and negative", "infinite", "deep"],
)
@pytest.mark.parametrize("annotations", [{}, {"memory_method": "GuestAgent"}], ids=["unasked", "asked"])
async def test_whatever_a_guest_says_its_agent_lives_and_its_report_can_be_read(
    still: Path, status: bytes, annotations: dict[str, str]
) -> None:
    api = cluster(vmi("evil", **annotations), vmi("well"))
    evil = FakeChannel(files={f"{DIRECTORY}/status": status})
    domains = {"evil": FakeDomain(balloon=False, reports=False), "well": FakeDomain()}
    async with running(api, still, channels={"evil": evil}, **domains):
        await until(lambda: "guest-file-read" in evil.commands and api.vm("well").get("need"))
        domains["well"].used += 300 * MIB
        await until(lambda: parse_quantity(api.vm("well")["need"]) >= 500 * MIB)
        assert set(domains) == {vm["name"] for vm in api.reports[-1]["virtualMachines"]}
    for report in map(NodePressureStatus.model_validate, api.reports):
        assert all(0 <= (vm.actual or 0) <= SIZE and 0 <= (vm.claimed or 0) <= SIZE for vm in report.virtual_machines)


@pytest.mark.parametrize(("known", "used"), [({"target": 2}, 4), ({}, 2)], ids=["asked", "not asked"])
async def test_processors_come_back_after_a_restart_where_they_were_taken(
    still: Path, known: dict[str, Any], used: int
) -> None:
    wide = vmi()
    wide["spec"]["domain"]["cpu"]["sockets"] = 4
    api, channel = cluster(wide), FakeChannel(online={0: True, 1: True, 2: False, 3: False})
    api.pressure = before(processors={"size": 4, **known})
    async with running(api, still, channels={"vm": channel}, vm=FakeDomain()):
        await until(lambda: api.vm("vm").get("processors", {}).get("online") == used)
    assert sum(channel.online.values()) == used


async def test_a_vm_that_cannot_be_reported_is_told_as_that_and_hides_no_other(still: Path) -> None:
    api, domain = cluster(vmi("evil"), vmi("well")), FakeDomain(actual=-5, follows=False)
    async with running(api, still, evil=domain, well=FakeDomain()):
        await until(lambda: api.vm("evil").get("reason") == "BadReport" and api.vm("well").get("need"))
        assert not api.vm("evil")["responsive"]
        domain.actual = SIZE
        await until(lambda: api.vm("evil").get("need"))


async def test_a_vm_that_cannot_be_read_is_left_alone_and_hides_no_other(still: Path) -> None:
    strange = vmi("strange")
    strange["spec"]["domain"]["memory"] = {"guest": "much"}
    thousandths = vmi("thousandths")
    thousandths["spec"]["domain"]["memory"] = {"guest": f"{SIZE * 1000 - 1}m"}
    api = cluster(strange, thousandths)
    async with running(api, still, strange=FakeDomain(), thousandths=FakeDomain()):
        await until(lambda: api.vm("thousandths").get("need"))
    assert [vm["name"] for vm in api.reports[-1]["virtualMachines"]] == ["thousandths"]


async def test_absurd_requests_are_reported_as_what_they_come_to(still: Path) -> None:
    api = cluster(vmi(memory_target="1024Ei", memory_min="1e40", processor_target="9" * 30))
    async with running(api, still, vm=FakeDomain()):
        await until(lambda: api.vm("vm").get("need"))
        assert api.vm("vm")["target"] == api.vm("vm")["min"] == "1Gi"
        assert api.vm("vm")["processors"]["target"] == api.vm("vm")["processors"]["size"]


@dataclass
class CountingDomain(FakeDomain):
    """Counts the looks at it."""

    looks: int = 0

    async def sample(self) -> Any:
        """See ``FakeDomain``."""
        self.looks += 1
        return await super().sample()


async def test_nothing_is_written_while_nothing_moves(still: Path) -> None:
    api, domain = cluster(vmi()), CountingDomain()
    async with running(api, still, vm=domain):
        await until(lambda: api.vm("vm").get("need") and "online" in api.vm("vm")["processors"])
        written, looked = len(api.reports), domain.looks
        await until(lambda: domain.looks > looked + 50)
        assert len(api.reports) == written
        (still / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8000000 kB\n")
        await until(lambda: len(api.reports) > written)
        domain.used += 100 * MIB
        await until(lambda: parse_quantity(api.vm("vm")["need"]) >= 300 * MIB)


async def test_what_is_news_while_the_api_server_is_away_is_told_when_it_is_back(still: Path) -> None:
    api, domain = cluster(vmi()), FakeDomain()
    async with running(api, still, vm=domain) as agent:
        await until(lambda: api.vm("vm").get("need"))
        api.away, domain.used = True, 500 * MIB
        await until(lambda: api.refused > 1)
        assert agent.unready() == "the fake is away"
        api.away = False
        await until(lambda: parse_quantity(api.vm("vm")["need"]) >= 500 * MIB)
        assert agent.unready() is None


def before(**report: Any) -> Object:
    """What an agent before this one reported of the VM."""
    vm = {"uid": "vm", "namespace": "default", "name": "vm", "size": str(SIZE), **report}
    ready = {"type": "Ready", "status": "True", "reason": "Reporting", "message": "", "lastTransitionTime": LONG_AGO}
    memory = {"total": "16Gi", "available": "8Gi", "other": "0", "reserve": "0"}
    status = {"observedAt": LONG_AGO, "memory": memory, "virtualMachines": [vm], "conditions": [ready]}
    return {"metadata": {"name": "here"}, "status": status}


async def test_since_when_it_is_ready_outlives_restarts_and_reports_that_failed(still: Path) -> None:
    api = cluster(vmi())
    api.pressure, api.away = before(), True
    async with running(api, still, vm=FakeDomain()):
        await until(lambda: api.refused > 1)
        api.away = False
        await until(lambda: api.vm("vm").get("need"))
    assert {condition["lastTransitionTime"] for report in api.reports for condition in report["conditions"]} == {
        LONG_AGO
    }


@pytest.mark.parametrize("known", [True, False], ids=["reported before", "never seen"])
async def test_a_vm_that_hangs_as_the_agent_starts_counts_once_and_as_what_it_holds(still: Path, known: bool) -> None:  # noqa: FBT001 - a parameter
    api = cluster(vmi())
    api.pressure = before(actual="400Mi", resident="300Mi", need="200Mi") if known else None
    async with running(api, still, vm=FakeDomain(hangs=True)):
        await until(lambda: api.vm("vm").get("reason") == "Hung")
        await until(lambda: api.vm("vm").get("resident") == "700Mi")
    reported = [vm for report in api.reports for vm in report.get("virtualMachines", [])]
    assert {vm.get("actual") for vm in reported} == {"400Mi" if known else None}
    assert all("resident" in vm for vm in reported[1:]), "what it holds is not in what others use"
    assert bool(api.reports[0].get("virtualMachines")) is known, "nothing is told of what was never seen"


STRONG = memory_policy(
    "strong", priority=1, memory={"min": "75%"}, selector={"namespaceSelector": {"matchLabels": {"tier": "production"}}}
)
WEAK = memory_policy("weak", memory={"min": "25%"})
FORGED = {"memory_target": "1Mi", "memory_min": "1Mi"}


@pytest.mark.parametrize("named", ["weak", "absent"])
@pytest.mark.parametrize("labels", [[namespace(tier="production")], None], ids=["in production", "nobody knows where"])
async def test_a_forged_policy_takes_no_vm_below_what_it_is_guaranteed(
    still: Path, named: str, labels: list[Object] | None
) -> None:
    api = cluster(vmi(**FORGED, policy=named), policies=[STRONG, WEAK], namespaces=labels)
    domain = FakeDomain()
    async with running(api, still, vm=domain):
        await until(lambda: domain.actual == SIZE * 3 // 4)
        asked = len(domain.requests)
        await until(lambda: api.vm("vm").get("actual") == "768Mi")
        assert domain.requests[asked:] == []
        if labels is not None:
            api.happen(paths.NAMESPACES, namespace(tier="test"))
            await until(lambda: domain.actual == SIZE // 4)
    assert min(domain.requests) >= (SIZE // 4 if labels is not None else SIZE * 3 // 4)
