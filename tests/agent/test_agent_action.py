"""What an agent does about a VM's memory is what its reason says, and what the controller counts with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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
from kubeballoon.agent.hypervisor.errors import HypervisorError
from kubeballoon.agent.hypervisor.guest_agent import GuestAgent
from kubeballoon.agent.hypervisor.interface import DomainSample, Hypervisor
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.problem import Problem
from kubeballoon.agent.report import NodeObservation, compose
from kubeballoon.agent.settings import AgentSettings
from kubeballoon.agent.vm.authorization import Authorization
from kubeballoon.agent.vm.guest_program import CHANGING, GuestProgram, ProgramHypervisor
from kubeballoon.agent.vm.instance import read_instance
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressureStatus
from kubeballoon.core.memory.node_state import MemoryStall, StateThresholds
from kubeballoon.core.memory.pacing import Pace
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.governance.translation import memory_vm
from kubeballoon.vocabulary import AgentAction, NodeState, ReclaimMethod
from tests.agent.quick import QUICK
from tests.support.cluster import memory_policy
from tests.support.waiting import soon

pytestmark = pytest.mark.usefixtures("sockets")

until = partial(soon, seconds=20.0)

MIB = 1 << 20
DOMAIN = "default_vm"
SIZE, HELD, TARGET = 1024 * MIB, 600 * MIB, 400 * MIB


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
    control: FakeMemoryControl, changes: dict[str, Any], hypervisor: Hypervisor | None = None
) -> AsyncIterator[MemoryWorker]:
    """Have a worker that has sampled its VM once."""
    vmi = vmi_object(GuestSpec(name="vm", memory_bytes=SIZE), "pod", "here")
    vmi["metadata"]["uid"] = "vm"
    found = read_instance(vmi, "here")
    assert found is not None
    changed = asyncio.Event()
    settings = AgentSettings(Path("/pods"), 60.0, 1, QUICK)
    worker = MemoryWorker(
        replace(found, **changes), hypervisor or FakeHypervisor({DOMAIN: control}), settings, changed.set
    )
    task = asyncio.create_task(worker.run())
    await changed.wait()
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def composed(memory: HostMemory, state: NodeState, *workers: MemoryWorker) -> NodePressureStatus:
    node = NodeObservation(memory, state, StateThresholds(4, 3, 2, 1))
    return compose(node, [(worker, None) for worker in workers], [], datetime.now(UTC))


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
            sharing.instance, Authorization(load_memory_policy(MemoryPolicy.model_validate(memory_policy("p"))))
        )
        other.update(other.instance, Authorization(binding=binding))
        workers, memory = [sharing, other], HostMemory(1600 * MIB, 200 * MIB, MemoryStall())
        status = composed(memory, NodeState.SCARCE, *workers)
        set_emergency_targets("here", status, workers)
        assert sharing.emergency_target == left


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
            worker.instance, Authorization(load_memory_policy(MemoryPolicy.model_validate(memory_policy("p"))))
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
