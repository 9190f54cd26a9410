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
from kubeballoon.agent.timing import DEFAULT_TIMING
from kubeballoon.api.names import EXCLUDE
from kubeballoon.api.quantity import parse_quantity
from tests.agent.field import GUESTS, MINIMUM, SIZE, Field
from tests.support.patience import eventually
from tests.support.waiting import throughout

pytestmark = [pytest.mark.cluster, pytest.mark.guest]

POLL = DEFAULT_TIMING.memory.poll
LOAD = 180  # MiB; with its kernel more than a guest has at rest
LOADED = (LOAD - 40) * MIB  # what the guest then works with at the least, and never at rest: some of it may be swapped


@pytest.fixture(scope="module")
def whole(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with Field(installed, "fault-node", 1750 * MIB, tmp_path_factory.mktemp("field")) as made:
        yield made
        for command in (made.agent, made.running):
            assert command.process.poll() is None
            assert "Traceback" not in command.said()


@pytest.fixture
def field(whole: Field) -> Iterator[Field]:
    """The field at rest, before a test and after it."""
    eventually(lambda: not has_its_load(whole), tell=whole.reports)
    whole.rest()
    whole.trim()
    whole.rest()
    yield whole
    whole.guest("busy").load.set(0)
    whole.rest()
    assert whole.unharmed()


@dataclass(frozen=True)
class Fault:
    """What is done to the guest, and the reason with which it is then reported."""

    inflict: Callable[[Field], AbstractContextManager[object]]
    reason: str


FAULTS = {
    "its QEMU hangs": Fault(lambda field: field.guest("faulty").hung(), "Hung"),
    "its libvirt daemon hangs": Fault(lambda field: field.guest("faulty").hung_daemon(), "Hung"),
    "its libvirt socket vanishes": Fault(lambda field: field.guest("faulty").without_socket(), "Unreachable"),
    "connections to its libvirt never open": Fault(lambda field: field.guest("faulty").mute_socket(), "Hung"),
    "it is paused": Fault(lambda field: field.guest("faulty").paused(), "Paused"),
    "its driver stops reporting": Fault(lambda field: field.guest("faulty").without_driver(), "StatisticsStale"),
    "it migrates": Fault(lambda field: field.migrating("faulty"), "Migrating"),
    "its memory is resized": Fault(lambda field: field.resized("faulty"), "MemoryHotplug"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_told_by_its_reason_and_harms_nobody(field: Field, fault: Fault) -> None:
    busy = field.guest("busy")
    with fault.inflict(field):
        busy.load.set(LOAD)
        eventually(lambda: field.reason("faulty") == fault.reason)
        eventually(lambda: has_its_load(field) and are_well(field, "steady", "busy"), tell=field.reports)
        begun = time.time()
        others = {"busy", "steady", "driverless"}
        eventually(
            lambda: all(field.sample_times()[name] > begun + POLL for name in others), 2 * POLL + 4, field.sample_times
        )
    eventually(lambda: field.reason("faulty") is None)


def test_a_guest_without_a_driver_is_reported_and_harms_nobody(field: Field) -> None:
    field.guest("busy").load.set(LOAD)
    eventually(lambda: has_its_load(field), tell=field.reports)
    eventually(lambda: field.reason("driverless") == "NoDriver", tell=field.reports)


def test_a_guest_whose_pages_are_pinned_is_reported_has_them_back_and_harms_nobody(field: Field) -> None:
    spec = GuestSpec(name="pinned", memory_bytes=192 * MIB, discardable=False)
    with field.without_controller(), field.beside(spec) as pinned:
        for used in (100, 0):  # what a guest never used is not seen to stay with its process
            pinned.load.set(used)
        eventually(lambda: field.reports().get("pinned", {}).get("need"), tell=field.reports)
        field.annotate("pinned", memory_target="110Mi", memory_min="96Mi", policy=field.lab.name)
        field.guest("busy").load.set(LOAD)
        eventually(lambda: field.reason("pinned") == "BalloonIneffective", tell=field.reports)
        eventually(lambda: pinned.actual_bytes() == spec.memory_bytes)
        eventually(lambda: has_its_load(field), tell=field.reports)


def test_an_agent_that_is_killed_moves_no_balloon_and_helps_again(field: Field) -> None:
    before = field.held()
    field.restart_agent()
    field.guest("busy").load.set(LOAD)
    eventually(lambda: has_its_load(field), tell=field.reports)
    assert field.held() <= before + SIZE, "nobody else was given anything"


def test_a_daemon_that_is_killed_is_found_again(field: Field) -> None:
    field.guest("busy").kill_daemon()
    field.guest("busy").load.set(LOAD)
    eventually(lambda: field.reports()["busy"].get("reason") is None)
    eventually(lambda: has_its_load(field), tell=field.reports)


def test_statistics_that_another_client_ended_are_begun_again(field: Field) -> None:
    faulty = field.guest("faulty")
    faulty.set_statistics_period(0)
    eventually(lambda: faulty.statistics_period() == 1)
    eventually(lambda: field.reason("faulty") is None)


def test_a_guest_in_trouble_is_helped_without_the_controller(field: Field) -> None:
    with field.without_controller():
        busy = field.guest("busy")
        before = busy.actual_bytes()
        busy.load.set(LOAD)
        eventually(lambda: busy.load.touch(LOAD) and busy.actual_bytes() > before + 16 * MIB)
        eventually(lambda: field.reports()["busy"].get("emergencyTarget"), tell=field.reports)
    eventually(lambda: not field.reports()["busy"].get("emergencyTarget"))


def test_a_node_in_trouble_is_helped_without_the_controller(field: Field) -> None:
    with field.without_controller():
        before = field.held()
        with field.short():
            eventually(lambda: field.held() < before - 8 * MIB)
            throughout(lambda: all(pod.actual_bytes() >= MINIMUM - MIB for pod in field.lab.pods.values()), 2)
            assert not field.lab.oom_kills()


def test_an_agent_that_is_restarted_keeps_its_emergency_targets(field: Field) -> None:
    with field.without_controller():
        before = field.held()
        with field.short():
            eventually(lambda: field.held() < before - 8 * MIB)
            eventually(lambda: any(report.get("emergencyTarget") for report in field.reports().values()))
            field.restart_agent()
            lowered = {name: field.guest(name).actual_bytes() for name in GUESTS}
            eventually(lambda: all(field.reports()[name].get("need") for name in GUESTS), tell=field.reports)
            held = field.held()

            def allowed() -> int:
                """Sum up what they may hold, bytes: what they held, or more for a guest that was helped meanwhile."""
                targets = {name: parse_quantity(field.reports()[name].get("emergencyTarget", "0")) for name in GUESTS}
                return sum(max(lowered[name], targets[name]) for name in GUESTS)

            eventually(lambda: held <= allowed() + 4 * MIB, tell=lambda: (held, lowered, field.reports()))


def test_forged_requests_do_not_take_a_guest_below_its_policy_s_minimum(field: Field) -> None:
    name = max(GUESTS, key=lambda name: field.guest(name).actual_bytes())  # it has the most to give
    guest = field.guest(name)
    with field.without_controller():
        before = guest.actual_bytes()
        field.annotate(name, memory_target="1Mi", memory_min="1Mi")
        # How far it falls depends on the guest.
        eventually(lambda: guest.actual_bytes() < before - 8 * MIB, tell=field.reports)
        throughout(lambda: guest.actual_bytes() >= MINIMUM - MIB, 3)


def test_without_an_api_server_guests_are_still_helped(field: Field) -> None:
    plane = field.plane
    if not isinstance(plane, LocalControlPlane):
        pytest.fail("this test stops the API server, which only a control plane of its own allows")
    with field.without_controller(), plane.silent():
        busy = field.guest("busy")
        before = busy.actual_bytes()
        busy.load.set(LOAD)
        eventually(lambda: busy.load.touch(LOAD) and busy.actual_bytes() > before + 16 * MIB)


def test_a_vm_that_is_restarted_is_served_again(field: Field) -> None:
    os.kill(field.guest("faulty").qemu_pid, signal.SIGKILL)
    eventually(lambda: field.reason("faulty") == "Unreachable")
    spec = field.guest("faulty").spec
    pod = field.lab.start(spec)
    field.plane.kubectl("delete", "vmi", spec.name)
    field.present(pod)
    field.guest("busy").load.set(LOAD)
    pod.wait_ready()
    eventually(lambda: field.reports()["faulty"].get("need"), tell=field.reports)
    eventually(lambda: has_its_load(field) and are_well(field, "faulty"), tell=field.reports)


def test_an_excluded_vm_has_its_memory_back_and_harms_nobody(field: Field) -> None:
    field.patch("faulty", {"metadata": {"annotations": {EXCLUDE: "true"}}})
    try:
        field.guest("busy").load.set(LOAD)
        eventually(lambda: field.guest("faulty").actual_bytes() == SIZE)
        eventually(lambda: "target" not in field.reports()["faulty"])
        eventually(lambda: has_its_load(field) and are_well(field, "steady", "busy"), tell=field.reports)
    finally:
        field.patch("faulty", {"metadata": {"annotations": {EXCLUDE: None}}})


def test_deleting_the_policy_gives_all_memory_back(field: Field) -> None:
    policy = field.plane.kubectl("get", "mempol", field.lab.name, "--output=yaml")
    field.plane.kubectl("delete", "mempol", field.lab.name)
    try:
        eventually(lambda: field.held() == len(GUESTS) * SIZE)
    finally:
        field.plane.kubectl("create", "--filename=-", stdin=policy)


def are_well(field: Field, *names: str) -> bool:
    """Whether the guests are reported, and without a reason."""
    reports = field.reports()
    return all(reports[name].get("reason") is None for name in names)


def has_its_load(field: Field) -> bool:
    """Whether the busy guest works with its load, holds what it needs for that, and is well."""
    report = field.reports()["busy"]
    need = parse_quantity(report.get("need", "0"))
    return LOADED < need <= field.guest("busy").actual_bytes() and not report["troubled"]
