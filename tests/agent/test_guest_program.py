"""Memory reserved by the program in the guest: a fake that does as the test says, and real guests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod
from hack.testbed.lab.fakes import FakeChannel, FakeDomain
from hack.testbed.lab.ksm import merging
from kubeballoon.agent.hypervisor import guest_agent
from kubeballoon.agent.hypervisor.guest_agent import GuestAgent
from kubeballoon.agent.hypervisor.interface import AgentError, DomainSample
from kubeballoon.agent.vm.guest_program import (
    CHANGING,
    DIRECTORY,
    FORGOTTEN,
    LOOK,
    PROGRAM,
    GuestProgram,
    ProgramMemoryControl,
)
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import FreedBy
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.guest import kubeballoon_guest
from kubeballoon.guest.kubeballoon_guest import KEPT_AT_LEAST
from kubeballoon.vocabulary import ReclaimMethod
from tests.support.guests import booted, refuse
from tests.support.patience import eventually
from tests.support.processes import agent
from tests.support.reports import annotate, presented, reported
from tests.support.waiting import Clock

STATUS, REQUEST = f"{DIRECTORY}/status", f"{DIRECTORY}/request"
SIZE = 1024 * MIB
BARE = DomainSample(SIZE, SIZE, running=True, balloon=False, statistics=GuestStatistics(actual=SIZE, updated=0.0))
BALLOONED = replace(BARE, balloon=True, statistics=GuestStatistics(actual=SIZE, updated=1.0, usable=SIZE // 2))


@dataclass
class FakeQemu(FakeChannel):
    """A process of which so much has been merged."""

    bytes_merged: int = 0

    def merged(self) -> int | None:
        """Bytes."""
        return self.bytes_merged


@dataclass
class Guest:
    """A guest with a program of numbers, and the reservation over it."""

    channel: FakeQemu = field(default_factory=FakeQemu)
    clock: Clock = field(default_factory=Clock)
    merges: bool = True
    number: int = 0

    def __post_init__(self) -> None:
        """Connect the two."""
        self.agent = GuestAgent(self.clock)
        self.agent.channel = self.channel
        self.guest_program = GuestProgram(self.agent, self.channel, lambda: None, self.clock, lambda: self.merges)

    def say(self, held: int, available: int = 500 * MIB, spare: int = 450 * MIB, *, asked: int | None = None) -> None:
        """Have the program look at its guest once more; it knows what is asked of it, but for a test that says else."""
        self.number += 1
        if asked is None:
            asked = json.loads(self.channel.files.get(REQUEST, b'{"reserve": 0}'))["reserve"]
        status = {"number": self.number, "asked": asked, "held": held, "available": available, "spare": spare}
        self.channel.files[STATUS] = json.dumps(status).encode()

    @property
    def asked(self) -> int | None:
        """What the program was asked to reserve."""
        return json.loads(self.channel.files[REQUEST])["reserve"] if REQUEST in self.channel.files else None


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs in the guest end at once."""
    monkeypatch.setattr(guest_agent, "_POLL", 0.0)


@pytest.fixture
def guest() -> Guest:
    return Guest()


async def test_the_program_takes_the_place_of_a_balloon_that_is_not_there(guest: Guest) -> None:
    domain = FakeDomain(size=SIZE, actual=SIZE, balloon=False, reports=False)
    reserving = ProgramMemoryControl(domain, guest.guest_program)
    guest.say(held=0)
    await reserving.sample()
    await guest.guest_program.look()
    assert (await reserving.sample()).balloon
    await reserving.set_memory(600 * MIB)
    await guest.guest_program.look()
    assert guest.asked == SIZE - 600 * MIB
    guest.say(held=SIZE - 600 * MIB, available=50 * MIB)
    await guest.guest_program.look()
    sample = await reserving.sample()
    assert sample.statistics.actual == sample.statistics.held == 600 * MIB
    assert sample.statistics.usable == 50 * MIB
    assert domain.requests == []


async def test_a_program_has_answered_once_it_looked_knowing_what_is_asked(guest: Guest) -> None:
    guest.say(held=0)
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    assert guest.guest_program.sample(BARE).pending is None
    guest.guest_program.ask(64 * MIB)
    await guest.guest_program.look()
    guest.guest_program.ask(64 * MIB)
    assert guest.guest_program.sample(BARE).pending == SIZE - 64 * MIB, "it has not looked since"
    guest.say(held=16 * MIB)
    guest.clock.now += 1
    await guest.guest_program.look()
    assert guest.guest_program.sample(BARE).pending is None
    assert guest.guest_program.sample(BARE).pending == SIZE - 64 * MIB, "that is what it said before"


async def test_a_program_that_never_heeds_what_it_is_asked_is_not_waited_for_for_ever(guest: Guest) -> None:
    guest.say(held=0)
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    guest.guest_program.ask(64 * MIB)
    for _ in range(3):
        guest.clock.now += FORGOTTEN / 2
        guest.say(held=0, asked=0)
        await guest.guest_program.look()
    assert guest.guest_program.sample(BARE).pending is None


async def test_what_a_program_holds_is_looked_for_until_its_guest_has_told(guest: Guest) -> None:
    guest.guest_program.sample(BALLOONED)
    guest.channel.files[REQUEST] = json.dumps({"reserve": 100 * MIB}).encode()
    guest.say(held=100 * MIB)
    guest.channel.absent = AgentError(AgentReason.GUEST_AGENT_HUNG, "its guest agent did not answer")
    await guest.guest_program.look()
    guest.channel.absent = None
    guest.clock.now += 60
    assert guest.guest_program.due
    await guest.guest_program.look()
    assert guest.guest_program.sample(BALLOONED).problem == CHANGING
    assert guest.asked == 0, "a balloon that works is to reserve alone"


async def test_a_program_of_before_is_understood_and_one_that_is_not_is_looked_for_again(guest: Guest) -> None:
    guest.guest_program.sample(BALLOONED)
    guest.channel.files[STATUS] = b'["a program of tomorrow"]'
    await guest.guest_program.look()
    guest.clock.now += 60
    assert guest.guest_program.due
    guest.channel.files[STATUS] = json.dumps({"number": 1, "asked": 0, "held": MIB, "available": MIB}).encode()
    await guest.guest_program.look()
    assert guest.guest_program.held is not None
    assert guest.guest_program.held.held == MIB


async def test_a_program_that_holds_nearly_what_is_asked_is_not_asked_all_the_time(guest: Guest) -> None:
    guest.say(held=0)
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    guest.guest_program.ask(105 * MIB + 5)
    await guest.guest_program.look()
    assert guest.guest_program.moving
    guest.say(held=105 * MIB)
    await guest.guest_program.look()
    assert not guest.guest_program.moving


async def test_a_program_that_has_ended_is_not_taken_for_alive_by_what_it_left(guest: Guest) -> None:
    guest.say(held=100 * MIB)
    guest.guest_program.sample(BARE)
    for _ in range(4):
        await guest.guest_program.look()
        guest.clock.now += FORGOTTEN
    assert guest.guest_program.held is None
    guest.say(held=50 * MIB)
    await guest.guest_program.look()
    assert guest.guest_program.held is not None


async def test_a_balloon_that_works_is_left_to_work(guest: Guest) -> None:
    guest.say(held=0)
    guest.guest_program.sample(BALLOONED)
    await guest.guest_program.look()
    assert guest.guest_program.sample(BALLOONED) == BALLOONED
    assert not guest.guest_program.due, "and its guest is asked no more"


async def test_what_a_program_still_holds_beside_a_balloon_is_given_back(guest: Guest) -> None:
    guest.channel.files[REQUEST] = b'{"reserve": 4096}'
    guest.say(held=100 * MIB)
    guest.guest_program.sample(BALLOONED)
    await guest.guest_program.look()
    assert guest.asked == 0


async def test_a_new_agent_changes_nothing_of_what_is_held(guest: Guest) -> None:
    guest.channel.files[REQUEST] = json.dumps({"reserve": 100 * MIB}).encode()
    guest.say(held=100 * MIB)
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    assert guest.asked == 100 * MIB
    assert guest.guest_program.sample(BARE).statistics.actual == SIZE - 100 * MIB


async def test_what_the_node_regained_counts_and_not_what_is_claimed(guest: Guest) -> None:
    guest.say(held=400 * MIB)
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    assert guest.guest_program.sample(BARE).resident == SIZE
    guest.channel.bytes_merged = 300 * MIB
    await guest.guest_program.look()
    assert guest.guest_program.sample(BARE).resident == SIZE - 300 * MIB


async def test_how_the_node_regains_is_told(guest: Guest) -> None:
    ways = [guest.guest_program.freed_by]
    guest.merges = False
    ways.append(guest.guest_program.freed_by)
    assert ways == [FreedBy.KSM, FreedBy.NONE]


async def test_the_program_reserves_nothing_before_the_balloon_has_given_all_back(guest: Guest) -> None:
    domain = FakeDomain(size=SIZE, actual=512 * MIB, follows=False)
    reserving = ProgramMemoryControl(domain, guest.guest_program)
    guest.guest_program.method = ReclaimMethod.GUEST_AGENT
    guest.say(held=0)
    await reserving.sample()
    await guest.guest_program.look()
    sample = await reserving.sample()
    assert (sample.statistics.actual, sample.problem) == (512 * MIB, CHANGING)
    await reserving.set_memory(512 * MIB)
    await guest.guest_program.look()
    assert guest.asked is None
    assert set(domain.requests) == {SIZE}
    guest.guest_program.hold = True
    asked = len(domain.requests)
    await reserving.sample()
    assert len(domain.requests) == asked, "one that migrates is left as it is"
    guest.guest_program.hold, domain.follows = False, True
    await reserving.sample()
    sample = await reserving.sample()
    assert (sample.statistics.actual, sample.problem) == (SIZE, None)
    await reserving.set_memory(512 * MIB)
    await guest.guest_program.look()
    assert guest.asked == 512 * MIB


async def test_the_balloon_reserves_nothing_before_the_program_has_given_all_back(guest: Guest) -> None:
    domain = FakeDomain(size=SIZE, actual=SIZE)
    reserving = ProgramMemoryControl(domain, guest.guest_program)
    guest.guest_program.method = ReclaimMethod.GUEST_AGENT
    guest.say(held=0)
    await reserving.sample()
    await guest.guest_program.look()
    await reserving.set_memory(600 * MIB)
    await guest.guest_program.look()
    guest.say(held=SIZE - 600 * MIB)
    await guest.guest_program.look()
    guest.guest_program.method = ReclaimMethod.BALLOON
    sample = await reserving.sample()
    assert (sample.statistics.actual, sample.problem) == (600 * MIB, CHANGING)
    await reserving.set_memory(600 * MIB)
    await guest.guest_program.look()
    assert guest.asked == 0
    assert domain.requests == []
    guest.say(held=0)
    guest.clock.now += LOOK
    await guest.guest_program.look()
    assert (await reserving.sample()).problem is None
    await reserving.set_memory(600 * MIB)
    assert domain.requests == [600 * MIB]
    assert guest.guest_program.wanted is None


@pytest.mark.parametrize(
    ("system", "python", "reason"),
    [
        ("mswindows", True, "GuestUnsupported"),
        ("alpine", False, "GuestUnsupported"),
        ("debian", True, "GuestProgramAbsent"),
    ],
)
async def test_a_guest_without_program_has_a_reason(guest: Guest, system: str, reason: str, *, python: bool) -> None:
    guest.channel.system = system
    if not python:
        guest.channel.refused["guest-exec"] = "Failed to execute child process: No such file or directory"
    guest.guest_program.method = ReclaimMethod.GUEST_AGENT
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    problem = guest.guest_program.sample(BARE).problem
    assert problem is not None
    assert problem[0] == reason


async def test_of_a_windows_guest_whose_balloon_has_no_driver_it_is_said_that_no_program_helps(guest: Guest) -> None:
    guest.channel.system = "mswindows"
    driverless = ProgramMemoryControl(FakeDomain(size=SIZE, actual=SIZE, reports=False), guest.guest_program)
    await driverless.sample()
    assert guest.guest_program.due, "a balloon that never reported is as good as none"
    await guest.guest_program.look()
    assert "guest-exec" not in guest.channel.commands, "nothing is run in a Windows guest"
    sample = await driverless.sample()
    assert sample.problem is None, "the driver may still come, and then it is used: what is missing is for the worker"
    assert sample.alone == "its guest is Windows, for which there is no reservation program"


async def test_where_files_are_refused_the_program_is_run(guest: Guest) -> None:
    guest.channel.refused["guest-file-open"] = "the command guest-file-open has been disabled"
    status = json.dumps({"number": 1, "asked": 0, "held": 0, "available": 500 * MIB, "spare": 0}).encode()
    guest.channel.program = lambda arguments: (0, status if "--status" in arguments else b"")
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    assert guest.guest_program.engaged
    guest.guest_program.ask(64 * MIB)
    await guest.guest_program.look()
    assert guest.channel.ran[-1][1:] == (PROGRAM, "--ask", str(64 * MIB))


async def test_an_agent_that_does_not_answer_leaves_what_is_held_as_it_is(guest: Guest) -> None:
    guest.say(held=100 * MIB)
    guest.guest_program.sample(BARE)
    await guest.guest_program.look()
    guest.channel.absent = AgentError(AgentReason.GUEST_AGENT_HUNG, "its guest agent did not answer")
    guest.clock.now += 60
    await guest.guest_program.look()
    sample = guest.guest_program.sample(BARE)
    assert sample.problem == ("GuestAgentHung", "its guest agent did not answer")
    assert sample.statistics.actual == SIZE - 100 * MIB


@pytest.fixture
def bare(installed: ControlPlane, lab_node: LabNode) -> Iterator[LauncherPod]:
    """A guest without balloon, in which the program runs; its memory has all been used before."""
    spec = GuestSpec(name="bare", balloon=False, python=True, mergeable=True, memory_bytes=384 * MIB)
    with booted(lab_node, spec) as pod:
        install_program(pod)
        pod.load.set(230)
        pod.load.set(0)
        with presented(installed, lab_node, pod):
            yield pod


def install_program(pod: LauncherPod) -> None:
    pod.run(f"mkdir -p {Path(PROGRAM).parent}; echo done >/run/made")
    eventually(lambda: pod.read_file("/run/made"))
    pod.write_file(PROGRAM, Path(kubeballoon_guest.__file__).read_bytes())
    pod.run(f"/usr/bin/python3 {PROGRAM}")


@pytest.mark.cluster
@pytest.mark.guest
def test_a_guest_without_a_driver_gives_memory_to_the_node_and_takes_it_back(
    installed: ControlPlane, lab_node: LabNode, bare: LauncherPod, tmp_path: Path
) -> None:
    size, reserved = bare.spec.memory_bytes, 150 * MIB
    with merging(), agent(installed, lab_node, tmp_path / "agent"):
        eventually(lambda: reported(installed, lab_node, bare).get("method") == "GuestAgent")
        before = bare.proportional_bytes()
        annotate(installed, bare, memory_target=str(size - reserved))
        eventually(lambda: bare.proportional_bytes() < before - 100 * MIB)

        def settled() -> bool:
            vm = reported(installed, lab_node, bare)
            there = parse_quantity(vm["actual"]) == size - reserved and parse_quantity(vm["claimed"]) == reserved
            regained = vm["regainedBy"] == "KSM" and parse_quantity(vm["resident"]) < before - 80 * MIB
            return there and regained and bool(vm["responsive"])

        eventually(settled, tell=lambda: reported(installed, lab_node, bare))
        low = bare.proportional_bytes()
        for used in range(90, 200, 8):  # more in the end than is left to it; and slowly, or its kernel would kill
            assert bare.load.set(used).held_mib == used
            eventually(lambda: bare.load.info().available_bytes >= KEPT_AT_LEAST // 2, tell=bare.load.info)
        assert not bare.load.info().kills
        assert bare.proportional_bytes() > low + 40 * MIB  # some of what it uses now was resident all the while
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["actual"]) > size - reserved + 48 * MIB)
        annotate(installed, bare, memory_target=None)
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["actual"]) == size)


@pytest.mark.cluster
@pytest.mark.guest
def test_where_a_real_guest_refuses_files_the_program_is_run_in_it(
    installed: ControlPlane, lab_node: LabNode, bare: LauncherPod, tmp_path: Path
) -> None:
    size = bare.spec.memory_bytes
    refuse(bare, "guest-file-open")
    with merging(), agent(installed, lab_node, tmp_path / "agent"):
        eventually(lambda: reported(installed, lab_node, bare).get("method") == "GuestAgent")
        annotate(installed, bare, memory_target=str(size - 64 * MIB))
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["claimed"]) == 64 * MIB)
        annotate(installed, bare, memory_target=None)
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["claimed"]) == 0)


@pytest.mark.cluster
@pytest.mark.guest
def test_a_node_that_merges_nothing_gets_nothing_and_gives_it_back(
    installed: ControlPlane, lab_node: LabNode, bare: LauncherPod, tmp_path: Path
) -> None:
    def found_out() -> bool:
        vm = reported(installed, lab_node, bare)
        return (vm["reason"], vm["regainedBy"], vm["responsive"]) == (AgentReason.BALLOON_INEFFECTIVE, "None", False)

    with agent(installed, lab_node, tmp_path / "agent"):
        annotate(installed, bare, memory_target=str(bare.spec.memory_bytes - 150 * MIB))
        eventually(found_out)
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["claimed"]) == 0)
