"""A worker and its VM; the VM is a fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.lab import GuestSpec, vmi_object
from hack.testbed.lab.fakes import FakeDomain, FakeHypervisor
from kubeballoon.agent.hypervisor.interface import DomainSample, GoneError
from kubeballoon.agent.hypervisor.launchers import Launcher
from kubeballoon.agent.vm import memory_worker as module
from kubeballoon.agent.vm.authorization import Authorization
from kubeballoon.agent.vm.instance import Instance, read
from kubeballoon.agent.vm.memory_worker import MemoryWorker, WorkerSettings, describe
from kubeballoon.api.v1alpha1 import MemoryPolicy, VirtualMachineReport
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.guard import FLOOR
from kubeballoon.governance.loaded_policy import load_memory_policy
from tests.support.waiting import Clock, soon

until = partial(soon, seconds=5.0)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other quickly, and every pod has a socket."""
    monkeypatch.setattr(module, "LOOK", 0.02)
    monkeypatch.setattr(module, "REST", 0.02)
    monkeypatch.setattr(module, "STEP", 0.01)
    monkeypatch.setattr(module, "RETRY", (0.02,))
    monkeypatch.setattr(module, "find_launcher", lambda pods, uids: Launcher(uids[0], pods / uids[0]))


def instance(name: str = "vm", **changes: Any) -> Instance:
    made = vmi_object(GuestSpec(name=name, memory_bytes=1024 * MIB), f"pod-{name}", "here")
    made["metadata"]["uid"] = name
    found = read(made, "here")
    assert found is not None
    return replace(found, **changes)


@asynccontextmanager
async def kept(of: Instance, domain: FakeDomain) -> AsyncIterator[MemoryWorker]:
    worker = MemoryWorker(of, FakeHypervisor({of.domain: domain}), WorkerSettings(Path("/pods"), 60.0, 1), lambda: None)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def looks(worker: MemoryWorker, count: int = 5) -> None:
    """Wait for some more looks at the VM."""
    for _ in range(count):
        await until(partial(has_looked, worker, worker.view))


def has_looked(worker: MemoryWorker, before: module.MemoryView) -> bool:
    return worker.view is not before


async def test_a_request_is_reached_in_bounded_steps() -> None:
    domain = FakeDomain()
    async with kept(instance(target=400 * MIB, minimum=300 * MIB), domain) as worker:
        await until(lambda: domain.actual == 400 * MIB)
        await looks(worker)
    assert domain.requests[0] == (1024 - 32) * MIB, "the first step is small"
    assert domain.requests == sorted(domain.requests, reverse=True)
    assert domain.requests[-1] == 400 * MIB


async def test_memory_is_given_back_at_once() -> None:
    domain = FakeDomain(actual=400 * MIB)
    async with kept(instance(target=400 * MIB), domain) as worker:
        await looks(worker)
        worker.update(instance(target=900 * MIB), Authorization())
        await until(lambda: domain.actual == 900 * MIB)
    assert domain.requests == [900 * MIB]


async def test_a_vm_of_which_nothing_is_asked_has_all_of_its_memory() -> None:
    domain = FakeDomain(actual=400 * MIB)
    async with kept(instance(), domain):
        await until(lambda: domain.actual == 1024 * MIB)
    assert domain.requests == [1024 * MIB]


async def test_a_new_agent_moves_nothing() -> None:
    domain = FakeDomain(actual=400 * MIB)
    async with kept(instance(target=400 * MIB), domain) as worker:
        await looks(worker, 10)
    assert domain.requests == []


@pytest.mark.parametrize(
    ("target", "minimum", "kept_at"),
    [(100 * MIB, 500 * MIB, 500 * MIB), (0, None, FLOOR), (1 << 50, None, 1024 * MIB)],
)
async def test_a_forged_request_is_clamped(target: int, minimum: int | None, kept_at: int) -> None:
    domain = FakeDomain(actual=600 * MIB, used=10 * MIB)
    async with kept(instance(target=target, minimum=minimum), domain) as worker:
        await until(lambda: abs(domain.actual - kept_at) <= 32 * MIB)
        await looks(worker)
    assert all(kept_at <= request <= 1024 * MIB for request in domain.requests)


async def test_a_request_that_nothing_stands_behind_is_no_request() -> None:
    domain = FakeDomain(actual=400 * MIB)
    async with kept(instance(target=400 * MIB), domain) as worker:
        await looks(worker)
        worker.set_emergency_target(300 * MIB)
        worker.update(worker.instance, Authorization(bound=False))
        await until(lambda: domain.actual == 1024 * MIB)
    assert domain.requests[-1] == 1024 * MIB


@pytest.mark.parametrize(
    "changes",
    [
        {"bar": ("VFIO", "a device is passed through")},
        {"frozen": ("Migrating", "it is migrating")},
        {"fault": "annotation x: no"},
    ],
)
async def test_a_vm_that_must_be_left_alone_is_left_alone(changes: dict[str, Any]) -> None:
    domain = FakeDomain()
    async with kept(instance(target=400 * MIB, **changes), domain) as worker:
        await looks(worker, 10)
    assert domain.requests == []


async def test_what_a_vm_lacks_that_may_not_be_ballooned_any_more_is_given_back() -> None:
    domain = FakeDomain(actual=400 * MIB)
    async with kept(instance(target=400 * MIB, ineligibility=("VFIO", "a device is passed through")), domain):
        await until(lambda: domain.actual == 1024 * MIB)
    assert domain.requests == [1024 * MIB]


@dataclass
class LateDomain(FakeDomain):
    """Tells what became of a request only at the third look after it, as a program in a guest does."""

    told: int = 1024 * MIB
    looks: int = 0

    async def sample(self) -> DomainSample:
        """See ``FakeDomain``."""
        self.looks += 1
        sample = await super().sample()
        if self.looks < 3:
            return replace(sample, statistics=self.output(), pending=self.actual)
        self.told = self.actual
        return replace(sample, statistics=self.output())

    def output(self) -> GuestStatistics:
        """What such a program tells."""
        return GuestStatistics(self.told, time.time(), usable=self.told - self.used, actual_at_report=self.told)

    async def set_memory(self, size: int) -> None:
        """See ``FakeDomain``."""
        self.looks = 0
        await super().set_memory(size)


def paced(max_rate: str | None) -> dict[str, Any]:
    reclaim = {} if max_rate is None else {"maxRate": max_rate}
    spec = {"selector": {}, "reclaim": reclaim, "memory": {"min": "300Mi"}}
    return {"metadata": {"name": "paced", "uid": "paced"}, "spec": spec}


@pytest.mark.parametrize("max_rate", [None, "2Gi"])
async def test_a_step_is_not_taken_back_because_its_answer_is_late(max_rate: str | None) -> None:
    domain = LateDomain()
    of = instance(target=600 * MIB, minimum=300 * MIB)
    async with kept(of, domain) as worker:
        worker.update(of, Authorization(load_memory_policy(MemoryPolicy.model_validate(paced(max_rate)))))
        await until(lambda: domain.actual == 600 * MIB)
        worker.update(replace(of, target=1024 * MIB), worker.authorization)
        await until(lambda: domain.actual == 1024 * MIB)
        assert worker.view.responsive
    *down, up = domain.requests
    assert down == sorted(down, reverse=True)
    assert up == 1024 * MIB


async def test_a_step_that_waits_for_an_answer_is_taken_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK", "REST"):
        monkeypatch.setattr(module, name, 3600.0)
    domain, of = LateDomain(looks=2), instance(target=900 * MIB)
    async with kept(of, domain) as worker:
        await until(lambda: domain.actual == 900 * MIB)
        domain.looks = 0
        worker.update(replace(of, target=800 * MIB), worker.authorization)
        await until(lambda: domain.actual == 800 * MIB)


async def test_a_guest_that_says_it_can_give_no_more_is_not_pushed() -> None:
    domain = FakeDomain(spare=0)
    async with kept(instance(target=300 * MIB), domain) as worker:
        await until(lambda: worker.view.withheld)
        assert worker.view.responsive
    assert domain.requests == []


async def test_a_guest_with_nothing_to_give_is_not_pushed() -> None:
    domain = FakeDomain(used=900 * MIB)
    async with kept(instance(target=300 * MIB), domain) as worker:
        await until(lambda: domain.actual < 1000 * MIB)
        await looks(worker, 30)
        assert worker.view.responsive
        await until(lambda: worker.view.withheld)
        assert "nothing more to give" in (describe(worker.instance, worker.view, bound=True) or "")
    assert domain.actual >= 900 * MIB


async def test_need_is_known_once_the_guest_reported_beside_a_still_balloon() -> None:
    async with kept(instance(), FakeDomain()) as worker:
        await until(lambda: worker.view.need is not None)
        assert worker.view.need is not None
        assert worker.view.need.present == 200 * MIB


async def test_a_guest_without_driver_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)
    domain = FakeDomain(reports=False, alone="its guest is Windows")
    async with kept(instance(target=400 * MIB), domain) as worker:
        await until(lambda: worker.view.problem is not None)
        assert worker.view.problem is not None
        assert worker.view.problem[0] == "NoDriver"
        assert worker.view.problem[1].endswith("; its guest is Windows"), "and no program can stand in for the driver"
        assert worker.view.need is None


async def test_a_paused_guest_is_left_alone() -> None:
    domain = FakeDomain(running=False)
    async with kept(instance(target=400 * MIB), domain) as worker:
        await looks(worker)
        assert worker.view.problem is not None
        assert worker.view.problem[0] == "Paused"
    assert domain.requests == []


async def test_a_connection_that_breaks_is_made_again() -> None:
    domain = FakeDomain()
    async with kept(instance(target=600 * MIB), domain) as worker:
        await looks(worker)
        domain.gone = GoneError("the socket vanished")
        await until(lambda: worker.view.problem is not None)
        assert worker.view.problem == ("Unreachable", "the socket vanished")
        assert worker.view.need is None
        domain.gone = None
        await until(lambda: worker.view.problem is None)
        await until(lambda: domain.actual == 600 * MIB)


async def test_a_pod_that_is_replaced_is_left_for_the_new_one() -> None:
    domain, of = FakeDomain(), instance(target=600 * MIB)
    hypervisor = FakeHypervisor({of.domain: domain})
    worker = MemoryWorker(of, hypervisor, WorkerSettings(Path("/pods"), 60.0, 1), lambda: None)
    task = asyncio.create_task(worker.run())
    await looks(worker)
    domain.gone = GoneError("the socket vanished")
    await until(lambda: worker.view.problem is not None)
    worker.update(replace(of, pods=("pod-new",)), Authorization())
    domain.gone = None
    await until(lambda: worker.view.problem is None)
    await until(lambda: domain.actual == 600 * MIB)
    assert hypervisor.forgotten == ["pod-vm"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert hypervisor.forgotten == ["pod-vm", "pod-new"]


async def test_one_that_hangs_delays_no_other() -> None:
    hung, well = FakeDomain(hangs=True), FakeDomain()
    async with kept(instance("hung", target=400 * MIB), hung) as stuck, kept(instance("well", target=400 * MIB), well):
        await until(lambda: well.actual == 400 * MIB, seconds=3.0)
        await until(lambda: stuck.view.problem is not None)
        assert stuck.view.problem is not None
        assert stuck.view.problem[0] == "Hung"


@dataclass
class ReportingDomain(FakeDomain):
    """Reports every five seconds of a clock that the test turns, dated in whole ones; knows when it was looked at."""

    clock: Clock = field(default_factory=Clock)
    looked: list[float] = field(default_factory=list)

    @property
    def reported(self) -> float:
        """When it last did."""
        return self.clock.now - (self.clock.now - 3.7) % 5

    async def sample(self) -> DomainSample:
        """See ``FakeDomain``."""
        self.looked.append(self.clock.now)
        sample = await super().sample()
        return replace(sample, statistics=sample.statistics._replace(updated=float(int(self.reported))))


async def test_a_guest_at_rest_is_looked_at_once_for_each_of_its_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LOOK", 3.0), ("REST", 10.0)):
        monkeypatch.setattr(module, name, seconds)
    domain = ReportingDomain()

    async def pause(_: MemoryWorker, seconds: float) -> None:
        domain.clock.now += seconds
        await asyncio.sleep(0)

    monkeypatch.setattr(MemoryWorker, "_pause", pause)
    of, settings = instance(), WorkerSettings(Path("/pods"), 60.0, 5)
    worker = MemoryWorker(of, FakeHypervisor({of.domain: domain}), settings, lambda: None, clock=domain.clock)
    task = asyncio.create_task(worker.run())
    await until(lambda: len(domain.looked) > 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    looked = domain.looked[1:21]
    assert all((at - 3.7) % 5 <= module.LATE for at in looked), "soon after a report"
    assert [round(after - at) for at, after in pairwise(looked)] == [5] * 19


async def test_demand_goes_on_falling_slowly_after_a_connection_was_lost() -> None:
    domain = FakeDomain(used=700 * MIB)
    async with kept(instance(), domain) as worker:
        await until(lambda: worker.view.need is not None)
        domain.gone, domain.used = GoneError("the socket vanished"), 200 * MIB
        await until(lambda: worker.view.problem is not None)
        domain.gone = None
        await until(lambda: worker.view.need is not None and worker.view.need.present == 200 * MIB)
        assert worker.view.need is not None
        assert worker.view.need.value > 500 * MIB


async def test_a_guest_that_could_not_be_told_to_report_is_told_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.0)
    domain, of = FakeDomain(reports=False), instance(hold=("Migrating", "it is migrating"))
    async with kept(of, domain) as worker:
        await looks(worker)
        assert domain.period == 0
        worker.update(replace(of, hold=None), Authorization())
        await until(lambda: domain.period == 1)


async def test_demand_goes_on_falling_slowly_from_what_the_agent_before_saw() -> None:
    domain = FakeDomain(used=200 * MIB)
    report = VirtualMachineReport(
        uid="vm", namespace="default", name="vm", size=1024 * MIB, actual=1024 * MIB, need=700 * MIB
    )
    of = instance()
    worker = MemoryWorker(of, FakeHypervisor({of.domain: domain}), WorkerSettings(Path("/pods"), 60.0, 1), lambda: None)
    worker.recall(report, time.time())
    assert worker.view.need is not None
    task = asyncio.create_task(worker.run())
    await until(lambda: worker.view.need is not None and worker.view.need.present == 200 * MIB)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 500 * MIB < worker.view.need.value <= 700 * MIB
    worker.recall(report, time.time() - 3600)
    assert worker.view.need is None, "too old"
