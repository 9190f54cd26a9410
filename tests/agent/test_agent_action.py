"""What an agent does about a VM is what its reason says, and what the controller counts with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.lab import GuestSpec, vmi_object
from hack.testbed.lab.fakes import FakeGuestControl, FakeHypervisor, FakeMemoryControl
from kubeballoon.agent.emergency import set_emergency_targets
from kubeballoon.agent.event_wait import wait_for
from kubeballoon.agent.hypervisor.errors import (
    GarbledError,
    GuestAgentError,
    HungError,
    HypervisorError,
    SocketRefusedError,
)
from kubeballoon.agent.hypervisor.protocols import DomainSample, Hypervisor, PluggedProcessors, ProcessMemory
from kubeballoon.agent.hypervisor.qemu_guest_agent import GuestAgent
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.report import NodeObservation, compose
from kubeballoon.agent.settings import AgentSettings
from kubeballoon.agent.vm.guest_program_client import CHANGING, GuestProgram, ProgramHypervisor
from kubeballoon.agent.vm.guest_worker import GuestWorker
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.agent.vm.policy_backing import PolicyBacking
from kubeballoon.agent.vm.vmi import OVERHEAD, Instance, read_instance
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressureStatus, ProcessorMethod
from kubeballoon.core.memory.node_state import MemoryStall, NodeLimits, StateThresholds
from kubeballoon.core.memory.pacing import Pace
from kubeballoon.governance.core_inputs import memory_vm
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.vocabulary import AgentAction, NodeState, ReclaimMethod
from tests.agent.fast_timing import QUICK
from tests.support.cluster import memory_policy
from tests.support.waiting import soon

pytestmark = pytest.mark.usefixtures("sockets")

until = partial(soon, seconds=20.0)

MIB = 1 << 20
DOMAIN = "default_vm"
RESTLESS = replace(QUICK, guest=replace(QUICK.guest, poll=0.0, moving_poll=0.0, idle_poll=0.0))
SIZE, HELD, TARGET = 1024 * MIB, 600 * MIB, 400 * MIB
GUEST_AGENT_FAILURES = frozenset(
    {
        AgentReason.GUEST_AGENT_ABSENT,
        AgentReason.GUEST_AGENT_HUNG,
        AgentReason.GUEST_AGENT_BUSY,
        AgentReason.GUEST_AGENT_REFUSED,
        AgentReason.GUEST_AGENT_GARBLED,
    }
)
FOUND_BY_LOOKING = GUEST_AGENT_FAILURES | {
    AgentReason.UNREACHABLE,
    AgentReason.SOCKET_REFUSED,
    AgentReason.DAEMON_GARBLED,
    AgentReason.INTERNAL_ERROR,
    AgentReason.NOT_FOLLOWING,
    AgentReason.UNPLUG_LOST,
    AgentReason.UNPLUG_REFUSED,
    AgentReason.NOT_REMOVABLE,
    AgentReason.NOT_OFFLINABLE,
}
"""Reasons that the agent finds by looking at the processors; others stand in the VM's object, or concern memory."""
UNRESPONSIVE_PROCESSORS = GUEST_AGENT_FAILURES | {
    AgentReason.UNKNOWN,
    AgentReason.DEDICATED_CPU,
    AgentReason.REALTIME,
    AgentReason.NUMA_PASSTHROUGH,
    AgentReason.MIGRATING,
    AgentReason.PAUSED,
    AgentReason.BAD_REQUEST,
    AgentReason.HUNG,
    AgentReason.UNREACHABLE,
    AgentReason.SOCKET_REFUSED,
    AgentReason.DAEMON_GARBLED,
    AgentReason.UNRESPONSIVE,
    AgentReason.NO_BALLOON,
    AgentReason.INTERNAL_ERROR,
    AgentReason.NOT_FOLLOWING,
}


@dataclass
class Troublesome(FakeMemoryControl):
    """A VM that has a problem, and whose guest does not follow requests."""

    actual: int = HELD
    follows: bool = False
    problem: Problem | None = None
    samples: int = 0

    async def sample(self) -> DomainSample:
        """Read the memory, and the problem."""
        self.samples += 1
        return replace(await super().sample(), problem=self.problem)


@asynccontextmanager
async def sampled(
    control: FakeMemoryControl,
    changes: dict[str, Any],
    hypervisor: Hypervisor | None = None,
    process: ProcessMemory | None = None,
) -> AsyncIterator[MemoryWorker]:
    """Have a worker that has sampled its VM once."""
    vmi = vmi_object(GuestSpec(name="vm", memory_bytes=SIZE), "pod", "here")
    vmi["metadata"]["uid"] = "vm"
    found = read_instance(vmi, "here")
    assert found is not None
    changed = asyncio.Event()
    settings = AgentSettings(Path("/pods"), 60.0, 1, QUICK)
    worker = MemoryWorker(
        replace(found, **changes),
        hypervisor or FakeHypervisor({DOMAIN: control}),
        settings,
        changed.set,
        process=process,
    )
    task = asyncio.create_task(worker.run())
    await changed.wait()
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def composed(
    memory: HostMemory, state: NodeState, *workers: MemoryWorker, guest_worker: GuestWorker | None = None
) -> NodePressureStatus:
    node = NodeObservation(memory, state, NodeLimits(StateThresholds(4, 3, 2, 1), reserve=4))
    return compose(node, [(worker, guest_worker) for worker in workers], [], datetime.now(UTC))


def counted(worker: MemoryWorker, target: int | None) -> int:
    """Compute what the controller sets aside for a VM, by its agent's report, where it requests ``target``."""
    status = composed(HostMemory(SIZE, 0, MemoryStall()), NodeState.AMPLE, worker)
    return memory_vm(status.virtual_machines[0], None).charge(target)


@pytest.mark.parametrize("target", [None, TARGET])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ineligibility": Problem(AgentReason.VFIO, "a device is passed through")},
        {"hold": Problem(AgentReason.MIGRATING, "it is migrating")},
        {"fault": "annotation x: no"},
        {"return_all": Problem(AgentReason.MEMORY_HOTPLUG, "its memory is being resized")},
    ],
    ids=["nothing about it", "not eligible", "held", "a request that cannot be read", "being resized"],
)
@pytest.mark.parametrize("problem", [None, *AgentReason])
async def test_a_vm_counts_as_what_its_agent_is_going_to_leave_it(
    problem: AgentReason | None, changes: dict[str, Any], target: int | None
) -> None:
    control = Troublesome(problem=None if problem is None else Problem(problem, problem.meaning))
    async with sampled(control, {"target": target, **changes}) as worker:
        # While the method changes another part of the agent returns the memory, and a VM that is resized counts whole.
        given_all = worker.view.goal == SIZE or "return_all" in changes or (problem is CHANGING.reason and not changes)
        assert counted(worker, target) == (SIZE if given_all else HELD)


@pytest.mark.parametrize("reason", AgentReason)
async def test_a_worker_does_about_a_vm_s_memory_what_the_reason_says(reason: AgentReason) -> None:
    control = Troublesome(follows=True, problem=Problem.of(reason))
    hypervisor: Hypervisor = FakeHypervisor({DOMAIN: control})
    if reason is CHANGING.reason:  # a change of method is no fault of the VM's: the guest program finds out by itself
        hypervisor, control.problem = changing_to_program(hypervisor), None
    async with sampled(control, {"target": TARGET}, hypervisor):
        await until(lambda: control.actual in (TARGET, SIZE) or (control.samples > 10 and not control.requests))
    actions = {TARGET: AgentAction.FOLLOWS, HELD: AgentAction.HOLDS, SIZE: AgentAction.RETURNS_ALL}
    assert actions.get(control.actual) is reason.memory, (
        f"AgentReason.{reason.name} says that the agent {reason.memory}, but what it does is {control.requests}: "
        "change its `memory` in api/reasons.py, or what MemoryWorker does"
    )


def changing_to_program(hypervisor: Hypervisor) -> Hypervisor:
    """Put a program in the guest in the balloon's place, which the balloon has to make way for."""
    program = GuestProgram(GuestAgent(), FakeGuestControl(), lambda: None)
    program.method = ReclaimMethod.GUEST_AGENT
    return ProgramHypervisor(hypervisor, program)


class Faulty(FakeGuestControl):
    """A VM whose processors cannot be read because of an error that nobody expects."""

    async def plugged(self) -> PluggedProcessors:
        """Fail."""
        raise ZeroDivisionError("nobody expects it")


class NotRemovable(FakeGuestControl):
    """A VM of which no processor can be unplugged."""

    async def plugged(self) -> PluggedProcessors:
        """Read the processors."""
        return replace(await super().plugged(), removable=())


def control_with(reason: AgentReason) -> FakeGuestControl:
    """Make a guest, processors and a process that are so that their agent comes upon ``reason``."""
    if reason in GUEST_AGENT_FAILURES:
        return FakeGuestControl(absent=GuestAgentError(reason, reason.meaning))
    made: dict[AgentReason, Callable[[], FakeGuestControl]] = {
        AgentReason.HUNG: lambda: FakeGuestControl(gone=HungError("its daemon hangs")),
        AgentReason.UNREACHABLE: lambda: FakeGuestControl(gone=HypervisorError("its daemon is gone")),
        AgentReason.SOCKET_REFUSED: lambda: FakeGuestControl(gone=SocketRefusedError("a link stands there")),
        AgentReason.DAEMON_GARBLED: lambda: FakeGuestControl(gone=GarbledError("its daemon lies")),
        AgentReason.INTERNAL_ERROR: Faulty,
        AgentReason.NOT_FOLLOWING: lambda: FakeGuestControl(deaf=True),
        AgentReason.UNPLUG_LOST: lambda: FakeGuestControl(tells=False),
        AgentReason.UNPLUG_REFUSED: lambda: FakeGuestControl(ejects=False),
        AgentReason.NOT_REMOVABLE: NotRemovable,
        AgentReason.NOT_OFFLINABLE: lambda: FakeGuestControl(fixed=frozenset({0, 1, 2})),
    }
    return made.get(reason, FakeGuestControl)()


def instance_with(reason: AgentReason, vm: Instance) -> Instance:
    """Change a VM's object so that its agent reads ``reason`` from it; most of the reasons concern memory alone."""
    if reason in FOUND_BY_LOOKING:
        by_driver = reason in (AgentReason.UNPLUG_LOST, AgentReason.UNPLUG_REFUSED, AgentReason.NOT_REMOVABLE)
        method = ProcessorMethod.DRIVER if by_driver else ProcessorMethod.AUTO
        return replace(vm, processors=replace(vm.processors, method=method))
    match reason:
        case AgentReason.DEDICATED_CPU | AgentReason.REALTIME | AgentReason.NUMA_PASSTHROUGH | AgentReason.UNKNOWN:
            return replace(vm, processors=replace(vm.processors, ineligibility=Problem.of(reason)))
        case AgentReason.BAD_REQUEST:
            return replace(vm, processors=replace(vm.processors, fault="annotation x: no"))
        case AgentReason.MIGRATING | AgentReason.PAUSED:
            return replace(vm, hold=Problem.of(reason))
    return replace(vm, ineligibility=Problem.of(reason))


@pytest.mark.parametrize("reason", AgentReason)
async def test_a_worker_does_about_a_vm_s_processors_what_the_reason_says(reason: AgentReason) -> None:
    vmi = vmi_object(GuestSpec(name="vm", vcpus=4), "pod", "here", annotations={"kubeballoon.io/processor-target": "2"})
    vmi["metadata"]["uid"] = "vm"
    plain = read_instance(vmi, "here")
    assert plain is not None
    control, vm = control_with(reason), instance_with(reason, plain)
    seen: set[AgentReason] = set()
    passes, undone = 0, asyncio.Event()

    async def wait(event: asyncio.Event, seconds: float) -> bool:  # noqa: ARG001 - no pause takes any time
        nonlocal passes
        passes += 1
        if reason in seen:
            await undone.wait()
        return await wait_for(event, 0)

    def tries() -> int:
        return control.commands.count("guest-set-vcpus") + len(control.unplugged)

    def changed() -> None:
        problem = worker.processors.view.problem
        if problem is not None:
            seen.add(problem.reason)

    worker = GuestWorker(vm, FakeHypervisor({}, {DOMAIN: control}), Path("/pods"), changed, RESTLESS, wait)
    worker.processors.qemu = control
    worker.processors.clock = lambda: float(control.looks)  # a second passes with every look
    task = asyncio.create_task(worker.run())
    if reason in FOUND_BY_LOOKING:
        await until(lambda: reason in seen)
    before, since = tries(), passes
    control.online, control.count = dict.fromkeys(range(4), True), 4  # what was done so far is undone
    undone.set()
    await until(lambda: tries() > before or passes > since + 2 * DEFAULT_TIMING.processors.agent_absent_after)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    done = AgentAction.FOLLOWS if tries() > before else AgentAction.HOLDS
    assert done is reason.processors, (
        f"AgentReason.{reason.name} says that the agent {reason.processors}, but what it does is {done}: "
        "change its `processors` in api/reasons.py, or what GuestProcessors does"
    )


@pytest.mark.parametrize("reason", AgentReason)
async def test_a_vm_whose_processors_stay_as_they_are_is_reported_to_be_unresponsive(reason: AgentReason) -> None:
    control = FakeMemoryControl(size=SIZE, actual=SIZE)
    async with sampled(control, {}) as memory_worker:
        guest_worker = GuestWorker(memory_worker.instance, FakeHypervisor({}), Path("/pods"), lambda: None)
        guest_worker.processors.fail(reason, reason.meaning)
        status = composed(HostMemory(SIZE, 0, MemoryStall()), NodeState.AMPLE, memory_worker, guest_worker=guest_worker)
    report = status.virtual_machines[0].processors
    assert report is not None
    assert report.responsive is (reason not in UNRESPONSIVE_PROCESSORS)


@pytest.mark.parametrize("target", [None, TARGET])
async def test_a_vm_that_cannot_be_reached_counts_as_what_it_held(target: int | None) -> None:
    control = Troublesome()
    async with sampled(control, {"target": target}) as worker:
        control.gone = HypervisorError("it is gone")
        await until(lambda: worker.view.problem is not None)
        assert worker.view.goal is None
        assert counted(worker, target) == HELD


@pytest.mark.parametrize(("binding", "left"), [(True, None), (False, 512 * MIB)])
async def test_a_request_without_a_known_policy_is_reckoned_with_as_long_as_it_is_followed(
    binding: bool,  # noqa: FBT001 - a parameter
    left: int | None,
) -> None:
    """Otherwise the others would be reduced to their minimums to make room for all of such a VM."""
    async with (
        sampled(Troublesome(actual=900 * MIB), {"target": 900 * MIB}) as sharing,
        sampled(Troublesome(actual=TARGET), {"target": TARGET, "uid": "other"}) as other,
    ):
        await until(lambda: sharing.view.need is not None)
        sharing.update(
            sharing.instance, PolicyBacking(load_memory_policy(MemoryPolicy.model_validate(memory_policy("p"))))
        )
        other.update(other.instance, PolicyBacking(binding=binding))
        workers, memory = [sharing, other], HostMemory(1600 * MIB, 200 * MIB, MemoryStall())
        status = composed(memory, NodeState.SCARCE, *workers)
        set_emergency_targets("here", status, workers)
        assert sharing.emergency_target == left


@pytest.mark.parametrize(
    ("resident", "other"),
    [(300 * MIB, 700 * MIB), (100 << 40, 1000 * MIB - HELD - OVERHEAD), (None, 1000 * MIB)],
    ids=["what it holds", "more than it can", "unseen"],
)
async def test_what_a_vm_s_process_seems_to_hold_hides_no_more_of_the_node_s_use_than_the_vm_counts_with(
    resident: int | None, other: int
) -> None:
    async with sampled(Troublesome(), {}) as worker:
        sample = worker.view.sample
        assert sample is not None
        worker.view = replace(worker.view, sample=replace(sample, resident=resident))
        status = composed(HostMemory(2000 * MIB, 1000 * MIB, MemoryStall()), NodeState.AMPLE, worker)
    assert status.memory.other == other


@pytest.mark.parametrize(
    ("target", "emergency_target", "other"),
    [(TARGET, None, 1000 * MIB - HELD), (700 * MIB, None, 300 * MIB), (TARGET, 650 * MIB, 350 * MIB)],
    ids=["its target is lower", "its target is higher", "its emergency target is higher"],
)
async def test_what_a_guest_touches_of_a_grant_is_not_taken_for_others_memory(
    target: int, emergency_target: int | None, other: int
) -> None:
    """Its balloon may have moved since the VM was sampled, when it left the guest 600 MiB."""
    async with sampled(Troublesome(), {"target": target}) as worker:
        sample = worker.view.sample
        assert sample is not None
        worker.emergency_target = emergency_target
        worker.view = replace(worker.view, sample=replace(sample, resident=900 * MIB))
        status = composed(HostMemory(2000 * MIB, 1000 * MIB, MemoryStall()), NodeState.AMPLE, worker)
    assert status.memory.other == other - OVERHEAD


@pytest.mark.parametrize(
    ("seen", "changes", "resident"),
    [
        (500 * MIB, {}, 500 * MIB),
        (None, {}, 300 * MIB),
        (500 * MIB, {"free_delay": 60.0}, 300 * MIB),
        (500 * MIB, {"resident": None}, None),
    ],
    ids=["its process is seen", "its process is gone", "KSM merges its pages", "its process was never seen"],
)
async def test_what_a_vm_has_touched_since_it_was_sampled_is_its_own(
    seen: int | None, changes: dict[str, Any], resident: int | None
) -> None:
    """What the node has free is read with each report, and a VM is sampled seldom."""
    process = FakeGuestControl(process_bytes=seen)
    async with sampled(Troublesome(), {}, process=process) as worker:
        sample = worker.view.sample
        assert sample is not None
        worker.view = replace(worker.view, sample=replace(sample, **{"resident": 300 * MIB, **changes}))
        status = composed(HostMemory(2000 * MIB, 1000 * MIB, MemoryStall()), NodeState.AMPLE, worker)
    assert status.virtual_machines[0].resident == resident
    assert status.memory.other == 1000 * MIB - (resident or 0)


async def test_a_vm_whose_driver_does_not_follow_counts_as_what_it_holds() -> None:
    async with sampled(Troublesome(), {}) as worker:
        worker.view = replace(worker.view, pace=Pace(retry_seconds=60.0))
        assert not worker.view.responsive
        assert counted(worker, None) == HELD


@pytest.mark.parametrize("figure", [900 * MIB, -5], ids=["its figures fit a report", "its figures do not"])
async def test_an_emergency_target_lasts_while_a_node_is_short_whatever_the_guest_says(figure: int) -> None:
    async with sampled(Troublesome(actual=900 * MIB), {"target": 900 * MIB}) as worker:
        await until(lambda: worker.view.need is not None)
        worker.update(
            worker.instance, PolicyBacking(load_memory_policy(MemoryPolicy.model_validate(memory_policy("p"))))
        )
        decide_in_emergency([worker])
        decided = worker.emergency_target
        assert decided is not None
        sample = worker.view.sample
        assert sample is not None
        statistics = sample.statistics._replace(actual=figure)
        worker.view = replace(worker.view, sample=replace(sample, statistics=statistics))
        assert decide_in_emergency([worker]).virtual_machines[0].emergency_target == decided


def decide_in_emergency(workers: list[MemoryWorker]) -> NodePressureStatus:
    """Decide emergency targets on a node that is Scarce, and return the report they were decided by."""
    status = composed(HostMemory(800 * MIB, 10 * MIB, MemoryStall()), NodeState.SCARCE, *workers)
    set_emergency_targets("here", status, workers)
    return status
