"""Processors taken and given back: by a fake that does as the test says, and by real guests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import GuestSpec, LabNode, LauncherPod
from hack.testbed.lab.fakes import FakeChannel
from kubeballoon.agent.hypervisor import guest_agent
from kubeballoon.agent.hypervisor.guest_agent import GuestAgent
from kubeballoon.agent.hypervisor.interface import AgentError, HypervisorError
from kubeballoon.agent.vm.guest_processors import PATIENCE, SILENT, TRIES, GuestProcessors
from kubeballoon.agent.vm.instance import InstanceProcessors
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import ProcessorMethod, ProcessorReport
from tests.support.cluster import condition, get, processor_policy
from tests.support.guests import booted, refuse
from tests.support.patience import SLOW, eventually
from tests.support.processes import agent, controller
from tests.support.reports import annotate, presented, reported
from tests.support.waiting import Clock, throughout

ABSENT = AgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest runs no QEMU guest agent")
DRIVER = ProcessorMethod.DRIVER
GUEST_AGENT = ProcessorMethod.GUEST_AGENT


@dataclass
class Kept:
    """Processors over a fake, looked at as often as the test says."""

    channel: FakeChannel
    clock: Clock
    processors: GuestProcessors
    request: InstanceProcessors

    async def look(self, times: int = 3, **asked: object) -> None:
        """Look so many times, a second apart, with something else asked."""
        self.request = replace(self.request, **asked)  # type: ignore[arg-type]  # named as the fields are
        for _ in range(times):
            self.clock.now += 1
            await self.processors.look(self.channel, self.request)

    @property
    def used(self) -> int:
        """How many processors the guest uses."""
        return sum(self.channel.online.values())

    @property
    def reason(self) -> str | None:
        """Why it does not do what it should, in a word."""
        return None if self.processors.view.problem is None else self.processors.view.problem[0]


@pytest.fixture
def kept() -> Kept:
    channel, clock = FakeChannel(), Clock()
    guest_agent = GuestAgent(clock)
    guest_agent.channel = channel
    return Kept(channel, clock, GuestProcessors(guest_agent, channel, clock), InstanceProcessors(size=4))


async def test_the_guest_takes_the_last_processors_offline_and_brings_them_back(kept: Kept) -> None:
    await kept.look(target=1)
    assert kept.channel.online == {0: True, 1: False, 2: False, 3: False}
    assert kept.processors.view.online == 1
    await kept.look(target=3)
    assert kept.used == 3
    await kept.look(target=None)
    assert kept.used == 4
    assert kept.reason is None


async def test_a_guest_that_rebooted_is_asked_again(kept: Kept) -> None:
    await kept.look(target=2)
    kept.channel.online = dict.fromkeys(range(4), True)
    await kept.look()
    assert kept.used == 2


async def test_only_what_the_guest_offers_is_taken_and_never_the_first(kept: Kept) -> None:
    kept.channel.fixed = frozenset({1, 2})
    await kept.look(target=1)
    assert kept.channel.online == {0: True, 1: True, 2: True, 3: False}
    assert kept.reason == "NotOfflinable"


@pytest.mark.parametrize("target", [0, -3])
async def test_a_forged_request_leaves_one(kept: Kept, target: int) -> None:
    await kept.look(target=target)
    assert kept.used == 1


async def test_one_that_must_be_left_alone_is_left_alone(kept: Kept) -> None:
    await kept.look(target=1, ineligibility=("DedicatedCPU", "it has dedicated CPUs"))
    await kept.look(target=1, ineligibility=None, fault="annotation x: no")
    assert kept.used == 4


async def test_the_driver_unplugs_one_by_one_and_plugs_in_again(kept: Kept) -> None:
    await kept.look(times=8, target=1, method=DRIVER)
    assert kept.channel.unplugged == ["vcpu3", "vcpu2", "vcpu1"]
    assert kept.processors.view.method is DRIVER
    await kept.look(times=6, target=None)
    assert kept.channel.online == dict.fromkeys(range(4), True), "plugged in, and brought online"


async def test_auto_takes_the_driver_only_where_no_agent_answers(kept: Kept) -> None:
    await kept.look(target=3)
    assert kept.channel.unplugged == []
    await kept.look(target=None)
    kept.channel.absent = ABSENT
    await kept.look(target=3)
    assert kept.channel.unplugged == [], "the guest may be booting"
    kept.clock.now += SILENT
    await kept.look()
    assert kept.channel.unplugged == ["vcpu3"]


async def test_auto_unplugs_nothing_of_an_emulated_guest(kept: Kept) -> None:
    kept.channel.emulated, kept.channel.absent = True, ABSENT
    kept.clock.now += SILENT
    await kept.look(times=int(SILENT) + 5, target=3)
    assert kept.channel.unplugged == []
    assert kept.reason == "GuestAgentAbsent"


async def test_a_guest_that_is_asked_and_does_nothing_has_a_reason(kept: Kept) -> None:
    kept.channel.deaf = True
    await kept.look(times=TRIES + 2, target=2)
    assert kept.reason == "NotFollowing"
    assert not kept.processors.moving
    kept.channel.deaf = False
    await kept.look()
    assert kept.used == 2
    assert kept.reason is None


async def test_an_unplugging_that_libvirt_does_not_hear_of_is_said_and_not_repeated(kept: Kept) -> None:
    kept.channel.tells = False
    await kept.look(times=int(PATIENCE) + 4, target=2, method=DRIVER)
    assert kept.channel.unplugged == ["vcpu3"]
    assert kept.reason == "UnplugLost"
    assert kept.used == 2, "the other one is taken by the guest agent"
    await kept.look(times=3, target=None)
    assert kept.used == 3
    assert kept.reason == "UnplugLost"


async def test_a_kernel_that_gives_nothing_up_is_not_asked_on_and_on(kept: Kept) -> None:
    kept.channel.ejects = False
    await kept.look(times=int(PATIENCE) + 20, target=2, method=DRIVER)
    assert kept.channel.unplugged == ["vcpu3"]
    assert kept.reason == "UnplugRefused"
    assert kept.used == 2


async def test_what_the_guest_s_owner_took_offline_stays_so(kept: Kept) -> None:
    kept.channel.online[3] = False
    await kept.look()
    assert not kept.channel.online[3]
    assert "guest-set-vcpus" not in kept.channel.commands
    assert (kept.processors.view.online, kept.processors.returning) == (3, False)
    await kept.look(target=2)
    await kept.look(target=None)
    assert kept.used == 4
    kept.channel.online[3] = False
    await kept.look()
    assert kept.used == 3, "what was asked is undone, and that was all"


@pytest.mark.parametrize(("known", "used"), [({"target": 2}, 4), ({"returning": True}, 4), ({}, 2)], ids=str)
async def test_an_agent_gives_back_what_the_one_before_it_took(kept: Kept, known: dict[str, Any], used: int) -> None:
    kept.channel.online |= {2: False, 3: False}
    kept.processors.recall(ProcessorReport(size=4, **known))
    kept.channel.absent = ABSENT
    await kept.look()
    assert kept.processors.returning is bool(known)
    kept.channel.absent = None
    await kept.look(times=10)
    assert kept.used == used
    assert not kept.processors.returning


@pytest.mark.parametrize("target", [2, 4])
async def test_processors_taken_on_another_node_come_back_though_nothing_is_asked_any_more(
    kept: Kept, target: int
) -> None:
    """As after a migration: what this agent has seen asked before its first look is all that it knows."""
    kept.channel.online |= {2: False, 3: False}
    kept.processors.expect(replace(kept.request, target=target))
    await kept.look(target=None)
    assert kept.used == 4
    assert not kept.processors.returning


async def test_processors_taken_on_another_node_come_back_once_their_guest_s_agent_answers_again(kept: Kept) -> None:
    kept.channel.online |= {2: False, 3: False}
    kept.processors.expect(replace(kept.request, target=4))
    kept.channel.absent = ABSENT
    await kept.look(target=4)
    await kept.look(target=None)
    assert kept.processors.returning, "its threads tell nothing of what the guest took offline"
    kept.channel.absent = None
    await kept.look(target=None, times=10)
    assert kept.used == 4
    assert not kept.processors.returning


async def test_the_guest_agent_of_one_that_must_be_left_alone_is_not_asked(kept: Kept) -> None:
    await kept.look(target=1, ineligibility=("DedicatedCPU", "it has dedicated CPUs"))
    assert kept.channel.commands == []
    assert kept.processors.view.online == 4, "by its threads"


@dataclass
class Unpluggable(FakeChannel):
    """A QEMU that unplugs nothing."""

    async def unplug(self, name: str) -> None:
        """See ``Channel.unplug``."""
        self.unplugged.append(name)
        raise HypervisorError("QEMU: acpi: device unplug not supported")


async def test_where_qemu_unplugs_nothing_the_guest_agent_does_it(kept: Kept) -> None:
    kept.channel = kept.processors.agent.channel = Unpluggable()
    kept.processors.qemu = kept.channel
    await kept.look(times=10, target=2, method=DRIVER)
    assert kept.channel.unplugged == ["vcpu3"]
    assert (kept.used, kept.reason) == (2, "UnplugRefused")


async def test_a_guest_agent_that_fails_is_not_looked_at_twice(kept: Kept) -> None:
    kept.channel.absent = AgentError(AgentReason.GUEST_AGENT_BUSY, "its guest agent is busy with another client")
    await kept.look(times=1, target=2)
    assert (kept.channel.looks, kept.channel.commands) == (1, ["guest-get-vcpus"])
    assert kept.reason == "GuestAgentBusy"


async def test_without_agent_and_driver_there_is_a_reason_and_a_pause(kept: Kept) -> None:
    kept.channel.absent = ABSENT
    await kept.look(times=20, target=2, method=GUEST_AGENT)
    assert kept.reason == "GuestAgentAbsent"
    assert len(kept.channel.commands) <= 20 / guest_agent.RETRY + 1, "not at every look"
    kept.channel.absent = None
    await kept.look(times=60)
    assert kept.used == 2
    assert kept.reason is None


@pytest.fixture
def windows(kept: Kept) -> Kept:
    """A guest whose agent answers as QEMU's does on Windows: no processor can go offline, and no command does it."""
    kept.channel.system, kept.channel.fixed = "mswindows", frozenset(range(4))
    kept.channel.refused["guest-set-vcpus"] = "this feature or command is not currently supported"
    return kept


@pytest.mark.parametrize("method", ProcessorMethod)
async def test_windows_keeps_its_processors_and_says_so(windows: Kept, method: ProcessorMethod) -> None:
    windows.channel.ejects = False
    await windows.look(times=int(PATIENCE) + 20, target=2, method=method)
    assert windows.processors.view.problem == (
        "NotOfflinable",
        "its guest offers no more processors to take: it keeps 4",
    )
    assert windows.channel.unplugged == (["vcpu3"] if method is DRIVER else []), "once, not on and on"
    assert "guest-set-vcpus" not in windows.channel.commands, "it is not asked for what it does not offer"
    assert windows.used == 4
    assert not windows.processors.moving


async def test_what_windows_cannot_bring_online_has_its_agent_s_own_words(windows: Kept) -> None:
    windows.channel.online[3] = False
    windows.processors.recall(ProcessorReport(size=4, returning=True))
    await windows.look(times=20)
    assert windows.processors.view.problem == (
        "GuestAgentRefused",
        "its guest agent refused: this feature or command is not currently supported",
    )
    assert windows.channel.commands.count("guest-set-vcpus") <= 20 / guest_agent.RETRY + 1, "not at every look"


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
        eventually(lambda: get(installed, "cpupol", "narrow")["status"].get("taken") == 3)
        installed.kubectl("delete", "cpupol", "narrow")
        eventually(lambda: guest.online() == 4)


def busy_processors(guest: LauncherPod) -> int:
    """How many of QEMU's threads for processors do what the guest's loops do."""
    before = guest.vcpu_threads()
    eventually(lambda: sum(guest.vcpu_threads().values()) - sum(before.values()) > 1.0)
    ran = {name: seconds - before[name] for name, seconds in guest.vcpu_threads().items()}
    return sum(seconds > 0.1 * sum(ran.values()) for seconds in ran.values())


@contextmanager
def attended(plane: ControlPlane, node: LabNode, spec: GuestSpec, logs: Path) -> Iterator[LauncherPod]:
    """A guest of the test's own, and an agent."""
    with booted(node, spec) as pod, presented(plane, node, pod), agent(plane, node, logs / "agent"):
        yield pod


@pytest.mark.cluster
@pytest.mark.guest
def test_an_unplugged_processor_leaves_the_node_and_the_guest_is_fine(
    installed: ControlPlane, lab_node: LabNode, tmp_path: Path
) -> None:
    with attended(installed, lab_node, GuestSpec(name="plugged", vcpus=3, guest_agent=False), tmp_path) as pod:
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
def test_a_guest_that_was_reset_boots_with_all_processors_and_they_are_taken_again(
    installed: ControlPlane, lab_node: LabNode, tmp_path: Path
) -> None:
    with attended(installed, lab_node, GuestSpec(name="rebooting", vcpus=2, reboots=True), tmp_path) as pod:
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
    """What the guest's kernel said of its processors since it booted."""
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
