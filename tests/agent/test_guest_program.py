"""Memory that the program in a guest locks: a fake that does as the test says, and real guests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod
from hack.testbed.lab.fakes import FakeGuestControl, FakeMemoryControl
from hack.testbed.lab.ksm import merging, not_merging
from kubeballoon.agent.hypervisor.errors import GuestAgentError, HungError
from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.agent.hypervisor.qemu_guest_agent import GuestAgent
from kubeballoon.agent.vm.guest_program_client import CHANGING, DIRECTORY, PROGRAM, GuestProgram, ProgramMemoryControl
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import FreedBy
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.reclaim_state import ReclaimState
from kubeballoon.guest import kubeballoon_guest
from kubeballoon.guest.kubeballoon_guest import KEPT_AT_LEAST
from kubeballoon.vocabulary import AgentAction, ReclaimMethod
from tests.agent.fast_timing import QUICK
from tests.support.guests import booted, refuse
from tests.support.processes import agent
from tests.support.reports import annotate, presented, reported
from tests.support.waiting import SLOW, Clock, eventually

GONE_AFTER = DEFAULT_TIMING.program.gone_after
STATUS, REQUEST = f"{DIRECTORY}/status", f"{DIRECTORY}/request"
SIZE = 1024 * MIB
BARE = DomainSample(SIZE, SIZE, running=True, balloon=False, statistics=GuestStatistics(actual=SIZE, updated=0.0))
BALLOONED = replace(BARE, balloon=True, statistics=GuestStatistics(actual=SIZE, updated=1.0, usable=SIZE // 2))


@dataclass
class FakeQemu(FakeGuestControl):
    """A process of whose memory KSM has merged ``bytes_merged``."""

    bytes_merged: int = 0

    def merged(self) -> int | None:
        """Read how many bytes KSM merged."""
        return self.bytes_merged


@dataclass
class Guest:
    """A guest with a program of numbers, and what the agent knows of that program."""

    control: FakeQemu = field(default_factory=FakeQemu)
    clock: Clock = field(default_factory=Clock)
    merges: bool = True
    number: int = 0

    def __post_init__(self) -> None:
        """Connect the two."""
        self.agent = GuestAgent(self.clock, QUICK.guest_agent)
        self.agent.control = self.control
        self.guest_program = GuestProgram(
            self.agent, self.control, lambda: None, clock=self.clock, merges=lambda: self.merges
        )

    def report(
        self, locked: int, available: int = 500 * MIB, spare: int = 450 * MIB, *, requested: int | None = None
    ) -> None:
        """Have the program look at its guest once more; it knows what is requested unless the test says otherwise."""
        self.number += 1
        if requested is None:
            requested = self.requested or 0
        status = {
            "number": self.number,
            "requested": requested,
            "locked": locked,
            "available": available,
            "spare": spare,
        }
        self.control.files[STATUS] = json.dumps(status).encode()

    @property
    def requested(self) -> int | None:
        """What the program was requested to lock, bytes; None while nothing was requested."""
        return json.loads(self.control.files[REQUEST])["lock"] if REQUEST in self.control.files else None


@pytest.fixture
def guest() -> Guest:
    return Guest()


async def test_a_lost_connection_to_the_guest_agent_leaves_requests_to_the_program_in_force(guest: Guest) -> None:
    """The memory worker has a connection of its own, so the VM is not unreachable to it."""
    guest.control.absent = HungError("libvirt did not answer within 5s")
    with pytest.raises(HungError):
        await guest.guest_program.poll()
    assert guest.guest_program.problem is not None
    assert guest.guest_program.problem.reason.memory is AgentAction.FOLLOWS


async def test_the_program_locks_memory_where_there_is_no_balloon(guest: Guest) -> None:
    control = FakeMemoryControl(size=SIZE, actual=SIZE, balloon=False, reports=False)
    with_program = ProgramMemoryControl(control, guest.guest_program)
    guest.report(locked=0)
    await with_program.sample()
    await guest.guest_program.poll()
    assert (await with_program.sample()).balloon
    await with_program.set_memory(600 * MIB)
    await guest.guest_program.poll()
    assert guest.requested == SIZE - 600 * MIB
    guest.report(locked=SIZE - 600 * MIB, available=50 * MIB)
    await guest.guest_program.poll()
    sample = await with_program.sample()
    assert sample.statistics.actual == sample.statistics.actual_at_report == 600 * MIB
    assert sample.statistics.usable == 50 * MIB
    assert control.requests == []


async def test_a_program_has_answered_once_it_looked_knowing_the_request(guest: Guest) -> None:
    guest.report(locked=0)
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    assert guest.guest_program.sample(BARE).unanswered is None
    guest.guest_program.request(64 * MIB)
    await guest.guest_program.poll()
    guest.guest_program.request(64 * MIB)
    assert guest.guest_program.sample(BARE).unanswered == SIZE - 64 * MIB, "it has not looked since"
    guest.report(locked=16 * MIB)
    guest.clock.now += 1
    await guest.guest_program.poll()
    assert guest.guest_program.sample(BARE).unanswered is None
    assert guest.guest_program.sample(BARE).unanswered == SIZE - 64 * MIB, "that is what it said before"


async def test_a_program_that_never_follows_is_not_waited_for_for_ever(guest: Guest) -> None:
    guest.report(locked=0)
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    guest.guest_program.request(64 * MIB)
    for _ in range(3):
        guest.clock.now += GONE_AFTER / 2
        guest.report(locked=0, requested=0)
        await guest.guest_program.poll()
    assert guest.guest_program.sample(BARE).unanswered is None


async def test_a_guest_that_does_not_answer_is_asked_again_for_a_program_with_locked_memory(guest: Guest) -> None:
    guest.guest_program.sample(BALLOONED)
    guest.control.files[REQUEST] = json.dumps({"lock": 100 * MIB}).encode()
    guest.report(locked=100 * MIB)
    guest.control.absent = GuestAgentError(AgentReason.GUEST_AGENT_HUNG, "its guest agent did not answer")
    await guest.guest_program.poll()
    guest.control.absent = None
    guest.clock.now += 60
    assert guest.guest_program.due
    await guest.guest_program.poll()
    assert guest.guest_program.sample(BALLOONED).problem == CHANGING
    assert guest.requested == 0, "a balloon that works is to reclaim alone"


async def test_a_program_whose_status_is_not_understood_is_asked_again(guest: Guest) -> None:
    guest.guest_program.sample(BALLOONED)
    guest.control.files[STATUS] = b'["a program of tomorrow"]'
    await guest.guest_program.poll()
    guest.clock.now += 60
    assert guest.guest_program.due
    guest.report(locked=MIB)
    await guest.guest_program.poll()
    assert guest.guest_program.status is not None
    assert guest.guest_program.status.locked == MIB


async def test_a_program_that_locks_nearly_what_is_requested_is_not_asked_all_the_time(guest: Guest) -> None:
    guest.report(locked=0)
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    guest.guest_program.request(105 * MIB + 5)
    await guest.guest_program.poll()
    assert guest.guest_program.moving
    guest.report(locked=105 * MIB)
    await guest.guest_program.poll()
    assert not guest.guest_program.moving


async def test_a_program_that_has_ended_does_not_count_as_running_by_the_file_it_left(guest: Guest) -> None:
    guest.report(locked=100 * MIB)
    guest.guest_program.sample(BARE)
    for _ in range(4):
        await guest.guest_program.poll()
        guest.clock.now += GONE_AFTER
    assert guest.guest_program.status is None
    guest.report(locked=50 * MIB)
    await guest.guest_program.poll()
    assert guest.guest_program.status is not None


async def test_a_balloon_that_works_needs_no_program(guest: Guest) -> None:
    guest.report(locked=0)
    guest.guest_program.sample(BALLOONED)
    await guest.guest_program.poll()
    assert guest.guest_program.sample(BALLOONED) == BALLOONED
    assert not guest.guest_program.due, "and its guest is asked no more"


@pytest.mark.parametrize(("governed", "past_unknown"), [(True, False), (False, True)], ids=["governed", "migrated"])
async def test_a_guest_is_searched_for_a_program_once_its_driver_has_had_time_to_report(
    guest: Guest, *, governed: bool, past_unknown: bool
) -> None:
    program = guest.guest_program
    program.suspected, program.governed, program.past_unknown = False, governed, past_unknown
    due = [program.due]
    program.sample(replace(BARE, balloon=True))
    due.append(program.due)
    guest.clock.now += DEFAULT_TIMING.program.driver_grace
    due.append(program.due)
    program.sample(BALLOONED)
    due.append(program.due)
    program.sample(BARE)
    due.append(program.due)
    program.governed = program.past_unknown = False
    due.append(program.due)
    # Nothing is known, it may be booting, it does not report, its balloon works, it has none; nobody needs a program.
    assert due == [False, False, True, False, True, False]


async def test_memory_that_a_program_has_locked_beside_a_working_balloon_is_freed(guest: Guest) -> None:
    guest.control.files[REQUEST] = b'{"lock": 4096}'
    guest.report(locked=100 * MIB)
    guest.guest_program.sample(BALLOONED)
    await guest.guest_program.poll()
    assert guest.requested == 0


async def test_a_new_agent_leaves_locked_memory_as_it_is(guest: Guest) -> None:
    guest.control.files[REQUEST] = json.dumps({"lock": 100 * MIB}).encode()
    guest.report(locked=100 * MIB)
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    assert guest.requested == 100 * MIB
    assert guest.guest_program.sample(BARE).statistics.actual == SIZE - 100 * MIB


async def test_memory_that_the_node_has_back_counts_and_not_what_the_program_claims(guest: Guest) -> None:
    guest.report(locked=400 * MIB)
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    assert guest.guest_program.sample(BARE).resident == SIZE
    guest.control.bytes_merged = 300 * MIB
    await guest.guest_program.poll()
    assert guest.guest_program.sample(BARE).resident == SIZE - 300 * MIB


async def test_how_the_node_gets_memory_back_is_reported(guest: Guest) -> None:
    ways = [guest.guest_program.freed_by]
    guest.merges = False
    ways.append(guest.guest_program.freed_by)
    assert ways == [FreedBy.KSM, FreedBy.NONE]


async def test_the_program_locks_nothing_before_the_balloon_has_given_all_back(guest: Guest) -> None:
    control = FakeMemoryControl(size=SIZE, actual=512 * MIB, follows=False)
    with_program = ProgramMemoryControl(control, guest.guest_program)
    guest.guest_program.method = ReclaimMethod.GUEST_AGENT
    guest.report(locked=0)
    await with_program.sample()
    await guest.guest_program.poll()
    sample = await with_program.sample()
    assert (sample.statistics.actual, sample.problem) == (512 * MIB, CHANGING)
    await with_program.set_memory(512 * MIB)
    await guest.guest_program.poll()
    assert guest.requested is None
    assert set(control.requests) == {SIZE}
    guest.guest_program.hold = True
    requests = len(control.requests)
    await with_program.sample()
    assert len(control.requests) == requests, "one that migrates is left as it is"
    guest.guest_program.hold, control.follows = False, True
    await with_program.sample()
    sample = await with_program.sample()
    assert (sample.statistics.actual, sample.problem) == (SIZE, None)
    await with_program.set_memory(512 * MIB)
    await guest.guest_program.poll()
    assert guest.requested == 512 * MIB


async def test_the_balloon_reclaims_nothing_before_the_program_has_given_all_back(guest: Guest) -> None:
    control = FakeMemoryControl(size=SIZE, actual=SIZE)
    with_program = ProgramMemoryControl(control, guest.guest_program)
    guest.guest_program.method = ReclaimMethod.GUEST_AGENT
    guest.report(locked=0)
    await with_program.sample()
    await guest.guest_program.poll()
    await with_program.set_memory(600 * MIB)
    await guest.guest_program.poll()
    guest.report(locked=SIZE - 600 * MIB)
    await guest.guest_program.poll()
    guest.guest_program.method = ReclaimMethod.BALLOON
    sample = await with_program.sample()
    assert (sample.statistics.actual, sample.problem) == (600 * MIB, CHANGING)
    await with_program.set_memory(600 * MIB)
    await guest.guest_program.poll()
    assert guest.requested == 0
    assert control.requests == []
    guest.report(locked=0)
    guest.clock.now += DEFAULT_TIMING.program.poll
    await guest.guest_program.poll()
    assert (await with_program.sample()).problem is None
    await with_program.set_memory(600 * MIB)
    assert control.requests == [600 * MIB]
    assert guest.guest_program.requested is None


@pytest.mark.parametrize(
    ("system", "python", "reason"),
    [
        ("mswindows", True, "GuestUnsupported"),
        ("alpine", False, "GuestUnsupported"),
        ("debian", True, "GuestProgramAbsent"),
    ],
)
async def test_a_guest_without_program_has_a_reason(guest: Guest, system: str, reason: str, *, python: bool) -> None:
    guest.control.system = system
    if not python:
        guest.control.refused["guest-exec"] = "Failed to execute child process: No such file or directory"
    guest.guest_program.method = ReclaimMethod.GUEST_AGENT
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    problem = guest.guest_program.sample(BARE).problem
    assert problem is not None
    assert problem[0] == reason


async def test_a_windows_guest_without_a_balloon_driver_is_reported_to_have_no_program_either(guest: Guest) -> None:
    guest.control.system = "mswindows"
    driverless = ProgramMemoryControl(FakeMemoryControl(size=SIZE, actual=SIZE, reports=False), guest.guest_program)
    await driverless.sample()
    assert guest.guest_program.due, "a balloon that never reported is as good as none"
    await guest.guest_program.poll()
    assert "guest-exec" not in guest.control.commands, "nothing is run in a Windows guest"
    sample = await driverless.sample()
    assert sample.problem is None, "the driver may still come, and then it is used: what is missing is for the worker"
    assert sample.program_fault == "its guest is Windows, for which there is no guest program"


async def test_where_files_are_refused_the_program_is_run(guest: Guest) -> None:
    guest.control.refused["guest-file-open"] = "the command guest-file-open has been disabled"
    status = json.dumps({"number": 1, "requested": 0, "locked": 0, "available": 500 * MIB, "spare": 0}).encode()
    guest.control.program = lambda arguments: (0, status if "--status" in arguments else b"")
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    assert guest.guest_program.state is ReclaimState.PROGRAM_RECLAIMS
    guest.guest_program.request(64 * MIB)
    await guest.guest_program.poll()
    assert guest.control.ran[-1][1:] == (PROGRAM, "--ask", str(64 * MIB))


async def test_a_guest_agent_that_does_not_answer_leaves_locked_memory_as_it_is(guest: Guest) -> None:
    guest.report(locked=100 * MIB)
    guest.guest_program.sample(BARE)
    await guest.guest_program.poll()
    guest.control.absent = GuestAgentError(AgentReason.GUEST_AGENT_HUNG, "its guest agent did not answer")
    guest.clock.now += 60
    await guest.guest_program.poll()
    sample = guest.guest_program.sample(BARE)
    assert sample.problem == ("GuestAgentHung", "its guest agent did not answer")
    assert sample.statistics.actual == SIZE - 100 * MIB


@pytest.fixture
def bare(installed: ControlPlane, lab_node: LabNode) -> Iterator[LauncherPod]:
    """A guest without a balloon, in which the program runs; all of its memory has been used before."""
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
    size, locked = bare.spec.memory_bytes, 150 * MIB
    with merging(), agent(installed, lab_node, tmp_path / "agent"):
        eventually(lambda: reported(installed, lab_node, bare).get("method") == "GuestAgent")
        before = bare.proportional_bytes()
        annotate(installed, bare, memory_target=str(size - locked))
        eventually(lambda: bare.proportional_bytes() < before - 100 * MIB)

        def settled() -> bool:
            vm = reported(installed, lab_node, bare)
            there = parse_quantity(vm["actual"]) == size - locked and parse_quantity(vm["claimed"]) == locked
            freed = vm["freedBy"] == "KSM" and parse_quantity(vm["resident"]) < before - 80 * MIB
            return there and freed and bool(vm["responsive"])

        eventually(settled, tell=lambda: reported(installed, lab_node, bare))
        low = bare.proportional_bytes()
        for used in range(90, 200, 8):  # more in the end than is left to it; and slowly, or its kernel would kill
            assert bare.load.set(used).held_mib == used
            eventually(lambda: bare.load.info().available_bytes >= KEPT_AT_LEAST // 2, tell=bare.load.info)
        assert not bare.load.info().kills
        assert bare.proportional_bytes() > low + 40 * MIB  # some of what it uses now was resident all the while
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["actual"]) > size - locked + 48 * MIB)
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

        def seen() -> tuple[dict[str, Any], str]:
            return reported(installed, lab_node, bare), (tmp_path / "agent").read_text()

        # Each look starts Python twice in an emulated guest, and each of the four steps takes several looks.
        eventually(lambda: parse_quantity(seen()[0].get("claimed", "0")) == 64 * MIB, 4 * SLOW, tell=seen)
        annotate(installed, bare, memory_target=None)
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["claimed"]) == 0, 4 * SLOW)


@pytest.mark.cluster
@pytest.mark.guest
def test_on_a_node_that_merges_nothing_the_guest_has_its_memory_back(
    installed: ControlPlane, lab_node: LabNode, bare: LauncherPod, tmp_path: Path
) -> None:
    def is_noticed() -> bool:
        vm = reported(installed, lab_node, bare)
        return (vm["reason"], vm["freedBy"], vm["responsive"]) == (AgentReason.BALLOON_INEFFECTIVE, "None", False)

    with not_merging(), agent(installed, lab_node, tmp_path / "agent"):
        annotate(installed, bare, memory_target=str(bare.spec.memory_bytes - 150 * MIB))
        eventually(is_noticed)
        eventually(lambda: parse_quantity(reported(installed, lab_node, bare)["claimed"]) == 0)
