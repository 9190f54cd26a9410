"""The agent's loops, with an API server and guests that are fakes, on a node where nothing moves by itself."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.fake_cluster import SIZE, FakeCluster, cluster, namespace, vmi
from hack.testbed.lab import MIB
from hack.testbed.lab.fakes import FakeGuestControl, FakeHypervisor, FakeMemoryControl
from kubeballoon.agent.agent import Agent
from kubeballoon.agent.hypervisor.errors import GoneError
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.settings import AgentSettings, NodeSettings
from kubeballoon.agent.vm import guest_worker
from kubeballoon.agent.vm.guest_program_client import DIRECTORY
from kubeballoon.agent.wait_times import Timing
from kubeballoon.api.names import EXCLUDE
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import (
    ApiError,
    BusyError,
    InvalidError,
    UnreachableError,
)
from tests.agent.fast_timing import QUICK
from tests.support.cluster import Object, memory_policy, node_policy, processor_policy
from tests.support.waiting import soon

pytestmark = pytest.mark.usefixtures("sockets")

until = partial(soon, seconds=10.0)

LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the /proc of a node whose figures stay as they are."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")
    (tmp_path / "stat").write_text("cpu 1 0 1 8 0 0 0 0\ncpu0 1 0 1 8 0 0 0 0\n")
    monkeypatch.setattr(guest_worker, "QemuProcess", lambda *_: FakeGuestControl(process_bytes=700 * MIB))
    return tmp_path


@asynccontextmanager
async def running(
    api: FakeCluster,
    proc: Path,
    guests: Mapping[str, FakeGuestControl] | None = None,
    timing: Timing = QUICK,
    **controls: FakeMemoryControl,
) -> AsyncIterator[Agent]:
    given = guests or {}
    hypervisor = FakeHypervisor(
        {f"default_{name}": control for name, control in controls.items()},
        {f"default_{name}": given.get(name) or FakeGuestControl() for name in controls},
    )
    connection: Any = api
    agent = Agent(
        "here",
        connection,
        hypervisor,
        HostMemoryReader(proc),
        AgentSettings(Path("/pods"), 60.0, 1, timing),
        NodeSettings(0, 64 * MIB),
    )
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def hostile(**figures: object) -> bytes:
    """Write a status that no honest program in a guest would."""
    return json.dumps({"number": 1, "requested": 0, "locked": 0, "available": 5, "spare": 5, **figures}).encode()


def kubevirt(overcommit: int) -> Object:
    configuration = {"developerConfiguration": {"memoryOvercommit": overcommit}}
    metadata = {"name": "kubevirt", "uid": "kubevirt", "resourceVersion": str(overcommit)}
    return {"metadata": metadata, "spec": {"configuration": configuration}}


async def test_what_pods_request_follows_kubevirt_s_overcommit(proc: Path) -> None:
    made = vmi()
    made["spec"]["domain"]["resources"] = {}
    api = cluster(made)
    api.collections[paths.KUBEVIRTS] = [kubevirt(200)]
    async with running(api, proc, vm=FakeMemoryControl(size=SIZE, actual=SIZE)):
        await until(lambda: api.vm("vm").get("podRequest") == f"{SIZE // 2 // MIB}Mi")
        api.happen(paths.KUBEVIRTS, kubevirt(100))
        await until(lambda: "podRequest" not in api.vm("vm"))


@pytest.mark.parametrize(
    "status",
    [
        hostile(locked=2 * SIZE),
        hostile(locked=-5),
        hostile(available=-1),
        hostile(locked=10**30, available=10**30),
        hostile(locked=-1e30),
        hostile(number=float("inf")),
        b"[" * 100000,
    ],
    ids=["too much", "negative", "negative left", "absurd", "absurd and negative", "infinite", "deep"],
)
@pytest.mark.parametrize("annotations", [{}, {"memory_method": "GuestAgent"}], ids=["unasked", "asked"])
async def test_whatever_a_guest_says_its_agent_lives_and_its_report_can_be_read(
    proc: Path, status: bytes, annotations: dict[str, str]
) -> None:
    # Only where a policy may need the program in a guest is the guest asked.
    api = cluster(vmi("evil", **annotations), vmi("well"), policies=[memory_policy("all")], namespaces=[namespace()])
    evil = FakeGuestControl(files={f"{DIRECTORY}/status": status})
    controls = {"evil": FakeMemoryControl(balloon=False, reports=False), "well": FakeMemoryControl()}
    async with running(api, proc, guests={"evil": evil}, timing=QUICK, **controls):
        await until(lambda: "guest-file-read" in evil.commands and api.vm("well").get("need"))
        controls["well"].used += 300 * MIB
        await until(lambda: parse_quantity(api.vm("well")["need"]) >= 500 * MIB)
        assert set(controls) == {vm["name"] for vm in api.reports[-1]["virtualMachines"]}
    for report in map(NodePressureStatus.model_validate, api.reports):
        assert all(0 <= (vm.actual or 0) <= SIZE and 0 <= (vm.claimed or 0) <= SIZE for vm in report.virtual_machines)


@pytest.mark.parametrize(("known", "used"), [({"target": 2}, 4), ({}, 2)], ids=["asked", "not asked"])
async def test_processors_come_back_after_a_restart_where_they_were_reclaimed(
    proc: Path, known: dict[str, Any], used: int
) -> None:
    wide = vmi()
    wide["spec"]["domain"]["cpu"]["sockets"] = 4
    api, channel = cluster(wide), FakeGuestControl(online={0: True, 1: True, 2: False, 3: False})
    api.pressure = earlier(processors={"size": 4, **known})
    async with running(api, proc, guests={"vm": channel}, vm=FakeMemoryControl()):
        # Without a request the guest is not asked, and its processors' threads count.
        await until(lambda: api.vm("vm").get("processors", {}).get("online") == 4)
    assert sum(channel.online.values()) == used
    assert bool(channel.commands) is bool(known)


@pytest.mark.parametrize(
    ("policy", "balloon", "asked"),
    [
        (None, True, False),
        (None, False, False),
        ({}, True, False),
        ({"mode": "Observe"}, False, False),
        ({}, False, True),
    ],
    ids=["no policy", "no policy and no balloon", "a balloon that works", "a policy that observes", "no balloon"],
)
async def test_a_guest_agent_is_asked_only_where_a_policy_needs_it(
    proc: Path, policy: dict[str, Any] | None, *, balloon: bool, asked: bool
) -> None:
    policies = [] if policy is None else [memory_policy("all", **policy)]
    api = cluster(vmi(), policies=policies, namespaces=[namespace()])
    guest, control = FakeGuestControl(), FakeMemoryControl(balloon=balloon, reports=balloon)
    async with running(api, proc, guests={"vm": guest}, vm=control):
        await until(lambda: guest.commands if asked else guest.looks > 10 and api.vm("vm"))
    assert bool(guest.commands) is asked


async def test_memory_that_a_program_locked_for_an_earlier_agent_is_freed_without_any_policy(proc: Path) -> None:
    api, guest = cluster(vmi(), namespaces=[namespace()]), FakeGuestControl()
    guest.files = {f"{DIRECTORY}/status": hostile(locked=100 * MIB, requested=100 * MIB)}
    api.pressure = earlier(actual=str(SIZE - 100 * MIB), method="GuestAgent", claimed=str(100 * MIB))
    async with running(api, proc, guests={"vm": guest}, vm=FakeMemoryControl()):
        await until(lambda: guest.files.get(f"{DIRECTORY}/request") == b'{"lock": 0}')


async def test_a_vm_that_cannot_be_reported_has_a_reason_and_hides_no_other(proc: Path) -> None:
    api, control = cluster(vmi("evil"), vmi("well")), FakeMemoryControl(actual=-5, follows=False)
    async with running(api, proc, evil=control, well=FakeMemoryControl()):
        await until(lambda: api.vm("evil").get("reason") == "BadReport" and api.vm("well").get("need"))
        assert not api.vm("evil")["responsive"]
        control.actual = SIZE
        await until(lambda: api.vm("evil").get("need"))


async def test_a_vm_whose_report_the_api_server_refuses_has_a_reason_and_hides_no_other(proc: Path) -> None:
    vms = {name: FakeMemoryControl(SIZE) for name in ("a", "b", "vm", "c", "d")}
    api = cluster(*(vmi(name) for name in vms))
    api.refuses = lambda vm: vm["name"] == "vm" and "need" in vm
    async with running(api, proc, None, timing=QUICK, **vms):
        await until(lambda: api.vm("vm").get("reason") == "BadReport")
        await until(lambda: all("need" in api.vm(name) for name in ("a", "b", "c", "d")))
        assert not any("reason" in api.vm(name) for name in ("a", "b", "c", "d"))
        assert "one of the VMs is invalid" in api.vm("vm")["message"]
        refused, reports = api.refused, len(api.reports)
        (proc / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8000000 kB\n")
        await until(lambda: len(api.reports) > reports)
        assert api.refused == refused, "it is not tried again with every report"


async def test_a_vm_of_which_the_api_server_takes_nothing_is_left_out_and_hides_no_other(proc: Path) -> None:
    api = cluster(vmi(), vmi("other"))
    api.refuses = lambda vm: vm["name"] == "vm"
    async with running(api, proc, vm=FakeMemoryControl(SIZE), other=FakeMemoryControl(SIZE)):
        await until(lambda: "need" in api.vm("other"))
    assert all(api.reports[-1]["virtualMachines"][0]["name"] == "other" for _ in api.reports)


async def test_labels_are_cut_where_there_are_too_many_but_those_that_policies_select_by(proc: Path) -> None:
    many, few = vmi(), vmi("other")
    many["metadata"]["labels"] |= {f"key-{number}": "x" * 63 for number in range(9000)} | {"tier": "gold", "zone": "z"}
    few["metadata"]["labels"] = {"tier": "silver"}
    api = cluster(many, few, policies=[memory_policy("gold", selector=_selecting("tier", "gold"))])
    async with running(api, proc, vm=FakeMemoryControl(SIZE), other=FakeMemoryControl(SIZE)):
        await until(lambda: api.vm("vm") and api.vm("other"))
        reported = api.vm("vm")
        assert reported["labelsCut"]
        assert len(json.dumps(reported["labels"])) < 8192
        assert (reported["labels"]["tier"], reported["labels"].get("zone")) == ("gold", None)
        assert (api.vm("other")["labels"], api.vm("other")["labelsCut"]) == ({"tier": "silver"}, False)
        first = processor_policy("first", selector=_selecting("zone", "z"))
        first["metadata"] |= {"uid": "first", "resourceVersion": "2"}
        api.happen(paths.PROCESSOR_POLICIES, first)
        await until(lambda: api.vm("vm")["labels"].get("zone") == "z")


def _selecting(key: str, value: str) -> Object:
    return {"virtualMachineSelector": {"matchLabels": {key: value}}}


@pytest.mark.parametrize("guest", ["much", "9" * 4000, "-5", 10**30], ids=["words", "digits", "negative", "absurd"])
async def test_a_vm_whose_object_cannot_be_read_is_named_and_left_alone_and_hides_no_other(
    proc: Path, guest: object
) -> None:
    strange = vmi("strange", memory_target="512Mi", memory_min="256Mi", policy="all")
    strange["spec"]["domain"]["memory"] = {"guest": guest}
    thousandths = vmi("thousandths")
    thousandths["spec"]["domain"]["memory"] = {"guest": f"{SIZE * 1000 - 1}m"}
    api, control = cluster(strange, thousandths, policies=[memory_policy("all")]), FakeMemoryControl()
    async with running(api, proc, strange=control, thousandths=FakeMemoryControl()):
        await until(lambda: api.vm("thousandths").get("need"))
    report = api.vm("strange")
    assert (report["reason"], report["eligible"], report["responsive"]) == ("BadReport", False, False)
    assert report["message"].startswith("its object cannot be read, so it is left alone: ")
    assert len(report["message"]) < 400
    assert control.requests == []
    # The process of each VM holds 700 MiB. The one that can be read has no more than its size of them as its own.
    memory = {name: parse_quantity(figure) for name, figure in api.reports[-1]["memory"].items()}
    assert memory["other"] == memory["total"] - memory["available"] - 700 * MIB, "what it holds is used by others"


async def test_a_vm_whose_object_cannot_be_read_any_more_has_its_memory_back_until_it_can(proc: Path) -> None:
    governed = vmi(memory_target="512Mi", memory_min="256Mi", policy="all")
    api = cluster(governed, policies=[memory_policy("all")], namespaces=[namespace()])
    control = FakeMemoryControl(SIZE)
    async with running(api, proc, vm=control):
        await until(lambda: control.actual == SIZE // 2)
        strange = copy.deepcopy(governed)
        strange["metadata"]["resourceVersion"] = "2"
        strange["spec"]["domain"]["memory"] = {"guest": "9" * 4000}
        api.happen(paths.INSTANCES, strange)
        await until(lambda: control.actual == SIZE)
        await until(lambda: api.vm("vm").get("reason") == "BadReport")
        assert (api.vm("vm")["size"], api.vm("vm")["eligible"]) == ("1Gi", False)
        assert [vm["name"] for vm in api.reports[-1]["virtualMachines"]] == ["vm"]
        api.happen(paths.INSTANCES, governed | {"metadata": governed["metadata"] | {"resourceVersion": "3"}})
        await until(lambda: control.actual == SIZE // 2 and "reason" not in api.vm("vm"))


async def test_absurd_requests_are_reported_within_the_vm_s_size(proc: Path) -> None:
    api = cluster(vmi(memory_target="1024Ei", memory_min="1e40", processor_target="9" * 30))
    async with running(api, proc, vm=FakeMemoryControl()):
        await until(lambda: api.vm("vm").get("need"))
        assert api.vm("vm")["target"] == api.vm("vm")["min"] == "1Gi"
        assert api.vm("vm")["processors"]["target"] == api.vm("vm")["processors"]["size"]


@dataclass
class CountingMemoryControl(FakeMemoryControl):
    """Counts its samples."""

    samples: int = 0

    async def sample(self) -> Any:
        """Read the memory, and count that."""
        self.samples += 1
        return await super().sample()


async def test_a_guest_in_need_is_helped_before_the_guard_s_next_turn(proc: Path) -> None:
    requested = vmi(memory_target="512Mi", memory_min="256Mi", policy="all")
    api = cluster(requested, policies=[memory_policy("all")], namespaces=[namespace()])
    control = FakeMemoryControl(SIZE)
    rare = replace(QUICK, node=replace(QUICK.node, guard_interval=1000.0))
    async with running(api, proc, timing=rare, vm=control):
        await until(lambda: control.actual == SIZE // 2)
        control.used += 460 * MIB
        await until(lambda: "emergencyTarget" in api.vm("vm") and control.actual > SIZE // 2)


async def test_the_first_news_after_a_rest_does_not_wait_for_more(proc: Path) -> None:
    slow = replace(QUICK, node=replace(QUICK.node, settle=1000.0))
    api = cluster(vmi())
    async with running(api, proc, timing=slow, vm=FakeMemoryControl(SIZE)):
        await until(lambda: api.reports)


async def test_nothing_is_written_while_nothing_moves(proc: Path) -> None:
    api, control = cluster(vmi()), CountingMemoryControl()
    async with running(api, proc, vm=control):
        await until(lambda: api.vm("vm").get("need") and "online" in api.vm("vm")["processors"])
        written, sampled = len(api.reports), control.samples
        await until(lambda: control.samples > sampled + 50)
        assert len(api.reports) == written
        (proc / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8000000 kB\n")
        await until(lambda: len(api.reports) > written)
        control.used += 100 * MIB
        await until(lambda: parse_quantity(api.vm("vm")["need"]) >= 300 * MIB)


async def test_news_while_the_api_server_is_away_is_reported_when_it_is_back(proc: Path) -> None:
    api, control = cluster(vmi(), namespaces=[namespace()]), FakeMemoryControl()
    async with running(api, proc, vm=control) as agent:
        await until(lambda: api.vm("vm").get("need"))
        api.away, control.used = True, 500 * MIB
        await until(lambda: api.refused > 1)
        assert agent.unready() == "the fake is away"
        api.away = False
        await until(lambda: parse_quantity(api.vm("vm")["need"]) >= 500 * MIB)
        assert agent.unready() is None


BEATING = replace(QUICK, node=replace(QUICK.node, heartbeat=0.02))


async def test_an_agent_at_rest_says_by_its_lease_that_its_report_holds(proc: Path) -> None:
    api = cluster(vmi(), namespaces=[namespace()])
    async with running(api, proc, timing=BEATING, vm=FakeMemoryControl()) as agent:
        await until(lambda: api.vm("vm").get("need") and api.beats)
        await until(lambda: api.reports[-1].get("leaseNamespace") == "own")
        written, beats = len(api.reports), api.beats
        await until(lambda: api.beats > beats + 5)
        assert len(api.reports) == written
        assert agent.unready() is None
    assert api.lease is not None
    (owner,) = api.lease["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("ServiceAccount", "agent", "account")


async def test_an_agent_that_may_have_no_lease_reports_instead(proc: Path) -> None:
    api = cluster(vmi(), namespaces=[namespace()])
    api.leases = False
    async with running(api, proc, timing=BEATING, vm=FakeMemoryControl()) as agent:
        await until(lambda: len(api.reports) > 5)
        assert agent.unready() is None
    assert api.beats == 0
    assert "leaseNamespace" not in api.reports[-1]


@pytest.mark.parametrize("error", [InvalidError("a webhook refuses"), UnreachableError("a webhook is away")], ids=str)
async def test_an_agent_whose_lease_cannot_be_written_for_long_reports_instead(proc: Path, error: ApiError) -> None:
    api = cluster(vmi(), namespaces=[namespace()])
    async with running(api, proc, timing=BEATING, vm=FakeMemoryControl()):
        await until(lambda: api.vm("vm").get("need") and api.beats)
        api.lease_fails = error
        written, beats = len(api.reports), api.beats
        await until(lambda: len(api.reports) > written + 3)
        assert api.beats == beats


async def test_an_agent_that_is_asked_to_wait_with_its_lease_does_not_report_instead(proc: Path) -> None:
    api = cluster(vmi(), namespaces=[namespace()])
    async with running(api, proc, timing=BEATING, vm=FakeMemoryControl()) as agent:
        await until(lambda: api.vm("vm").get("need") and api.beats)
        api.lease_fails = BusyError("wait")
        await until(lambda: agent.unready() == "wait")
        written, api.refused_leases = len(api.reports), 0
        await until(lambda: api.refused_leases > 10)
        assert len(api.reports) == written


async def test_an_agent_whose_lease_is_deleted_makes_its_nodepressure_anew(proc: Path) -> None:
    api = cluster(vmi(), namespaces=[namespace()])
    async with running(api, proc, timing=BEATING, vm=FakeMemoryControl()):
        await until(lambda: api.beats)
        created, written = api.created, len(api.reports)
        api.lease = None
        await until(lambda: api.created > created and len(api.reports) > written)
        await until(lambda: api.lease is not None)


@pytest.mark.parametrize("held", [True, False], ids=["held until now", "not held"])
async def test_an_old_report_that_held_until_now_is_taken_over(proc: Path, held: bool) -> None:  # noqa: FBT001 - a parameter
    api = cluster(vmi(), namespaces=[namespace()])
    api.pressure = earlier(actual="400Mi", resident="300Mi", need="200Mi")
    moment = datetime.now(UTC) if held else datetime.fromisoformat(LONG_AGO)
    api.lease = {"metadata": {"resourceVersion": "1"}, "spec": {"renewTime": moment.isoformat()}}
    async with running(api, proc, vm=FakeMemoryControl(hangs=True)):
        await until(lambda: api.vm("vm"))
    assert bool(api.vm("vm").get("need")) is held


async def test_figures_that_drift_wait_and_what_others_wait_for_does_not(proc: Path) -> None:
    api, control = cluster(vmi(), namespaces=[namespace()]), CountingMemoryControl()
    async with running(api, proc, timing=replace(QUICK, node=replace(QUICK.node, drift_floor=1e6)), vm=control):
        await until(lambda: api.vm("vm").get("need"))
        written = len(api.reports)
        control.used += 25 * MIB
        samples = control.samples
        await until(lambda: control.samples > samples + 5)
        assert len(api.reports) == written, "what the guest works with has drifted: that waits"
        control.balloon = False
        await until(lambda: api.vm("vm").get("reason"))
        assert len(api.reports) == written + 1


@pytest.mark.parametrize("change", [{"labels": {"a": "2"}}, {"annotations": {EXCLUDE: "true"}}], ids=str)
async def test_what_a_tenant_writes_on_a_vm_has_no_report_written_sooner_than_balloons_that_move(
    proc: Path, change: Object
) -> None:
    made = vmi()
    api, control = cluster(made, namespaces=[namespace()]), CountingMemoryControl()
    async with running(api, proc, timing=replace(QUICK, node=replace(QUICK.node, moved_floor=1e6)), vm=control):
        await until(lambda: api.vm("vm").get("need") and "online" in api.vm("vm")["processors"])
        written = len(api.reports)
        changed = copy.deepcopy(made)
        changed["metadata"] |= {"resourceVersion": "2", **change}
        api.happen(paths.INSTANCES, changed)
        samples = control.samples
        await until(lambda: control.samples > samples + 20)
        assert len(api.reports) == written
        control.balloon = False  # this waits for nothing, and the rest comes with it
        await until(lambda: api.vm("vm").get("reason"))
        assert api.vm("vm")["labels"] == changed["metadata"]["labels"]
        assert api.vm("vm")["ownerExcluded"] is ("annotations" in change)


async def test_an_agent_waits_as_long_as_the_api_server_asks(proc: Path) -> None:
    api, control = cluster(vmi(), namespaces=[namespace()]), CountingMemoryControl()
    busy = BusyError("too many requests")
    busy.retry_after = 1e6
    async with running(api, proc, vm=control) as agent:
        await until(lambda: api.vm("vm").get("need"))
        api.fails = busy
        control.used = 500 * MIB
        await until(lambda: api.refused)
        samples = control.samples
        await until(lambda: control.samples > samples + 5)
        assert api.refused == 1
        assert agent.unready() == "too many requests"


async def test_an_agent_that_may_not_read_policies_reports_and_is_not_ready(proc: Path) -> None:
    api = cluster(vmi(), namespaces=[namespace()])
    api.collections[paths.MEMORY_POLICIES] = None
    async with running(api, proc, vm=FakeMemoryControl()) as agent:
        await until(lambda: api.vm("vm").get("need"))
        await until(lambda: agent.unready() == "policies cannot be watched")
        assert agent.stalled() is None
        api.collections[paths.MEMORY_POLICIES] = []
        await until(lambda: agent.unready() is None)


def earlier(**report: Any) -> Object:
    """Write what an earlier agent reported of the VM."""
    vm = {"uid": "vm", "namespace": "default", "name": "vm", "size": str(SIZE), **report}
    ready = {"type": "Ready", "status": "True", "reason": "Reporting", "message": "", "lastTransitionTime": LONG_AGO}
    memory = {"total": "16Gi", "available": "8Gi", "other": "0", "reserve": "0"}
    status = {"observedAt": LONG_AGO, "memory": memory, "virtualMachines": [vm], "conditions": [ready]}
    return {"metadata": {"name": "here"}, "status": status}


async def test_the_time_since_when_the_agent_is_ready_outlives_restarts_and_failed_reports(proc: Path) -> None:
    api = cluster(vmi())
    api.pressure, api.away = earlier(), True
    async with running(api, proc, vm=FakeMemoryControl()):
        await until(lambda: api.refused > 1)
        api.away = False
        await until(lambda: api.vm("vm").get("need"))
    assert {condition["lastTransitionTime"] for report in api.reports for condition in report["conditions"]} == {
        LONG_AGO
    }


@pytest.mark.parametrize("known", [True, False], ids=["reported before", "never seen"])
async def test_a_vm_that_hangs_as_the_agent_starts_counts_once_with_what_it_holds(proc: Path, known: bool) -> None:  # noqa: FBT001 - a parameter
    api = cluster(vmi())
    api.pressure = earlier(actual="400Mi", resident="300Mi", need="200Mi") if known else None
    async with running(api, proc, vm=FakeMemoryControl(hangs=True)):
        await until(lambda: api.vm("vm").get("reason") == "Hung")
        await until(lambda: api.vm("vm").get("resident") == "700Mi")
    reported = [vm for report in api.reports for vm in report.get("virtualMachines", [])]
    assert {vm.get("actual") for vm in reported} == {"400Mi" if known else None}
    assert all("resident" in vm for vm in reported[1:]), "what it holds does not count as used by others"
    assert bool(api.reports[0].get("virtualMachines")) is known, "a VM that was never seen is not reported"


async def test_a_metrics_scrape_leaves_the_agent_s_conditions_as_they_are(proc: Path) -> None:
    api, control = cluster(vmi()), FakeMemoryControl()
    api.pressure = earlier()
    async with running(api, proc, vm=control) as agent:
        await until(lambda: api.vm("vm").get("need"))
        api.answers.clear()
        control.used += 300 * MIB
        await until(lambda: api.waiting)
        control.gone = GoneError("the socket vanished")
        await until(lambda: scraped(agent, "kubeballoon_vm_responsive") == 0)
        control.gone = None
        await until(lambda: scraped(agent, "kubeballoon_vm_responsive") == 1)
        written = len(api.reports)
        api.answers.set()
        control.used += 300 * MIB
        await until(lambda: len(api.reports) > written + 1)
    (condition,) = api.reports[-1]["conditions"]
    assert (condition["status"], condition["lastTransitionTime"]) == ("True", LONG_AGO)


def scraped(agent: Agent, name: str) -> float | None:
    """Read a metric of the VM, as a scrape does."""
    samples = [sample for family in agent.metrics.registry.collect() for sample in family.samples]
    wanted = {"namespace": "default", "name": "vm"}.items()
    return next((sample.value for sample in samples if sample.name == name and wanted <= sample.labels.items()), None)


STRONG = memory_policy(
    "strong", priority=1, memory={"min": "75%"}, selector={"namespaceSelector": {"matchLabels": {"tier": "production"}}}
)
WEAK = memory_policy("weak", memory={"min": "25%"})
FORGED = {"memory_target": "1Mi", "memory_min": "1Mi"}


@pytest.mark.parametrize("named", ["weak", "absent"])
@pytest.mark.parametrize(
    "labels", [[namespace(tier="production")], None], ids=["in production", "in an unknown namespace"]
)
async def test_a_forged_policy_reduces_no_vm_below_its_guarantee(
    proc: Path, named: str, labels: list[Object] | None
) -> None:
    api = cluster(vmi(**FORGED, policy=named), policies=[STRONG, WEAK], namespaces=labels)
    control = FakeMemoryControl()
    async with running(api, proc, vm=control):
        await until(lambda: control.actual == SIZE * 3 // 4)
        requests = len(control.requests)
        await until(lambda: api.vm("vm").get("actual") == "768Mi")
        assert control.requests[requests:] == []
        if labels is not None:
            api.happen(paths.NAMESPACES, namespace(tier="test"))
            await until(lambda: control.actual == SIZE // 4)
    assert min(control.requests) >= (SIZE // 4 if labels is not None else SIZE * 3 // 4)


async def test_a_vm_is_judged_by_all_of_its_labels_also_where_those_that_policies_select_by_do_not_fit(
    proc: Path,
) -> None:
    many = {f"key-{number}": "x" * 63 for number in range(100)}
    by_many = {"virtualMachineSelector": {"matchExpressions": [{"key": key, "operator": "Exists"} for key in many]}}
    strong = memory_policy("strong", priority=2, memory={"min": "75%"}, selector=_selecting("zone", "z"))
    vm = vmi(**FORGED, policy="weak")
    vm["metadata"]["labels"] |= {**many, "zone": "z"}
    api = cluster(vm, policies=[strong, {**WEAK, "spec": {**WEAK["spec"], "priority": 1, "selector": by_many}}])
    control = FakeMemoryControl()
    async with running(api, proc, vm=control):
        await until(lambda: control.actual == SIZE * 3 // 4)
        await until(lambda: api.vm("vm").get("actual") == "768Mi")
        reported = api.vm("vm")
    assert (reported["labelsCut"], "zone" in reported["labels"]) == (True, False)
    assert min(control.requests) >= SIZE * 3 // 4


def node_policy_of(pool: str, version: int = 1, **spec: Any) -> Object:
    made = node_policy(pool, selector={"nodeSelector": {"matchLabels": {"pool": pool}}}, **spec)
    made["metadata"] |= {"uid": pool, "resourceVersion": str(version), "generation": version}
    return made


EARLY = {"ample": "70%", "tight": "60%", "scarce": "2%", "critical": "1%"}


async def test_a_node_policy_says_where_the_states_begin_and_what_is_kept_free(proc: Path) -> None:
    api = cluster(vmi())
    api.labels = {"pool": "early"}
    api.collections[paths.NODE_POLICIES] = [node_policy_of("other", reserve="10Gi"), node_policy_of("early")]
    async with running(api, proc, vm=FakeMemoryControl(SIZE)):
        await until(lambda: api.reports)
        assert (api.reports[0]["labels"], api.reports[0]["state"]) == ({"pool": "early"}, "Ample")
        limits = api.reports[0]["limits"]
        assert (limits["policy"], limits["policyGeneration"], limits["evictionRead"]) == ("early", 1, False)
        assert parse_quantity(limits["ample"]) == parse_quantity(api.reports[0]["memory"]["reserve"])

        api.happen(paths.NODE_POLICIES, node_policy_of("early", 2, thresholds=EARLY, reserve="12Gi"))
        await until(lambda: api.reports[-1]["limits"]["policyGeneration"] == 2)
        assert (api.reports[-1]["state"], api.reports[-1]["memory"]["reserve"]) == ("Tight", "12Gi")

        api.happen(paths.NODE_POLICIES, node_policy_of("early", 3, reserve="16Gi"))
        await until(lambda: "refused" in api.reports[-1]["limits"])
        assert api.reports[-1]["limits"]["refused"] == "it would keep 16 GiB of 16 GiB free, and leave VMs nothing"
        assert (api.reports[-1]["state"], api.reports[-1]["limits"]["ample"]) == ("Ample", limits["ample"])


async def test_an_agent_is_never_in_a_state_that_its_policy_does_not_know(proc: Path) -> None:
    late = {"ample": "5%", "tight": "4%", "scarce": "2%", "critical": "1%"}
    (proc / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 899000 kB\n")  # 5.4 %: Tight by default's Ample
    api = cluster(vmi())
    api.labels = {"pool": "late"}
    api.collections[paths.NODE_POLICIES] = [node_policy_of("late", thresholds=late)]
    async with running(api, proc, vm=FakeMemoryControl(SIZE)):
        await until(lambda: api.reports)
    assert {report["state"] for report in api.reports} == {"Ample"}


async def test_a_node_whose_labels_change_is_governed_by_another_policy(proc: Path) -> None:
    quick = replace(QUICK, node=replace(QUICK.node, labels_interval=0.01))
    api = cluster(vmi())
    api.collections[paths.NODE_POLICIES] = [node_policy_of("early", thresholds=EARLY)]
    async with running(api, proc, timing=quick, vm=FakeMemoryControl(SIZE)):
        await until(lambda: api.reports)
        assert "policy" not in api.reports[-1]["limits"]
        api.labels = {"pool": "early"}
        await until(lambda: api.reports[-1]["limits"].get("policy") == "early" and api.reports[-1]["state"] == "Tight")
        api.labels = {}
        await until(lambda: "policy" not in api.reports[-1]["limits"] and api.reports[-1]["state"] == "Ample")


async def test_an_agent_whose_cluster_has_no_node_policies_works_by_its_own_settings(proc: Path) -> None:
    api = cluster(vmi())
    api.collections[paths.NODE_POLICIES] = None
    async with running(api, proc, vm=FakeMemoryControl(SIZE)) as agent:
        await until(lambda: api.vm("vm").get("need"))
        assert agent.unready() is None or "namespaces" in str(agent.unready())
    assert "policy" not in api.reports[-1]["limits"]
