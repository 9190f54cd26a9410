"""A fault on one guest, or on what is around it, while the load of the others changes: real guests, real daemons."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest

from hack.testbed.controlplane import ControlPlane, LocalControlPlane
from hack.testbed.lab import MIB, GuestSpec
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from kubeballoon.api.names import EXCLUDE
from kubeballoon.api.quantity import parse_quantity
from tests.agent.node_under_test import GUESTS, MINIMUM, SIZE, NodeUnderTest
from tests.support.waiting import eventually, throughout

pytestmark = [pytest.mark.cluster, pytest.mark.guest]

POLL = DEFAULT_TIMING.memory.poll
LOAD = 180  # MiB; with its kernel more than a guest has at rest
LOADED = (LOAD - 40) * MIB  # what the guest then works with at the least, and never at rest: some of it may be swapped


@pytest.fixture(scope="module")
def started(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    with NodeUnderTest(installed, "fault-node", 1750 * MIB, tmp_path_factory.mktemp("node")) as made:
        yield made
        for command in (made.agent, made.running_controller):
            assert command.process.poll() is None
            assert "Traceback" not in command.output()


@pytest.fixture
def node(started: NodeUnderTest) -> Iterator[NodeUnderTest]:
    """The node at rest, before a test and after it."""
    eventually(lambda: not has_its_load(started), tell=started.reports)
    started.await_rest()
    started.restore_capacity()
    started.await_rest()
    yield started
    started.guest("busy").load.set(0)
    started.await_rest()
    assert started.is_unharmed()


@dataclass(frozen=True)
class Fault:
    """What is done to the guest, and the reason it is then reported with."""

    inflict: Callable[[NodeUnderTest], AbstractContextManager[object]]
    reason: str


FAULTS = {
    "its QEMU hangs": Fault(lambda node: node.guest("faulty").hung(), "Hung"),
    "its libvirt daemon hangs": Fault(lambda node: node.guest("faulty").hung_daemon(), "Hung"),
    "its libvirt socket vanishes": Fault(lambda node: node.guest("faulty").without_socket(), "Unreachable"),
    "connections to its libvirt never open": Fault(lambda node: node.guest("faulty").unanswered_socket(), "Hung"),
    "it is paused": Fault(lambda node: node.guest("faulty").paused(), "Paused"),
    "its driver stops reporting": Fault(lambda node: node.guest("faulty").without_driver(), "StatisticsStale"),
    "it migrates": Fault(lambda node: node.migrating("faulty"), "Migrating"),
    "its memory is resized": Fault(lambda node: node.resized("faulty"), "MemoryHotplug"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_told_by_its_reason_and_harms_nobody(node: NodeUnderTest, fault: Fault) -> None:
    busy = node.guest("busy")
    with fault.inflict(node):
        busy.load.set(LOAD)
        eventually(lambda: node.reason("faulty") == fault.reason)
        eventually(lambda: has_its_load(node) and are_well(node, "steady", "busy"), tell=node.reports)
        begun = time.time()
        others = {"busy", "steady", "driverless"}
        sampled = node.sampled_at
        eventually(lambda: all(sampled()[name] > begun + POLL for name in others), 2 * POLL + 4, sampled)
    eventually(lambda: node.reason("faulty") is None)


def test_a_guest_without_a_driver_is_told_and_harms_nobody(node: NodeUnderTest) -> None:
    node.guest("busy").load.set(LOAD)
    eventually(lambda: has_its_load(node), tell=node.reports)
    eventually(lambda: node.reason("driverless") == "NoDriver", tell=node.reports)


def test_a_guest_whose_pages_are_pinned_is_told_has_them_back_and_harms_nobody(node: NodeUnderTest) -> None:
    spec = GuestSpec(name="pinned", memory_bytes=192 * MIB, discardable=False)
    with node.without_controller(), node.extra_guest(spec) as pinned:
        for used in (100, 0):  # what a guest never used is not seen to stay with its process
            pinned.load.set(used)
        eventually(lambda: node.reports().get("pinned", {}).get("need"), tell=node.reports)
        node.annotate("pinned", memory_target="110Mi", memory_min="96Mi", policy=node.lab.name)
        node.guest("busy").load.set(LOAD)
        eventually(lambda: node.reason("pinned") == "BalloonIneffective", tell=node.reports)
        eventually(lambda: pinned.actual_bytes() == spec.memory_bytes)
        eventually(lambda: has_its_load(node), tell=node.reports)


def test_an_agent_that_is_killed_moves_no_balloon_and_helps_again(node: NodeUnderTest) -> None:
    before = node.guest_memory()
    node.restart_agent()
    node.guest("busy").load.set(LOAD)
    eventually(lambda: has_its_load(node), tell=node.reports)
    assert node.guest_memory() <= before + SIZE, "nobody else was given anything"


def test_a_daemon_that_is_killed_is_found_again(node: NodeUnderTest) -> None:
    node.guest("busy").kill_daemon()
    node.guest("busy").load.set(LOAD)
    eventually(lambda: node.reports()["busy"].get("reason") is None)
    eventually(lambda: has_its_load(node), tell=node.reports)


def test_statistics_that_another_client_ended_are_begun_again(node: NodeUnderTest) -> None:
    faulty = node.guest("faulty")
    faulty.set_statistics_period(0)
    eventually(lambda: faulty.statistics_period() == 1)
    eventually(lambda: node.reason("faulty") is None)


def test_a_guest_in_trouble_is_helped_without_the_controller(node: NodeUnderTest) -> None:
    with node.without_controller():
        busy = node.guest("busy")
        before = busy.actual_bytes()
        busy.load.set(LOAD)
        eventually(lambda: busy.load.touch(LOAD) and busy.actual_bytes() > before + 16 * MIB)
        eventually(lambda: node.reports()["busy"].get("emergencyTarget"), tell=node.reports)
    eventually(lambda: not node.reports()["busy"].get("emergencyTarget"))


def test_a_node_in_trouble_is_helped_without_the_controller(node: NodeUnderTest) -> None:
    with node.without_controller():
        before = node.guest_memory()
        with node.short():
            eventually(lambda: node.guest_memory() < before - 8 * MIB)
            throughout(lambda: all(pod.actual_bytes() >= MINIMUM - MIB for pod in node.lab.pods.values()), 2)
            assert not node.lab.oom_kills()


def test_an_agent_that_is_restarted_keeps_to_what_it_decided_on_its_own(node: NodeUnderTest) -> None:
    with node.without_controller():
        before = node.guest_memory()
        with node.short():
            eventually(lambda: node.guest_memory() < before - 8 * MIB)
            eventually(lambda: any(report.get("emergencyTarget") for report in node.reports().values()))
            node.restart_agent()
            lowered = {name: node.guest(name).actual_bytes() for name in GUESTS}
            eventually(lambda: all(node.reports()[name].get("need") for name in GUESTS), tell=node.reports)
            held = node.guest_memory()

            def decided() -> int:
                """What they may hold, bytes: no more than before, but for a guest that needed help meanwhile."""
                targets = {name: parse_quantity(node.reports()[name].get("emergencyTarget", "0")) for name in GUESTS}
                return sum(max(lowered[name], targets[name]) for name in GUESTS)

            eventually(lambda: held <= decided() + 4 * MIB, tell=lambda: (held, lowered, node.reports()))


def test_forged_requests_do_not_take_a_guest_below_its_policy_s_minimum(node: NodeUnderTest) -> None:
    name = max(GUESTS, key=lambda name: node.guest(name).actual_bytes())  # it has the most to give
    guest = node.guest(name)
    with node.without_controller():
        before = guest.actual_bytes()
        node.annotate(name, memory_target="1Mi", memory_min="1Mi")
        # How far is the guest's own matter.
        eventually(lambda: guest.actual_bytes() < before - 8 * MIB, tell=node.reports)
        throughout(lambda: guest.actual_bytes() >= MINIMUM - MIB, 3)


def test_without_an_api_server_guests_are_still_helped(node: NodeUnderTest) -> None:
    plane = node.plane
    if not isinstance(plane, LocalControlPlane):
        pytest.fail("this test stops the API server, which only a control plane of its own allows")
    with node.without_controller(), plane.silent():
        busy = node.guest("busy")
        before = busy.actual_bytes()
        busy.load.set(LOAD)
        eventually(lambda: busy.load.touch(LOAD) and busy.actual_bytes() > before + 16 * MIB)


def test_a_vm_that_is_restarted_is_taken_up_anew(node: NodeUnderTest) -> None:
    os.kill(node.guest("faulty").qemu_pid, signal.SIGKILL)
    eventually(lambda: node.reason("faulty") == "Unreachable")
    spec = node.guest("faulty").spec
    pod = node.lab.start(spec)
    node.plane.kubectl("delete", "vmi", spec.name)
    node.create_vmi(pod)
    node.guest("busy").load.set(LOAD)
    pod.wait_ready()
    eventually(lambda: node.reports()["faulty"].get("need"), tell=node.reports)
    eventually(lambda: has_its_load(node) and are_well(node, "faulty"), tell=node.reports)


def test_an_excluded_vm_has_its_memory_back_and_harms_nobody(node: NodeUnderTest) -> None:
    node.patch("faulty", {"metadata": {"annotations": {EXCLUDE: "true"}}})
    try:
        node.guest("busy").load.set(LOAD)
        eventually(lambda: node.guest("faulty").actual_bytes() == SIZE)
        eventually(lambda: "target" not in node.reports()["faulty"])
        eventually(lambda: has_its_load(node) and are_well(node, "steady", "busy"), tell=node.reports)
    finally:
        node.patch("faulty", {"metadata": {"annotations": {EXCLUDE: None}}})


def test_deleting_the_policy_gives_all_memory_back(node: NodeUnderTest) -> None:
    policy = node.plane.kubectl("get", "mempol", node.lab.name, "--output=yaml")
    node.plane.kubectl("delete", "mempol", node.lab.name)
    try:
        eventually(lambda: node.guest_memory() == len(GUESTS) * SIZE)
    finally:
        node.plane.kubectl("create", "--filename=-", stdin=policy)


def are_well(node: NodeUnderTest, *names: str) -> bool:
    """Whether the guests are reported, and without a reason."""
    reports = node.reports()
    return all(reports[name].get("reason") is None for name in names)


def has_its_load(node: NodeUnderTest) -> bool:
    """Whether the busy guest works with its load, holds what it needs for that, and is well."""
    report = node.reports()["busy"]
    need = parse_quantity(report.get("need", "0"))
    return LOADED < need <= node.guest("busy").actual_bytes() and not report["troubled"]
