"""Rounds on a fake clock and a fake API server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from kubeballoon.api.names import MEMORY_MIN, MEMORY_TARGET, POLICY, PROCESSOR_TARGET, REASON
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressure
from kubeballoon.cluster.client import ApiError, InvalidError, NotFoundError
from kubeballoon.cluster.events import EventRecorder, EventResult, ObjectReference
from kubeballoon.cluster.vmi_annotations import CONCURRENT_PATCHES
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.policy_counts import count_policies
from kubeballoon.controller.policy_status import policy_status
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.scheduler import Scheduler
from kubeballoon.controller.wait_times import DEFAULT_TIMING
from kubeballoon.core.memory.model import COOL_DOWN, MemoryPlan
from kubeballoon.core.migration_arrival import Arrival
from kubeballoon.governance.core_inputs import memory_vm, processor_node
from kubeballoon.governance.policy_types import MEMORY
from kubeballoon.governance.report_bounds import SILENT_AFTER
from kubeballoon.governance.targets_in_force import TargetInForce
from kubeballoon.metrics import new_registry
from tests.cluster.test_events import FakeEvents, has_written
from tests.support.cluster import MIB, Object, memory_policy
from tests.support.waiting import Clock, soon

TODAY = datetime(2026, 1, 1, tzinfo=UTC)


async def _no_events() -> AsyncIterator[Object]:
    await asyncio.Event().wait()
    yield {}


class FakeCluster:
    """A FakeCluster takes every patch, and lets time pass with each."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.patches: list[str] = []
        self.bodies: list[Object] = []
        self.scheduler: Scheduler | None = None
        self.stalls: list[str | None] = []
        self.homes: dict[str, str] = {}  # the nodes of VMs by uid, where they are others than those that report them
        self.refusal: ApiError | None = None  # raised for every status
        self.unwritable: set[str] = set()  # uids of VMs on which no patch succeeds

    async def pages(self, path: str, *_: object, **__: object) -> AsyncIterator[Object]:
        """Read an empty list."""
        assert path
        await asyncio.sleep(0)
        yield {"items": [], "metadata": {"resourceVersion": "1"}}

    @asynccontextmanager
    async def watch(self, path: str, idle: float, **_: str) -> AsyncIterator[AsyncIterator[Object]]:
        """Watch for what never comes."""
        assert path
        await asyncio.sleep(idle)
        yield _no_events()

    async def apply(self, path: str, body: Object) -> Object:
        """Take a status, or refuse it."""
        assert path.endswith("/status")
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal
        return body

    async def json_patch(self, path: str, operations: list[Object]) -> Object:
        """Take a patch if its tests hold, and let time pass."""
        await asyncio.sleep(0)
        self.clock.now += self.seconds
        tests = {each["path"]: each["value"] for each in operations if each["op"] == "test"}
        home = self.homes.get(tests["/metadata/uid"], tests["/status/nodeName"])
        if tests["/metadata/uid"] in self.unwritable:
            raise ApiError("refused")
        if tests["/status/nodeName"] != home:
            raise InvalidError("the server rejected our request due to an error in our request")
        annotations: dict[str, str | None] = {}
        for each in operations:
            key = each["path"].removeprefix("/metadata/annotations/").replace("~1", "/")
            annotations |= {"add": {key: each.get("value")}, "remove": {key: None}}.get(each["op"], {})
        body = {"metadata": {"uid": tests["/metadata/uid"], "annotations": annotations}}
        self.patches.append(path)
        self.bodies.append(body)
        if self.scheduler is not None:
            self.stalls.append(self.scheduler.stalled())
        return body


def report(observed: datetime, vms: int = 1, version: int = 1, node: str = "n", **fields: Any) -> Object:
    """Make a node's report of VMs that use little; ``fields`` are added to each VM's report."""
    guests = [
        {"uid": f"u{index}", "namespace": "shop", "name": f"vm-{index}", "size": str(512 * MIB)}
        | {"actual": str(512 * MIB), "need": str(100 * MIB), **fields}
        for index in range(vms)
    ]
    memory = {"total": str(vms * 400 * MIB), "available": str(100 * MIB), "other": "0", "reserve": "0"}
    status = {"observedAt": observed.isoformat(), "memory": memory, "state": "Ample", "virtualMachines": guests}
    return {"metadata": {"name": node, "uid": node, "resourceVersion": str(version)}, "status": status}


class Controller:
    """A Controller is a RoundRunner and a Scheduler, with what they work on."""

    def __init__(self, seconds: float = 0.0, recorder: Any = None) -> None:
        """Start without knowing any node; without a ``recorder`` no event may be posted, as in a first round.

        Each patch takes ``seconds``.
        """
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock, seconds)
        self.state = ClusterState(utc_now=lambda: TODAY)
        self.state.memory.put(memory_policy("all"))
        self.registry = new_registry("controller")
        cluster: Any = self.cluster
        counters = ControllerCounters(self.registry)
        self.rounds = RoundRunner(cluster, self.state, recorder, counters, self.clock)
        self.scheduler = Scheduler(cluster, self.state, recorder, self.rounds, counters, self.clock)

    async def silent(self) -> bool:
        """Run a round, and say whether it finds the agent silent."""
        await self.rounds.run("n")
        return self.rounds.results["n"].silent

    def counted(self, what: str) -> dict[str, float]:
        """Return how often each result was counted, without results that were not."""
        samples = (sample for family in self.registry.collect() for sample in family.samples)
        found = {each.labels["result"]: each.value for each in samples if each.name == f"kubeballoon_{what}_total"}
        return {result: count for result, count in found.items() if count}


@pytest.mark.parametrize("wrong", [timedelta(hours=-3), timedelta(), timedelta(hours=3)], ids=str)
async def test_an_agent_is_silent_by_the_controller_s_clock_whatever_the_node_s_clock_says(wrong: timedelta) -> None:
    controller = Controller()
    for beat in range(1, 5):
        controller.clock.now += 60
        controller.state.put_node(
            report(TODAY + wrong + timedelta(seconds=60 * beat), version=beat), controller.clock()
        )
        assert beat == 1 or not await controller.silent()
    controller.clock.now += SILENT_AFTER
    assert not await controller.silent()
    controller.clock.now += 1
    assert await controller.silent()


async def test_the_first_report_is_as_old_as_its_date_says() -> None:
    controller = Controller()
    controller.state.put_node(report(TODAY - timedelta(seconds=SILENT_AFTER + 1)), controller.clock())
    assert await controller.silent()


async def test_an_unchanged_report_that_is_read_again_does_not_count_as_a_report() -> None:
    controller = Controller()
    controller.state.put_node(report(TODAY), controller.clock())
    controller.clock.now += SILENT_AFTER + 1
    controller.state.put_node(report(TODAY, version=2), controller.clock())
    assert await controller.silent()


async def test_an_unchanged_request_gets_a_new_explanation_when_its_reason_changes() -> None:
    controller = Controller()
    cluster, states = controller.cluster, ["Ample", "Ample", "Tight", "Tight"]
    counts = []
    for version, state in enumerate(states, start=1):
        body = report(TODAY, vms=2, version=version)
        body["status"]["state"] = state
        if version > 1:
            for guest in body["status"]["virtualMachines"]:
                written = next(each for each in cluster.bodies if each["metadata"]["uid"] == guest["uid"])
                request = written["metadata"]["annotations"]
                guest |= {"target": request[MEMORY_TARGET], "min": request[MEMORY_MIN], "policy": request[POLICY]}
                guest["actual"] = guest["target"]
        controller.state.put_node(body, controller.clock())
        await controller.rounds.run("n")
        counts.append(len(cluster.bodies))
    assert counts == [2, 2, 4, 4]
    first, last = (body["metadata"]["annotations"] for body in (cluster.bodies[0], cluster.bodies[-1]))
    assert first[MEMORY_TARGET] == last[MEMORY_TARGET]
    assert "node Ample" in first[REASON]
    assert "node Tight" in last[REASON]


async def test_a_vm_that_is_about_to_leave_is_requested_no_more_than_its_new_node_has_until_it_does_not_leave() -> None:
    controller = Controller()
    controller.state.put_node(report(TODAY, vms=2), controller.clock())
    controller.state.arrivals = {"shop/vm-0": Arrival("shop/vm-0", "new", 300 * MIB)}
    await controller.rounds.run("n")
    targets = {each["metadata"]["uid"]: each["metadata"]["annotations"] for each in controller.cluster.bodies}
    assert targets["u0"][MEMORY_TARGET] == "300Mi"
    assert targets["u0"][REASON] == "it is migrated to new, which has 300 MiB for it"
    own = targets["u1"][MEMORY_TARGET]
    assert controller.state.requested_memory("n", "u0") == 300 * MIB
    controller.state.arrivals = {}
    await controller.rounds.run("n")
    last = controller.cluster.bodies[-1]["metadata"]
    assert (last["uid"], last["annotations"][MEMORY_TARGET]) == ("u0", own)


async def test_what_a_vm_holds_that_is_about_to_come_is_not_given_to_the_node_s_own_vms() -> None:
    controller = Controller()
    controller.state.put_node(report(TODAY, vms=2), controller.clock())

    async def capacity() -> int:
        await controller.rounds.run("n")
        plan = controller.rounds.results["n"].plans[MEMORY.model.plural]
        assert isinstance(plan, MemoryPlan)
        return plan.capacity

    before = await capacity()
    controller.state.room_needed = {"n": 200 * MIB, "other": 100 * MIB}
    assert await capacity() == before - 200 * MIB


async def test_a_round_of_many_slow_patches_is_not_stalled_while_it_makes_progress() -> None:
    controller = Controller(seconds=5)
    controller.cluster.scheduler = controller.scheduler
    controller.state.put_node(report(TODAY, vms=20), controller.clock())
    await controller.rounds.run("n")
    assert controller.cluster.stalls == [None] * 20
    controller.clock.now += DEFAULT_TIMING.stalled_after + 1
    assert controller.scheduler.stalled() is not None


def crowded_node(version: int = 1) -> Object:
    """Report a full node with a VM that needs more, and one that has not used all that it was granted."""
    busy = {"target": str(256 * MIB), "actual": str(256 * MIB), "need": str(300 * MIB)}
    idle = {"target": str(400 * MIB), "actual": str(300 * MIB), "need": str(100 * MIB)}
    body = report(TODAY, vms=2, version=version, policy="all", min=str(256 * MIB))
    for vm, figures in zip(body["status"]["virtualMachines"], (busy, idle), strict=True):
        vm.update(figures)
    body["status"]["memory"] |= {"total": str(660 * MIB), "available": str(100 * MIB)}
    return body


def written_targets(cluster: FakeCluster) -> list[tuple[str, int]]:
    return [
        (each["metadata"]["uid"], parse_quantity(each["metadata"]["annotations"][MEMORY_TARGET]))
        for each in cluster.bodies
    ]


async def test_a_target_is_lowered_before_another_rises_by_as_much() -> None:
    controller = Controller()
    controller.state.put_node(crowded_node(), controller.clock())
    await controller.rounds.run("n")
    (first, less), (second, more) = written_targets(controller.cluster)
    assert (first, second) == ("u1", "u0")
    assert less < 400 * MIB
    assert more > 256 * MIB
    assert 400 * MIB + more > 660 * MIB, "the order matters"
    assert less + more <= 660 * MIB


async def test_a_target_that_cannot_be_lowered_keeps_others_from_rising_by_as_much() -> None:
    controller = Controller()
    controller.cluster.unwritable = {"u1"}
    controller.state.put_node(crowded_node(), controller.clock())
    await controller.rounds.run("n")
    assert written_targets(controller.cluster) == []
    assert controller.rounds.results["n"].unwritten == {"u0", "u1"}
    assert not controller.rounds.results["n"].rests
    controller.cluster.unwritable.clear()
    await controller.rounds.run("n")
    assert [uid for uid, _ in written_targets(controller.cluster)] == ["u1", "u0"]


async def test_a_guest_in_trouble_does_not_wait_where_it_is_enough_that_another_waits() -> None:
    controller = Controller()
    controller.cluster.unwritable = {"u1"}
    body = crowded_node()
    vms = body["status"]["virtualMachines"]
    vms.append({**vms[0], "uid": "u2", "name": "vm-2", "need": str(400 * MIB)})
    vms[0]["troubled"] = True
    body["status"]["memory"]["total"] = str(1100 * MIB)
    controller.state.put_node(body, controller.clock())
    await controller.rounds.run("n")
    plan = controller.rounds.results["n"].memory
    assert plan is not None
    targets = {each.vm.uid: each.target or 0 for each in plan.decisions}
    assert targets["u2"] - 256 * MIB >= 400 * MIB - targets["u1"] > 0, "that of u2 is enough"
    assert written_targets(controller.cluster) == [("u0", targets["u0"])]
    assert targets["u0"] > 256 * MIB


@pytest.mark.parametrize("figure", ["target", "actual", "need", "emergencyTarget"])
async def test_an_absurd_figure_of_a_vm_is_clamped_to_its_size(figure: str) -> None:
    controller = Controller()
    absurd: dict[str, Any] = {figure: "1024Ei"}
    controller.state.put_node(report(TODAY, **absurd), controller.clock())
    await controller.rounds.run("n")
    assert controller.rounds.results["n"].fault is None
    plan = controller.rounds.results["n"].memory
    assert plan is not None
    (decision,) = plan.decisions
    assert decision.target is not None
    assert decision.vm.minimum <= decision.target <= decision.vm.size


async def test_a_fault_of_one_node_s_round_is_logged_once_and_stops_no_other_node(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller()
    snapshot = ClusterState.snapshot

    def fail_for_one(state: ClusterState, name: str, *arguments: Any) -> Any:
        if name == "bad":
            raise OverflowError("a fault that nobody foresaw")
        return snapshot(state, name, *arguments)

    monkeypatch.setattr(ClusterState, "snapshot", fail_for_one)
    controller.state.put_node(report(TODAY, node="bad"), controller.clock())
    controller.state.put_node(report(TODAY), controller.clock())
    for _ in range(3):
        await controller.rounds.run("bad")
    await controller.rounds.run("n")
    fault = controller.rounds.results["bad"].fault
    assert fault is not None
    assert fault.startswith("the round of node bad failed: OverflowError")
    assert caplog.text.count(fault) == 1
    assert len(controller.cluster.patches) == 1, "the other node's"
    counts = count_policies(controller.state, controller.state.memory)["all"]
    policy = controller.state.memory.policies["all"].resource
    status = policy_status(MEMORY, policy, counts, controller.rounds.results, TODAY)
    (degraded,) = (condition for condition in status.conditions if condition.type == "Degraded")
    assert (degraded.status, degraded.reason, degraded.message) == ("True", "RoundFailed", fault)
    monkeypatch.undo()
    await controller.rounds.run("bad")
    assert controller.rounds.results["bad"].fault is None


async def test_processors_are_requested_back_until_they_are_reported_also_by_the_next_node() -> None:
    controller = Controller()
    cluster = controller.cluster
    steps: list[tuple[dict[str, Any], int | None]] = [  # what is reported of the processors, and the request after it
        ({"target": 2, "online": 2, "reason": "Migrating", "responsive": False}, 4),
        ({"target": 4, "online": 2, "reason": "Migrating", "responsive": False}, 4),
        ({"target": 4}, 4),  # the next node's agent has not looked yet
        ({"target": 4, "online": 2}, 4),
        ({"target": 4, "online": 4}, None),
        ({"online": 4}, None),
    ]
    target: str | None = "2"
    for version, (reported, expected) in enumerate(steps, start=1):
        body = report(TODAY, version=version, processors={"size": 4, "policy": "gone", **reported})
        body["status"]["processors"] = {"count": 4}
        controller.state.put_node(body, controller.clock())
        before = len(cluster.bodies)
        await controller.rounds.run("n")
        for written in cluster.bodies[before:]:
            target = written["metadata"]["annotations"].get(PROCESSOR_TARGET, target)
        assert target == (None if expected is None else str(expected)), reported
    assert sum(PROCESSOR_TARGET in body["metadata"]["annotations"] for body in cluster.bodies) == 2


@pytest.mark.parametrize(("node", "rise"), [("n", []), ("roomy", [512 * MIB])])
async def test_a_target_that_fell_rests_on_its_node_and_rises_at_once_on_another_that_has_room(
    node: str, rise: list[int]
) -> None:
    controller = Controller()
    cluster = controller.cluster
    controller.state.put_node(report(TODAY, target=str(500 * MIB), policy="all"), controller.clock())
    await controller.rounds.run("n")
    fallen = cluster.bodies[-1]["metadata"]["annotations"][MEMORY_TARGET]
    assert parse_quantity(fallen) < 500 * MIB
    gone = report(TODAY, vms=0, version=2)
    controller.state.put_node(gone, controller.clock())
    after = report(TODAY, version=3, node=node, target=fallen, actual=fallen, policy="all", min=str(128 * MIB))
    after["status"]["memory"] |= {"total": str(4096 * MIB), "available": str(3584 * MIB)}
    controller.state.put_node(after, controller.clock())
    before = len(cluster.bodies)
    await controller.rounds.run(node)
    written = [body["metadata"]["annotations"][MEMORY_TARGET] for body in cluster.bodies[before:]]
    assert [parse_quantity(target) for target in written if target != fallen] == rise


async def test_a_node_is_due_again_soon_while_a_target_waits_for_its_cool_down() -> None:
    controller = Controller(recorder=FakeRecorder())
    size = 512 * MIB
    targets = {"u0": 300 * MIB, "u1": 500 * MIB}

    async def decide(version: int, need: int) -> None:
        """Run a round with the balloons where the targets are; the first VM needs so much."""
        body = report(TODAY, vms=2, version=version, policy="all", min=str(size // 4))
        for guest in body["status"]["virtualMachines"]:
            guest |= {"target": str(targets[guest["uid"]]), "actual": str(targets[guest["uid"]])}
        body["status"]["virtualMachines"][0]["need"] = str(need)
        body["status"]["memory"]["available"] = str(400 * MIB)
        controller.state.put_node(body, controller.clock())
        before = len(controller.cluster.bodies)
        await controller.rounds.run("n")
        for written in controller.cluster.bodies[before:]:
            target = written["metadata"]["annotations"].get(MEMORY_TARGET, "")
            targets[written["metadata"]["uid"]] = parse_quantity(target)

    await decide(1, need=400 * MIB)
    await decide(2, need=400 * MIB)  # the other VM has given it meanwhile
    risen = targets["u0"]
    assert risen > 400 * MIB
    await decide(3, need=100 * MIB)
    await decide(4, need=100 * MIB)
    assert targets["u0"] == risen
    assert not controller.rounds.results["n"].rests
    controller.clock.now += COOL_DOWN
    await decide(5, need=100 * MIB)
    assert targets["u0"] < risen


async def test_processors_that_cannot_come_back_are_not_requested_for_ever() -> None:
    controller = Controller()
    absent = {"size": 4, "online": 2, "target": 4, "policy": "gone", "reason": "GuestAgentAbsent", "responsive": False}
    body = report(TODAY, processors=absent)
    body["status"]["processors"] = {"count": 4}
    controller.state.put_node(body, controller.clock())
    await controller.rounds.run("n")
    assert controller.cluster.bodies[0]["metadata"]["annotations"][PROCESSOR_TARGET] is None


async def test_only_a_round_that_decides_counts_as_the_last_round() -> None:
    controller = Controller()
    controller.state.put_node(report(TODAY, size="1024Ei"), controller.clock())
    await controller.rounds.run("n")
    assert (controller.counted("rounds"), controller.rounds.last_decided_at) == ({"failed": 1}, None)
    controller.state.put_node(report(TODAY, version=2), controller.clock())
    controller.clock.now += SILENT_AFTER + 1
    await controller.rounds.run("n")
    await controller.rounds.run("gone")
    assert (controller.counted("rounds"), controller.rounds.last_decided_at) == ({"failed": 1, "silent": 1}, None)
    controller.state.put_node(report(TODAY + timedelta(seconds=1), version=3), controller.clock())
    await controller.rounds.run("n")
    assert controller.counted("rounds") == {"failed": 1, "silent": 1, "decided": 1}
    assert controller.rounds.last_decided_at is not None


class FakeRecorder:
    """A FakeRecorder keeps the events that it is to post."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str, str, bool]] = []

    async def post(self, about: ObjectReference, reason: str, note: str, *, action: str, warning: bool = False) -> None:
        """Keep an event."""
        assert action
        self.posted.append((f"{about.kind}/{about.name}", reason, note, warning))


@pytest.mark.parametrize(("reason", "warned"), [("Migrating", []), ("Unresponsive", ["Unresponsive"])])
async def test_a_driver_that_does_not_follow_is_warned_of_and_a_migration_is_not(
    reason: str, warned: list[str]
) -> None:
    recorder = FakeRecorder()
    controller = Controller(recorder=recorder)
    steps: list[dict[str, Any]] = [{}, {"responsive": False, "reason": reason}]
    for version, fields in enumerate(steps, start=1):
        controller.state.put_node(report(TODAY, version=version, **fields), controller.clock())
        await controller.rounds.run("n")
    assert [event for _, event, _, warning in recorder.posted if warning] == warned
    (counts,) = count_policies(controller.state, controller.state.memory).values()
    assert counts.vms.unresponsive == (["shop/vm-0"] if warned else [])


async def test_a_vm_that_is_named_for_what_it_says_has_an_event_from_its_first_report_on_and_once() -> None:
    recorder = FakeRecorder()
    controller = Controller(recorder=recorder)
    unreadable = {"reason": "BadReport", "message": "its object cannot be read", "eligible": False, "size": "0"}
    garbled = {"size": 2, "reason": "GuestAgentGarbled", "responsive": False}
    steps: list[dict[str, Any]] = [unreadable, unreadable, {"processors": garbled}, {}, unreadable]
    for version, fields in enumerate(steps, start=1):
        controller.state.put_node(report(TODAY, version=version, **fields), controller.clock())
        await controller.rounds.run("n")
    named = ("VirtualMachineInstance/vm-0", "BadReport", "its object cannot be read", True)
    agent = ("VirtualMachineInstance/vm-0", "GuestAgentGarbled", AgentReason.GUEST_AGENT_GARBLED.meaning, True)
    assert [event for event in recorder.posted if event[1] in list(AgentReason)] == [named, agent, named]


async def test_a_node_s_change_of_state_is_posted_as_an_event() -> None:
    recorder = FakeRecorder()
    controller = Controller(recorder=recorder)
    for version, state in enumerate(["Critical", "Critical", "Tight", "Ample", "Scarce"], start=1):
        body = report(TODAY, version=version)
        body["status"]["state"] = state
        controller.state.put_node(body, controller.clock())
        await controller.rounds.run("n")
    events = [each for each in recorder.posted if each[0] == "Node/n" and each[1].startswith("Memory")]
    assert [(reason, warning) for _, reason, _, warning in events] == [
        ("MemoryTight", False),
        ("MemoryAmple", False),
        ("MemoryScarce", True),
    ]
    assert events[-1][2] == "from Ample to Scarce: 100 MiB of 400 MiB are available"


class HangingEvents:
    """A HangingEvents is an API server that takes events and never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def create(self, path: str, body: Object) -> Object:
        """Take an event."""
        assert path
        assert body
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError("an event that nobody sets was set")


async def test_a_hanging_events_api_delays_no_round() -> None:
    events: Any = HangingEvents()
    controller = Controller(recorder=EventRecorder(events, "test"))
    for version, need in enumerate([100, 500, 100], start=1):
        body = report(TODAY, vms=30, version=version, need=str(need * MIB))
        body["status"]["state"] = "Ample" if version == 1 else "Critical"
        controller.state.put_node(body, controller.clock())
        async with asyncio.timeout(60):
            await controller.rounds.run("n")
    assert controller.counted("rounds") == {"decided": 3}
    await soon(lambda: events.asked, 10)
    assert len(controller.cluster.patches) >= 30


async def test_a_policy_over_1200_vms_leaves_two_event_objects_of_each_however_often_it_reclaims_and_returns() -> None:
    events = FakeEvents()
    api: Any = events
    recorder = EventRecorder(api, "test")
    controller = Controller(recorder=recorder)
    nodes, flips = [f"n{number}" for number in range(24)], 3
    for version in range(1, 2 * flips + 2):
        short = version % 2 == 0
        for node in nodes:
            body = report(TODAY + timedelta(minutes=version), vms=50, version=version, node=node)
            for vm in body["status"]["virtualMachines"]:
                vm |= {"uid": f"{node}-{vm['uid']}", "name": f"{node}-{vm['name']}"}
            body["status"]["memory"]["total"] = str(50 * (400 if short else 1024) * MIB)
            controller.state.put_node(body, controller.clock())
            await controller.rounds.run(node)
        controller.clock.now += 60
        await soon(partial(has_written, recorder, 1200 * (version - 1)), 60)
    found = Counter(event["reason"] for event in events.objects.values())
    assert found == {"MemoryReclaimed": 1200, "MemoryReturned": 1200}
    assert {event["series"]["count"] for event in events.objects.values()} == {flips}
    assert recorder.results[EventResult.DROPPED] == 0


async def test_a_report_that_names_another_node_s_vm_changes_nothing_on_it_and_is_named() -> None:
    recorder = FakeRecorder()
    controller = Controller(recorder=recorder)
    controller.state.put_node(report(TODAY), controller.clock())
    await controller.rounds.run("n")
    (body,) = controller.cluster.bodies
    request = body["metadata"]["annotations"]
    written = {"target": request[MEMORY_TARGET], "min": request[MEMORY_MIN], "policy": request[POLICY]}
    controller.cluster.homes["u0"] = "n"
    for beat in range(1, 10):
        controller.clock.now += 15
        moment = TODAY + timedelta(seconds=15 * beat)
        forged = report(moment, version=beat, node="forger", target=str(MIB * beat), policy="all", need="512Mi")
        controller.state.put_node(forged, controller.clock())
        honest = report(moment, version=beat + 1, actual=written["target"], **written)
        controller.state.put_node(honest, controller.clock())
        for name in ("forger", "n"):
            await controller.rounds.run(name)
    assert len(controller.cluster.bodies) == 1, "the request that its own node's report led to"
    assert controller.counted("patches")["mismatched"] < 2 * 9, "the pauses between attempts grow"
    assert controller.rounds.results["forger"].misreported == ["shop/vm-0"]
    assert controller.rounds.results["n"].misreported == []
    named = [(about, note) for about, reason, note, _ in recorder.posted if reason == "Misreported"]
    assert [about for about, _ in named] == ["Node/forger"]
    assert named[0][1].endswith("shop/vm-0")
    counts = count_policies(controller.state, controller.state.memory)["all"]
    policy = controller.state.memory.policies["all"].resource
    status = policy_status(MEMORY, policy, counts, controller.rounds.results, TODAY)
    (degraded,) = (condition for condition in status.conditions if condition.type == "Degraded")
    assert degraded.reason == "Misreported"
    assert degraded.message == "forger reports VMs that it does not run: shop/vm-0"


async def test_a_node_that_names_other_vms_each_time_is_soon_not_written_for_any_more_and_is_named() -> None:
    recorder = FakeRecorder()
    controller = Controller(recorder=recorder)
    controller.cluster.homes = {f"{beat}-{index}": "elsewhere" for beat in range(5) for index in range(100)}
    for beat in range(5):
        controller.clock.now += 1
        forged = report(TODAY + timedelta(seconds=beat), vms=100, version=beat + 1, node="forger")
        for index, vm in enumerate(forged["status"]["virtualMachines"]):
            vm["uid"] = f"{beat}-{index}"
        forged["status"]["state"] = "Critical"
        controller.state.put_node(forged, controller.clock())
        await controller.rounds.run("forger")
        empty = report(TODAY, vms=0, version=beat + 1, node="forger")
        controller.state.put_node(empty, controller.clock())
        await controller.rounds.run("forger")
    assert controller.counted("patches")["mismatched"] <= 64 + CONCURRENT_PATCHES
    assert len(controller.rounds.results["forger"].misreported) == 1
    named = [note for _, reason, note, _ in recorder.posted if reason == "Misreported"]
    assert len(named) == 1
    assert "shop/vm-" in named[0]
    controller.clock.now += 120
    controller.cluster.homes = {}
    controller.state.put_node(report(TODAY + timedelta(1), version=9, node="forger"), controller.clock())
    await controller.rounds.run("forger")
    assert controller.counted("patches")["written"] == 1, "once it reports its own VMs, they are written on again"
    assert controller.rounds.results["forger"].misreported == []


async def test_a_report_whose_vms_change_all_the_time_leaves_room_for_other_nodes_events(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = FakeRecorder()
    controller = Controller(recorder=recorder)
    for beat in range(6):
        controller.clock.now += 1
        forged = report(TODAY + timedelta(seconds=beat), vms=200, version=beat + 1, responsive=not beat % 2)
        controller.state.put_node(forged, controller.clock())
        await controller.rounds.run("n")
    about_vms = [reason for about, reason, *_ in recorder.posted if about.startswith("VirtualMachineInstance/")]
    assert 200 <= len(about_vms) <= 256 + 6
    assert caplog.text.count("n: too many events about its VMs") == 1


async def test_no_node_s_write_waits_behind_all_that_another_node_s_report_names() -> None:
    controller = Controller(recorder=FakeRecorder())
    for node, vms in (("large", 200), ("small", 1)):
        body = report(TODAY, vms=vms, node=node)
        body["status"]["state"] = "Critical"
        for vm in body["status"]["virtualMachines"]:
            vm |= {"uid": f"{node}-{vm['uid']}", "name": f"{node}-{vm['name']}"}
        controller.state.put_node(body, controller.clock())
    await asyncio.gather(*map(controller.rounds.run, ("large", "small")))
    written = controller.cluster.patches
    assert len(written) == 201
    place = next(index for index, path in enumerate(written) if path.endswith("small-vm-0"))
    assert place <= 2 * CONCURRENT_PATCHES


async def test_a_vm_that_has_just_left_its_node_is_not_held_against_the_agent() -> None:
    controller = Controller(recorder=FakeRecorder())
    controller.cluster.homes["u0"] = "next"
    controller.state.put_node(report(TODAY), controller.clock())
    for _ in range(4):
        await controller.rounds.run("n")
        controller.clock.now += 15
    assert controller.rounds.results["n"].misreported == []
    body = report(TODAY + timedelta(seconds=60), vms=0, version=2)
    controller.state.put_node(body, controller.clock())
    await controller.rounds.run("n")
    assert controller.rounds.results["n"].misreported == []


@pytest.mark.parametrize("name", ["../../../../../api/v1/namespaces/x", "a/b", "a?b", "A", ".", "..", ""])
def test_a_report_with_a_name_that_no_vm_can_have_is_not_read(name: str) -> None:
    state = ClusterState()
    for field in ("namespace", "name"):
        body = report(TODAY)
        body["status"]["virtualMachines"][0][field] = name
        assert not state.put_node(body, 0.0)
    assert state.nodes == {}


@pytest.mark.parametrize(
    ("refusal", "result"),
    [(None, "written"), (NotFoundError("gone"), "gone"), (ApiError("no"), "failed")],
    ids=["written", "gone", "failed"],
)
async def test_statuses_are_counted_by_result(refusal: ApiError | None, result: str) -> None:
    controller = Controller()
    controller.cluster.refusal = refusal
    running = asyncio.create_task(controller.scheduler.run())
    await soon(lambda: controller.counted("statuses"), 10)
    running.cancel()
    assert controller.counted("statuses") == {result: 1}


def test_all_policies_of_equal_priority_are_in_conflict() -> None:
    state = ClusterState(utc_now=lambda: TODAY)
    for name in ("a", "b", "c", "d"):
        state.memory.put(memory_policy(name))
    state.memory.put(memory_policy("low", priority=-1))
    state.put_node(report(TODAY), 0.0)
    counts = count_policies(state, state.memory)
    conflicts = {}
    for name, policy in state.memory.policies.items():
        conditions = policy_status(MEMORY, policy.resource, counts[name], {}, TODAY).conditions
        (conflicts[name],) = (each for each in conditions if each.type == "Conflicted")
    assert {name: each.status for name, each in conflicts.items()} == dict.fromkeys("abcd", "True") | {"low": "False"}
    assert conflicts["c"].message.endswith("at the same priority by a, b, d; a governs them")


def test_dedicated_processors_are_known_by_the_agent_s_reason() -> None:
    dedicated = {"size": 8, "eligible": False, "reason": "DedicatedCPU", "message": "it has dedicated CPUs"}
    body = report(TODAY, processors=dedicated)
    body["status"]["processors"] = {"count": 16}
    status = NodePressure.model_validate(body).status
    assert status is not None
    node = processor_node("n", status, lambda _: None, {"u0": TargetInForce(None)})
    assert node is not None
    assert node.vms[0].dedicated


@pytest.mark.parametrize(
    ("method", "resident", "held"),
    [("GuestAgent", 512, 502), ("GuestAgent", 300, 290), ("GuestAgent", 100, 200), ("Balloon", 512, 200)],
)
def test_memory_that_a_guest_program_claims_counts_once_the_node_has_regained_it(
    method: str, resident: int, held: int
) -> None:
    body = report(TODAY, actual="200Mi", claimed="312Mi", method=method, resident=f"{resident}Mi", overhead="10Mi")
    status = NodePressure.model_validate(body).status
    assert status is not None
    (vm,) = status.virtual_machines
    assert memory_vm(vm, None).actual == held * MIB
    assert MEMORY.reclaimed(vm) == (512 - held) * MIB


_GOLD = {"virtualMachineSelector": {"matchLabels": {"tier": "gold"}}}
_TEAM = {"namespaceSelector": {"matchLabels": {"team": "shop"}}}


@pytest.mark.parametrize(
    ("spec", "warned"),
    [
        ({"selector": _GOLD, "memory": {"shares": 2000}}, True),
        ({"selector": _GOLD, "memory": {"min": "100%"}}, True),
        ({"selector": _GOLD, "memory": {"min": "4Gi"}}, True),
        ({"selector": {**_GOLD, **_TEAM}, "memory": {"shares": 2000}}, False),
        ({"selector": _GOLD, "memory": {"shares": 500, "min": "25%"}}, False),
        ({"selector": _GOLD}, False),
        ({"selector": {}, "memory": {"shares": 2000}}, False),
    ],
)
def test_a_policy_that_gives_more_by_labels_alone_is_called_self_service(spec: dict[str, Any], warned: bool) -> None:  # noqa: FBT001 - a parameter
    state = ClusterState(utc_now=lambda: TODAY)
    state.memory.put(memory_policy("gold", **spec))
    policy = state.memory.policies["gold"].resource
    conditions = policy_status(MEMORY, policy, count_policies(state, state.memory)["gold"], {}, TODAY).conditions
    (found,) = (each for each in conditions if each.type == "SelfService")
    assert (found.status == "True") is warned
