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
from kubeballoon.agent import keeper as module
from kubeballoon.agent.host import HostMemory
from kubeballoon.agent.hypervisor import HypervisorError, Sample
from kubeballoon.agent.instance import read
from kubeballoon.agent.keeper import INEFFECTIVE, STALE, Keeper, Settings
from kubeballoon.agent.launchers import Launcher
from kubeballoon.agent.mandate import Mandate
from kubeballoon.agent.reliever import Reliever
from kubeballoon.agent.report import compose
from kubeballoon.agent.reservation import CHANGING
from kubeballoon.api.v1alpha1 import MemoryPolicy
from kubeballoon.cluster.snapshot import core_vm
from kubeballoon.core.model import State
from kubeballoon.core.pacing import Pace
from kubeballoon.core.state import Stall, Thresholds
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
    problem: tuple[str, str] | None = None

    async def sample(self) -> Sample:
        """See ``FakeDomain``."""
        return replace(await super().sample(), problem=self.problem)


@asynccontextmanager
async def looked_at(domain: FakeDomain, changes: dict[str, Any]) -> AsyncIterator[Keeper]:
    """A keeper that has looked at its VM once."""
    vmi = vmi_object(GuestSpec(name="vm", memory_bytes=SIZE), "pod", "here")
    vmi["metadata"]["uid"] = "vm"
    found = read(vmi, "here")
    assert found is not None
    hypervisor, told = FakeHypervisor({found.domain: domain}), asyncio.Event()
    keeper = Keeper(replace(found, **changes), hypervisor, Settings(Path("/pods"), 60.0, 1), told.set)
    task = asyncio.create_task(keeper.run())
    await told.wait()
    try:
        yield keeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def counted(keeper: Keeper, target: int | None) -> int:
    """What the controller sets aside for the VM, by its agent's report, where it is to be asked this."""
    status = compose(HostMemory(SIZE, 0, Stall()), State.HIGH, Thresholds(4, 3, 2, 1), [keeper], [], datetime.now(UTC))
    return core_vm(status.virtual_machines[0], None).backed(target)


@pytest.fixture(autouse=True)
def socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pod has one, and looks follow each other quickly."""
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "REST", 0.02)
    monkeypatch.setattr(module, "find", lambda pods, uids: Launcher(uids[0], pods / uids[0]))


@pytest.mark.parametrize("target", [None, TARGET])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bar": ("VFIO", "a device is passed through")},
        {"frozen": ("Migrating", "it is migrating")},
        {"fault": "annotation x: no"},
        {"whole": ("MemoryHotplug", "its memory is being resized")},
    ],
    ids=["nothing about it", "barred", "frozen", "a request that cannot be read", "being resized"],
)
@pytest.mark.parametrize("problem", [None, "Paused", "NoBalloon", "NoDriver", INEFFECTIVE, STALE, CHANGING[0]])
async def test_a_vm_counts_as_what_its_agent_is_going_to_leave_it(
    problem: str | None, changes: dict[str, Any], target: int | None
) -> None:
    domain = Troublesome(problem=None if problem is None else (problem, "so it is"))
    async with looked_at(domain, {"target": target, **changes}) as keeper:
        # What one method reserved is given back by the domain, and what is resized has all of it, whatever the goal.
        given_all = keeper.view.goal == SIZE or "whole" in changes or (problem == CHANGING[0] and not changes)
        assert counted(keeper, target) == (SIZE if given_all else HELD)


@pytest.mark.parametrize("target", [None, TARGET])
async def test_a_vm_that_cannot_be_reached_counts_as_what_it_held(target: int | None) -> None:
    domain = Troublesome()
    async with looked_at(domain, {"target": target}) as keeper:
        domain.gone = HypervisorError("it is gone")
        await until(lambda: keeper.view.problem is not None)
        assert keeper.view.goal is None
        assert counted(keeper, target) == HELD


@pytest.mark.parametrize(("bound", "left"), [(True, None), (False, 512 * MIB)])
async def test_a_request_without_a_known_policy_is_reckoned_with_as_long_as_it_is_followed(
    bound: bool,  # noqa: FBT001 - a parameter
    left: int | None,
) -> None:
    """Else others were taken to their minimums for what such a VM would have without its request."""
    reliever, limits = Reliever("here"), Thresholds(4, 3, 2, 1)
    async with (
        looked_at(Troublesome(actual=900 * MIB), {"target": 900 * MIB}) as sharing,
        looked_at(Troublesome(actual=TARGET), {"target": TARGET, "uid": "other"}) as other,
    ):
        await until(lambda: sharing.view.need is not None)
        sharing.update(sharing.instance, Mandate(MemoryPolicy.model_validate(memory_policy("p"))))
        other.update(other.instance, Mandate(bound=bound))
        keepers, memory = [sharing, other], HostMemory(1600 * MIB, 200 * MIB, Stall())
        status = compose(memory, State.HARD, limits, keepers, [], datetime.now(UTC))
        reliever.relieve(status, keepers)
        assert sharing.relief == left


async def test_a_vm_whose_driver_does_not_follow_counts_as_what_it_holds() -> None:
    async with looked_at(Troublesome(), {}) as keeper:
        keeper.view = replace(keeper.view, pace=Pace(retry=60.0))
        assert not keeper.view.responsive
        assert counted(keeper, None) == HELD
