"""What the controller takes an agent to do about a VM's memory is what the agent does."""

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
from hack.testbed.lab.fakes import FakeDomain, FakeHypervisor
from kubeballoon.agent.emergency import set_emergency_targets
from kubeballoon.agent.hypervisor.interface import DomainSample, HypervisorError
from kubeballoon.agent.hypervisor.launchers import Launcher
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.problem import Problem
from kubeballoon.agent.report import compose
from kubeballoon.agent.vm import memory_worker as module
from kubeballoon.agent.vm.authorization import Authorization
from kubeballoon.agent.vm.guest_program import CHANGING
from kubeballoon.agent.vm.instance import read
from kubeballoon.agent.vm.memory_worker import MemoryWorker, WorkerSettings
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import MemoryPolicy
from kubeballoon.core.memory.node_state import MemoryStall, StateThresholds
from kubeballoon.core.memory.pacing import Pace
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.governance.translation import memory_vm
from kubeballoon.vocabulary import NodeState
from tests.support.cluster import memory_policy
from tests.support.waiting import soon

until = partial(soon, seconds=20.0)

MIB = 1 << 20
SIZE, HELD, TARGET = 1024 * MIB, 600 * MIB, 400 * MIB


@dataclass
class Troublesome(FakeDomain):
    """A guest that has a problem, and does not move while it is looked at."""

    actual: int = HELD
    follows: bool = False
    problem: Problem | None = None

    async def sample(self) -> DomainSample:
        """See ``FakeDomain``."""
        return replace(await super().sample(), problem=self.problem)


@asynccontextmanager
async def looked_at(domain: FakeDomain, changes: dict[str, Any]) -> AsyncIterator[MemoryWorker]:
    """A worker that has looked at its VM once."""
    vmi = vmi_object(GuestSpec(name="vm", memory_bytes=SIZE), "pod", "here")
    vmi["metadata"]["uid"] = "vm"
    found = read(vmi, "here")
    assert found is not None
    hypervisor, told = FakeHypervisor({found.domain: domain}), asyncio.Event()
    worker = MemoryWorker(replace(found, **changes), hypervisor, WorkerSettings(Path("/pods"), 60.0, 1), told.set)
    task = asyncio.create_task(worker.run())
    await told.wait()
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def counted(worker: MemoryWorker, target: int | None) -> int:
    """What the controller sets aside for the VM, by its agent's report, where it is to be asked this."""
    status = compose(
        HostMemory(SIZE, 0, MemoryStall()),
        NodeState.AMPLE,
        StateThresholds(4, 3, 2, 1),
        [worker],
        [],
        datetime.now(UTC),
    )
    return memory_vm(status.virtual_machines[0], None).charge(target)


@pytest.fixture(autouse=True)
def socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pod has one, and looks follow each other quickly."""
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "REST", 0.02)
    monkeypatch.setattr(module, "find_launcher", lambda pods, uids: Launcher(uids[0], pods / uids[0]))


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
    domain = Troublesome(problem=None if problem is None else Problem(problem, problem.meaning))
    async with looked_at(domain, {"target": target, **changes}) as worker:
        # What one method reserved is given back by the domain, and what is resized has all of it, whatever the goal.
        given_all = worker.view.goal == SIZE or "return_all" in changes or (problem is CHANGING.reason and not changes)
        assert counted(worker, target) == (SIZE if given_all else HELD)


@pytest.mark.parametrize("target", [None, TARGET])
async def test_a_vm_that_cannot_be_reached_counts_as_what_it_held(target: int | None) -> None:
    domain = Troublesome()
    async with looked_at(domain, {"target": target}) as worker:
        domain.gone = HypervisorError("it is gone")
        await until(lambda: worker.view.problem is not None)
        assert worker.view.goal is None
        assert counted(worker, target) == HELD


@pytest.mark.parametrize(("bound", "left"), [(True, None), (False, 512 * MIB)])
async def test_a_request_without_a_known_policy_is_reckoned_with_as_long_as_it_is_followed(
    bound: bool,  # noqa: FBT001 - a parameter
    left: int | None,
) -> None:
    """Else others were taken to their minimums for what such a VM would have without its request."""
    limits = StateThresholds(4, 3, 2, 1)
    async with (
        looked_at(Troublesome(actual=900 * MIB), {"target": 900 * MIB}) as sharing,
        looked_at(Troublesome(actual=TARGET), {"target": TARGET, "uid": "other"}) as other,
    ):
        await until(lambda: sharing.view.need is not None)
        sharing.update(
            sharing.instance, Authorization(load_memory_policy(MemoryPolicy.model_validate(memory_policy("p"))))
        )
        other.update(other.instance, Authorization(bound=bound))
        workers, memory = [sharing, other], HostMemory(1600 * MIB, 200 * MIB, MemoryStall())
        status = compose(memory, NodeState.SCARCE, limits, workers, [], datetime.now(UTC))
        set_emergency_targets("here", status, workers)
        assert sharing.emergency_target == left


async def test_a_vm_whose_driver_does_not_follow_counts_as_what_it_holds() -> None:
    async with looked_at(Troublesome(), {}) as worker:
        worker.view = replace(worker.view, pace=Pace(retry_seconds=60.0))
        assert not worker.view.responsive
        assert counted(worker, None) == HELD
