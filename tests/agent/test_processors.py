"""Processors reclaimed and given back: by a fake that does as the test says, and by real guests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import GuestSpec, LabNode, LauncherPod
from hack.testbed.lab.fakes import FakeGuestControl
from kubeballoon.agent.hypervisor.errors import GuestAgentError, HypervisorError
from kubeballoon.agent.hypervisor.qemu_guest_agent import GuestAgent
from kubeballoon.agent.vm.guest_processors import GuestProcessors
from kubeballoon.agent.vm.vmi import InstanceProcessors
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import ProcessorMethod, ProcessorReport
from tests.support.cluster import condition, get, processor_policy
from tests.support.guests import booted, refuse
from tests.support.processes import agent, controller
from tests.support.reports import annotate, presented, reported
from tests.support.waiting import SLOW, Clock, eventually, throughout

TIMING = DEFAULT_TIMING.processors
RETRY = DEFAULT_TIMING.guest_agent.retry.shortest
ABSENT = GuestAgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest runs no QEMU guest agent")
DRIVER = ProcessorMethod.DRIVER
GUEST_AGENT = ProcessorMethod.GUEST_AGENT


@dataclass
class Fixture:
    """Processors of a fake, which are looked at as often as the test says."""

    control: FakeGuestControl
    clock: Clock
    processors: GuestProcessors
    request: InstanceProcessors

    async def look(self, times: int = 3, **changes: object) -> None:
        """Look ``times`` times, a second apart, after the request has changed."""
        self.request = replace(self.request, **changes)  # type: ignore[arg-type]  # named as the fields are
        for _ in range(times):
            self.clock.now += 1
            await self.processors.advance(self.control, self.request)

    @property
    def used(self) -> int:
        """How many processors the guest uses."""
        return sum(self.control.online.values())

    @property
    def reason(self) -> str | None:
        """Why the VM does not have what is requested, in one word."""
        return None if self.processors.view.problem is None else self.processors.view.problem[0]


@pytest.fixture
def vm() -> Fixture:
    control, clock = FakeGuestControl(), Clock()
    guest_agent = GuestAgent(clock)
    guest_agent.control = control
    return Fixture(control, clock, GuestProcessors(guest_agent, control, clock), InstanceProcessors(size=4))


async def test_the_guest_takes_the_last_processors_offline_and_brings_them_back(vm: Fixture) -> None:
    await vm.look(target=1)
    assert vm.control.online == {0: True, 1: False, 2: False, 3: False}
    assert vm.processors.view.online == 1
    await vm.look(target=3)
    assert vm.used == 3
    await vm.look(target=None)
    assert vm.used == 4
    assert vm.reason is None


async def test_a_guest_that_rebooted_is_asked_again(vm: Fixture) -> None:
    await vm.look(target=2)
    vm.control.online = dict.fromkeys(range(4), True)
    await vm.look()
    assert vm.used == 2


async def test_only_processors_that_the_guest_offers_are_reclaimed_and_never_the_first(vm: Fixture) -> None:
    vm.control.fixed = frozenset({1, 2})
    await vm.look(target=1)
    assert vm.control.online == {0: True, 1: True, 2: True, 3: False}
    assert vm.reason == "NotOfflinable"


@pytest.mark.parametrize("target", [0, -3])
async def test_a_forged_request_leaves_one(vm: Fixture, target: int) -> None:
    await vm.look(target=target)
    assert vm.used == 1


async def test_one_that_must_be_left_alone_is_left_alone(vm: Fixture) -> None:
    await vm.look(target=1, ineligibility=Problem.of(AgentReason.DEDICATED_CPU))
    await vm.look(target=1, ineligibility=None, fault="annotation x: no")
    assert vm.used == 4


async def test_the_driver_unplugs_one_by_one_and_plugs_in_again(vm: Fixture) -> None:
    await vm.look(times=8, target=1, method=DRIVER)
    assert vm.control.unplugged == ["vcpu3", "vcpu2", "vcpu1"]
    assert vm.processors.view.method is DRIVER
    await vm.look(times=6, target=None)
    assert vm.control.online == dict.fromkeys(range(4), True), "plugged in, and brought online"


async def test_auto_uses_the_driver_only_where_no_guest_agent_answers(vm: Fixture) -> None:
    await vm.look(target=3)
    assert vm.control.unplugged == []
    await vm.look(target=None)
    vm.control.absent = ABSENT
    await vm.look(target=3)
    assert vm.control.unplugged == [], "the guest may be booting"
    vm.clock.now += TIMING.agent_absent_after
    await vm.look()
    assert vm.control.unplugged == ["vcpu3"]


async def test_auto_unplugs_nothing_of_an_emulated_guest(vm: Fixture) -> None:
    vm.control.emulated, vm.control.absent = True, ABSENT
    vm.clock.now += TIMING.agent_absent_after
    await vm.look(times=int(TIMING.agent_absent_after) + 5, target=3)
    assert vm.control.unplugged == []
    assert vm.reason == "GuestAgentAbsent"


async def test_a_guest_that_is_asked_and_does_nothing_has_a_reason(vm: Fixture) -> None:
    vm.control.deaf = True
    await vm.look(times=TIMING.attempts + 2, target=2)
    assert vm.reason == "NotFollowing"
    assert not vm.processors.moving
    vm.control.deaf = False
    await vm.look()
    assert vm.used == 2
    assert vm.reason is None


async def test_an_unplugging_of_which_libvirt_does_not_hear_is_reported_and_not_repeated(vm: Fixture) -> None:
    vm.control.tells = False
    await vm.look(times=int(TIMING.unplug_deadline) + 4, target=2, method=DRIVER)
    assert vm.control.unplugged == ["vcpu3"]
    assert vm.reason == "UnplugLost"
    assert vm.used == 2, "the other one is reclaimed by the guest agent"
    await vm.look(times=3, target=None)
    assert vm.used == 3
    assert vm.reason == "UnplugLost"


class WatchedProcess:
    """A fake's process that notes in which threads it is looked at."""

    def __init__(self, control: FakeGuestControl) -> None:
        self.control = control
        self.threads: set[threading.Thread] = set()

    def __getattr__(self, name: str) -> Any:
        self.threads.add(threading.current_thread())
        return getattr(self.control, name)


async def test_a_process_is_never_looked_for_in_the_event_loop_since_that_may_hang(vm: Fixture) -> None:
    vm.control.tells = False
    process: Any = WatchedProcess(vm.control)
    vm.processors.qemu = process
    await vm.look(times=int(TIMING.unplug_deadline) + 4, target=2, method=DRIVER)
    assert vm.reason == "UnplugLost"
    assert process.threads
    assert threading.current_thread() not in process.threads


async def test_a_guest_that_leaves_processors_offline_is_not_said_to_have_them_back(vm: Fixture) -> None:
    vm.control.absent, vm.control.starts = ABSENT, False
    await vm.look(times=4, target=2, method=DRIVER)
    assert vm.control.unplugged == ["vcpu3", "vcpu2"]
    await vm.look(times=TIMING.attempts + 4, target=None)
    assert len(vm.control.vcpus()) == 4, "they are plugged in again"
    assert (vm.processors.view.online, vm.processors.returning, vm.reason) == (2, True, "NotFollowing")
    assert vm.processors.view.problem is not None
    assert "leaves 2 processors offline" in vm.processors.view.problem.message
    vm.control.starts = True  # as after a restart of the guest
    await vm.look(times=2)
    assert (vm.processors.view.online, vm.processors.returning) == (4, False)
    await vm.look(target=4)
    assert vm.reason is None
    await vm.look(times=4, target=2)
    assert vm.control.unplugged == ["vcpu3", "vcpu2"], "such a guest's are not unplugged again"


async def test_a_kernel_that_gives_no_processor_up_is_not_asked_again_and_again(vm: Fixture) -> None:
    vm.control.ejects = False
    await vm.look(times=int(TIMING.unplug_deadline) + 20, target=2, method=DRIVER)
    assert vm.control.unplugged == ["vcpu3"]
    assert vm.reason == "UnplugRefused"
    assert vm.used == 2


async def test_processors_that_the_guest_s_owner_took_offline_stay_offline(vm: Fixture) -> None:
    vm.control.online[3] = False
    await vm.look()
    assert not vm.control.online[3]
    assert vm.control.commands == [], "the first command taints the domain: without a request the guest is not asked"
    assert (vm.processors.view.online, vm.processors.returning) == (4, False), "by their threads"
    await vm.look(target=2)
    await vm.look(target=None)
    assert vm.used == 4
    vm.control.online[3] = False
    await vm.look()
    assert vm.used == 3, "the request was undone, and that is all"


@pytest.mark.parametrize(("known", "used"), [({"target": 2}, 4), ({"returning": True}, 4), ({}, 2)], ids=str)
async def test_an_agent_gives_back_processors_that_an_earlier_agent_reclaimed(
    vm: Fixture, known: dict[str, Any], used: int
) -> None:
    vm.control.online |= {2: False, 3: False}
    vm.processors.restore(ProcessorReport(size=4, **known))
    vm.control.absent = ABSENT
    await vm.look()
    assert vm.processors.returning is bool(known)
    vm.control.absent = None
    await vm.look(times=10)
    assert vm.used == used
    assert not vm.processors.returning


@pytest.mark.parametrize("target", [2, 4])
async def test_processors_reclaimed_on_another_node_come_back_after_the_request_has_ended(
    vm: Fixture, target: int
) -> None:
    """As after a migration: the agent only knows the request that it saw before its first look."""
    vm.control.online |= {2: False, 3: False}
    vm.processors.expect(replace(vm.request, target=target))
    await vm.look(target=None)
    assert vm.used == 4
    assert not vm.processors.returning


async def test_processors_reclaimed_on_another_node_come_back_once_the_guest_agent_answers_again(vm: Fixture) -> None:
    vm.control.online |= {2: False, 3: False}
    vm.processors.expect(replace(vm.request, target=4))
    vm.control.absent = ABSENT
    await vm.look(target=4)
    await vm.look(target=None)
    assert vm.processors.returning, "its threads do not show which processors the guest took offline"
    vm.control.absent = None
    await vm.look(target=None, times=10)
    assert vm.used == 4
    assert not vm.processors.returning


async def test_the_guest_agent_of_one_that_must_be_left_alone_is_not_asked(vm: Fixture) -> None:
    await vm.look(target=1, ineligibility=Problem.of(AgentReason.DEDICATED_CPU))
    assert vm.control.commands == []
    assert vm.processors.view.online == 4, "by its threads"


@dataclass
class Unpluggable(FakeGuestControl):
    """A VM whose QEMU unplugs nothing."""

    async def unplug(self, name: str) -> None:
        """Refuse."""
        self.unplugged.append(name)
        raise HypervisorError("QEMU: acpi: device unplug not supported")


async def test_where_qemu_unplugs_nothing_the_guest_agent_does_it(vm: Fixture) -> None:
    vm.control = vm.processors.guest_agent.control = Unpluggable()
    vm.processors.qemu = vm.control
    await vm.look(times=10, target=2, method=DRIVER)
    assert vm.control.unplugged == ["vcpu3"]
    assert (vm.used, vm.reason) == (2, "UnplugRefused")


async def test_a_guest_agent_that_fails_is_not_asked_twice(vm: Fixture) -> None:
    vm.control.absent = GuestAgentError(AgentReason.GUEST_AGENT_BUSY, "its guest agent is busy with another client")
    await vm.look(times=1, target=2)
    assert (vm.control.looks, vm.control.commands) == (1, ["guest-get-vcpus"])
    assert vm.reason == "GuestAgentBusy"


async def test_without_agent_and_driver_there_is_a_reason_and_a_pause(vm: Fixture) -> None:
    vm.control.absent = ABSENT
    await vm.look(times=20, target=2, method=GUEST_AGENT)
    assert vm.reason == "GuestAgentAbsent"
    assert len(vm.control.commands) <= 20 / RETRY + 1, "not at every look"
    vm.control.absent = None
    await vm.look(times=60)
    assert vm.used == 2
    assert vm.reason is None


@pytest.fixture
def windows(vm: Fixture) -> Fixture:
    """A guest whose agent answers as on Windows: no processor can go offline, and the command for it is refused."""
    vm.control.system, vm.control.fixed = "mswindows", frozenset(range(4))
    vm.control.refused["guest-set-vcpus"] = "this feature or command is not currently supported"
    return vm


@pytest.mark.parametrize("method", ProcessorMethod)
async def test_a_windows_guest_keeps_its_processors_and_has_a_reason(windows: Fixture, method: ProcessorMethod) -> None:
    windows.control.ejects = False
    await windows.look(times=int(TIMING.unplug_deadline) + 20, target=2, method=method)
    assert windows.processors.view.problem == (
        "NotOfflinable",
        "its guest offers no more processors to reclaim: it keeps 4",
    )
    assert windows.control.unplugged == (["vcpu3"] if method is DRIVER else []), "once, not again and again"
    assert "guest-set-vcpus" not in windows.control.commands, "it is not asked for what it does not offer"
    assert windows.used == 4
    assert not windows.processors.moving


async def test_a_windows_guest_that_cannot_bring_processors_online_is_reported_in_its_agent_s_words(
    windows: Fixture,
) -> None:
    windows.control.online[3] = False
    windows.processors.restore(ProcessorReport(size=4, returning=True))
    await windows.look(times=20)
    assert windows.processors.view.problem == (
        "GuestAgentRefused",
        "its guest agent refused: this feature or command is not currently supported",
    )
    assert windows.control.commands.count("guest-set-vcpus") <= 20 / RETRY + 1, "not at every look"


@pytest.fixture
def guest(installed: ControlPlane, lab_node: LabNode, wide_guest: LauncherPod) -> Iterator[LauncherPod]:
    with presented(installed, lab_node, wide_guest):
        yield wide_guest


@pytest.mark.cluster
@pytest.mark.guest
def test_a_policy_takes_a_guest_s_processors_and_its_end_gives_them_back(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "agent"), controller(installed, tmp_path / "controller"):
        eventually(lambda: reported(installed, lab_node, guest)["processors"]["online"] == 4)
        installed.apply(processor_policy("narrow", processors={"min": 1, "max": 1}))
        eventually(lambda: guest.online() == 1)
        eventually(lambda: reported(installed, lab_node, guest)["processors"]["online"] == 1)
        eventually(lambda: condition(installed, "narrow", "Ready", of="cpupol").get("status") == "True")
        guest.run("touch /run/busy; for loop in 1 2 3 4; do (while [ -e /run/busy ]; do :; done) & done")
        try:
            assert busy_processors(guest) == 1
        finally:
            guest.run("rm /run/busy")
        eventually(lambda: get(installed, "cpupol", "narrow")["status"].get("reclaimed") == 3)
        installed.kubectl("delete", "cpupol", "narrow")
        eventually(lambda: guest.online() == 4)


def busy_processors(guest: LauncherPod) -> int:
    """Count the threads of QEMU's processors that run the guest's loops."""
    before = guest.vcpu_threads()
    eventually(lambda: sum(guest.vcpu_threads().values()) - sum(before.values()) > 1.0)
    ran = {name: seconds - before[name] for name, seconds in guest.vcpu_threads().items()}
    return sum(seconds > 0.1 * sum(ran.values()) for seconds in ran.values())


@contextmanager
def booted_with_agent(plane: ControlPlane, node: LabNode, spec: GuestSpec, logs: Path) -> Iterator[LauncherPod]:
    """Boot a guest of the test's own, and start an agent."""
    with booted(node, spec) as pod, presented(plane, node, pod), agent(plane, node, logs / "agent"):
        yield pod


@pytest.mark.cluster
@pytest.mark.guest
def test_an_unplugged_processor_leaves_the_node_and_the_guest_is_fine(
    installed: ControlPlane, lab_node: LabNode, tmp_path: Path
) -> None:
    with booted_with_agent(installed, lab_node, GuestSpec(name="plugged", vcpus=3, guest_agent=False), tmp_path) as pod:
        annotate(installed, pod, processor_target="2", processor_method="Driver")
        eventually(lambda: len(pod.vcpu_threads()) == 2)
        eventually(lambda: reported(installed, lab_node, pod)["processors"]["online"] == 2)
        assert not pod.agent_connected(), "the guest's kernel needs no agent for it"
        assert pod.load.set(20).held_mib == 20
        balloon = pod.spec.memory_bytes - (40 << 20)
        annotate(installed, pod, memory_target=str(balloon))
        eventually(lambda: pod.actual_bytes() == balloon)


@pytest.mark.cluster
@pytest.mark.guest
def test_a_guest_that_was_reset_boots_with_all_processors_and_they_are_reclaimed_again(
    installed: ControlPlane, lab_node: LabNode, tmp_path: Path
) -> None:
    with booted_with_agent(installed, lab_node, GuestSpec(name="rebooting", vcpus=2, reboots=True), tmp_path) as pod:
        annotate(installed, pod, processor_target="1", processor_method="GuestAgent")
        eventually(lambda: pod.online() == 1)
        boot = eventually(lambda: pod.read_file(_BOOT))
        pod.reset()
        eventually(lambda: pod.read_file(_BOOT) not in (b"", boot), 2 * SLOW)
        eventually(lambda: pod.online() == 1)
        assert b"Brought up 1 node, 2 CPUs" in _kernel_log(pod), "it had both again"
        eventually(lambda: reported(installed, lab_node, pod)["processors"]["online"] == 1)
        annotate(installed, pod, processor_target=None, processor_method=None)
        eventually(lambda: pod.online() == 2)


_BOOT = "/proc/sys/kernel/random/boot_id"


def _kernel_log(pod: LauncherPod) -> bytes:
    """Read what the guest's kernel logged about its processors since it booted."""
    pod.run("dmesg | grep CPUs >/run/said; mv /run/said /run/cpus")
    return eventually(lambda: pod.read_file("/run/cpus"))


_HANG = 60  # seconds, in which the agent finds out and the memory follows, on a slow machine too


@pytest.mark.cluster
@pytest.mark.guest
def test_a_guest_agent_that_hangs_holds_up_no_memory(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    def memory_follows() -> bool:
        hung = reported(installed, lab_node, guest)["processors"]["reason"] == "GuestAgentHung"
        return hung and guest.actual_bytes() == 200 << 20

    guest.run(f"sleep 1; kill -STOP $(pidof qemu-ga); sleep {_HANG}; kill -CONT $(pidof qemu-ga)")
    with agent(installed, lab_node, tmp_path / "agent"):
        annotate(installed, guest, processor_target="2", processor_method="GuestAgent")
        eventually(lambda: reported(installed, lab_node, guest)["processors"]["reason"] == "GuestAgentHung")
        annotate(installed, guest, memory_target="200Mi")
        eventually(memory_follows)
        eventually(lambda: reported(installed, lab_node, guest)["processors"]["online"] == 2, _HANG + SLOW)
        annotate(installed, guest, processor_target=None, processor_method=None, memory_target=None)
        eventually(lambda: guest.online() == 4)
        eventually(lambda: guest.actual_bytes() == guest.spec.memory_bytes)
        throughout(lambda: eventually(guest.online) == 4, 1)


@pytest.mark.cluster
@pytest.mark.guest
@pytest.mark.parametrize("reason", ["GuestAgentAbsent", "GuestAgentRefused"])
def test_a_guest_whose_agent_does_not_do_it_has_a_reason_and_its_memory_follows(
    installed: ControlPlane, lab_node: LabNode, tmp_path: Path, reason: str
) -> None:
    spec = GuestSpec(name=f"unwilling-{reason.lower()}", vcpus=2, guest_agent=reason != "GuestAgentAbsent")
    with booted(lab_node, spec) as pod:
        if spec.guest_agent:
            refuse(pod, "guest-set-vcpus")
        with presented(installed, lab_node, pod), agent(installed, lab_node, tmp_path / "agent"):
            annotate(installed, pod, processor_target="1", processor_method="GuestAgent", memory_target="200Mi")
            eventually(lambda: reported(installed, lab_node, pod)["processors"]["reason"] == reason)
            eventually(lambda: pod.actual_bytes() == 200 << 20)
            assert not reported(installed, lab_node, pod)["processors"]["responsive"]
            assert len(pod.vcpu_threads()) == 2
