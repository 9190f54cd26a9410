"""A memory worker and its VM, which is a fake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.lab import GuestSpec, vmi_object
from hack.testbed.lab.fakes import FakeHypervisor, FakeMemoryControl
from kubeballoon.agent.event_wait import wait_for
from kubeballoon.agent.hypervisor.errors import GarbledError, GoneError
from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.agent.report import describe
from kubeballoon.agent.settings import AgentSettings
from kubeballoon.agent.vm.memory_view import MemoryView
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.agent.vm.policy_backing import PolicyBacking
from kubeballoon.agent.vm.vmi import Instance, read_instance
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.agent.wait_times import DEFAULT_TIMING, MemoryTiming
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import MemoryPolicy, VirtualMachineReport
from kubeballoon.core.backoff import Backoff
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.request_checks import FLOOR
from kubeballoon.governance.loaded_policy import load_memory_policy
from tests.agent.fast_timing import QUICK
from tests.support.waiting import Clock, soon

until = partial(soon, seconds=5.0)

MIB = 1 << 20


pytestmark = pytest.mark.usefixtures("sockets")


def settings(timing: MemoryTiming = QUICK.memory, period: int = 1) -> AgentSettings:
    return AgentSettings(Path("/pods"), 60.0, period, replace(QUICK, memory=timing))


def instance(name: str = "vm", **changes: Any) -> Instance:
    made = vmi_object(GuestSpec(name=name, memory_bytes=1024 * MIB), f"pod-{name}", "here")
    made["metadata"]["uid"] = name
    found = read_instance(made, "here")
    assert found is not None
    return replace(found, **changes)


@asynccontextmanager
async def working(
    of: Instance, control: FakeMemoryControl, timing: MemoryTiming = QUICK.memory
) -> AsyncIterator[MemoryWorker]:
    worker = MemoryWorker(of, FakeHypervisor({of.domain: control}), settings(timing), lambda: None)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def samples(worker: MemoryWorker, count: int = 5) -> None:
    """Wait for some more samples of the VM."""
    for _ in range(count):
        await until(partial(has_sampled, worker, worker.view))


def has_sampled(worker: MemoryWorker, before: MemoryView) -> bool:
    return worker.view is not before


async def test_a_request_is_reached_in_bounded_steps() -> None:
    control = FakeMemoryControl()
    async with working(instance(target=400 * MIB, minimum=300 * MIB), control) as worker:
        await until(lambda: control.actual == 400 * MIB)
        await samples(worker)
    assert control.requests[0] == (1024 - 32) * MIB, "the first step is small"
    assert control.requests == sorted(control.requests, reverse=True)
    assert control.requests[-1] == 400 * MIB


async def test_memory_is_given_back_at_once() -> None:
    control = FakeMemoryControl(actual=400 * MIB)
    async with working(instance(target=400 * MIB), control) as worker:
        await samples(worker)
        worker.update(instance(target=900 * MIB), PolicyBacking())
        await until(lambda: control.actual == 900 * MIB)
    assert control.requests == [900 * MIB]


async def test_a_vm_without_a_request_has_all_of_its_memory() -> None:
    control = FakeMemoryControl(actual=400 * MIB)
    async with working(instance(), control):
        await until(lambda: control.actual == 1024 * MIB)
    assert control.requests == [1024 * MIB]


async def test_a_new_agent_moves_nothing() -> None:
    control = FakeMemoryControl(actual=400 * MIB)
    async with working(instance(target=400 * MIB), control) as worker:
        await samples(worker, 10)
    assert control.requests == []


@pytest.mark.parametrize(
    ("target", "minimum", "kept_at"),
    [(100 * MIB, 500 * MIB, 500 * MIB), (0, None, FLOOR), (1 << 50, None, 1024 * MIB)],
)
async def test_a_forged_request_is_clamped(target: int, minimum: int | None, kept_at: int) -> None:
    control = FakeMemoryControl(actual=600 * MIB, used=10 * MIB)
    async with working(instance(target=target, minimum=minimum), control) as worker:
        await until(lambda: abs(control.actual - kept_at) <= 32 * MIB)
        await samples(worker)
    assert all(kept_at <= request <= 1024 * MIB for request in control.requests)


async def test_an_emergency_target_takes_the_place_of_a_request_until_the_next_one() -> None:
    control = FakeMemoryControl(actual=600 * MIB)
    async with working(instance(target=600 * MIB), control) as worker:
        await samples(worker)
        worker.set_emergency_target(800 * MIB)
        await until(lambda: control.actual == 800 * MIB)
        worker.update(instance(target=700 * MIB), PolicyBacking())
        await until(lambda: control.actual == 700 * MIB)
    assert worker.emergency_target is None


async def test_a_request_behind_which_no_policy_stands_is_not_followed() -> None:
    control = FakeMemoryControl(actual=400 * MIB)
    async with working(instance(target=400 * MIB), control) as worker:
        await samples(worker)
        worker.set_emergency_target(300 * MIB)
        worker.update(worker.instance, PolicyBacking(binding=False))
        await until(lambda: control.actual == 1024 * MIB)
    assert control.requests[-1] == 1024 * MIB


@pytest.mark.parametrize(
    "changes",
    [
        {"ineligibility": Problem.of(AgentReason.VFIO)},
        {"hold": Problem.of(AgentReason.MIGRATING)},
        {"fault": "annotation x: no"},
    ],
)
async def test_a_vm_that_must_be_left_alone_is_left_alone(changes: dict[str, Any]) -> None:
    control = FakeMemoryControl()
    async with working(instance(target=400 * MIB, **changes), control) as worker:
        await samples(worker, 10)
    assert control.requests == []


async def test_a_vm_that_may_no_longer_be_ballooned_has_its_memory_back() -> None:
    control = FakeMemoryControl(actual=400 * MIB)
    async with working(instance(target=400 * MIB, ineligibility=Problem.of(AgentReason.VFIO)), control):
        await until(lambda: control.actual == 1024 * MIB)
    assert control.requests == [1024 * MIB]


@dataclass
class LateMemoryControl(FakeMemoryControl):
    """Answers a request only in the third sample after it, as a program in a guest does."""

    answered: int = 1024 * MIB
    samples: int = 0

    async def sample(self) -> DomainSample:
        """Read the memory as it was when the last request was answered."""
        self.samples += 1
        sample = await super().sample()
        if self.samples < 3:
            return replace(sample, statistics=self.answer(), unanswered=self.actual)
        self.answered = self.actual
        return replace(sample, statistics=self.answer())

    def answer(self) -> GuestStatistics:
        """Say what such a program would."""
        return GuestStatistics(
            self.answered, time.time(), usable=self.answered - self.used, actual_at_report=self.answered
        )

    async def set_memory(self, size: int) -> None:
        """Follow a request, and answer it late."""
        self.samples = 0
        await super().set_memory(size)


def paced(max_rate: str | None) -> dict[str, Any]:
    reclaim = {} if max_rate is None else {"maxRate": max_rate}
    spec = {"selector": {}, "reclaim": reclaim, "memory": {"min": "300Mi"}}
    return {"metadata": {"name": "paced", "uid": "paced"}, "spec": spec}


@pytest.mark.parametrize("max_rate", [None, "2Gi"])
async def test_a_step_is_not_undone_because_its_answer_is_late(max_rate: str | None) -> None:
    control = LateMemoryControl()
    of = instance(target=600 * MIB, minimum=300 * MIB)
    async with working(of, control) as worker:
        worker.update(of, PolicyBacking(load_memory_policy(MemoryPolicy.model_validate(paced(max_rate)))))
        await until(lambda: control.actual == 600 * MIB)
        worker.update(replace(of, target=1024 * MIB), worker.backing)
        await until(lambda: control.actual == 1024 * MIB)
        assert worker.view.responsive
    *down, up = control.requests
    assert down == sorted(down, reverse=True)
    assert up == 1024 * MIB


async def test_a_step_that_waits_for_an_answer_is_made_soon() -> None:
    timing = replace(QUICK.memory, poll=3600.0, longest_poll=3600.0)
    control, of = LateMemoryControl(samples=2), instance(target=900 * MIB)
    async with working(of, control, timing) as worker:
        await until(lambda: control.actual == 900 * MIB)
        control.samples = 0
        worker.update(replace(of, target=800 * MIB), worker.backing)
        await until(lambda: control.actual == 800 * MIB)


async def test_a_guest_that_says_it_can_give_no_more_is_not_pushed() -> None:
    control = FakeMemoryControl(spare=0)
    async with working(instance(target=300 * MIB), control) as worker:
        await until(lambda: worker.view.excess)
        assert worker.view.responsive
    assert control.requests == []


async def test_a_guest_with_nothing_to_give_is_not_pushed() -> None:
    control = FakeMemoryControl(used=900 * MIB)
    async with working(instance(target=300 * MIB), control) as worker:
        await until(lambda: control.actual < 1000 * MIB)
        await samples(worker, 30)
        assert worker.view.responsive
        await until(lambda: worker.view.excess)
        assert "nothing more to give" in (describe(worker.instance, worker.view, binding=True) or "")
    assert control.actual >= 900 * MIB


async def test_need_is_known_once_the_guest_reported_beside_a_still_balloon() -> None:
    async with working(instance(), FakeMemoryControl()) as worker:
        await until(lambda: worker.view.need is not None)
        assert worker.view.need is not None
        assert worker.view.need.present == 200 * MIB


async def test_a_guest_without_a_driver_has_a_reason_of_its_own() -> None:
    timing = replace(QUICK.memory, boot_grace=0.0)
    control = FakeMemoryControl(reports=False, program_fault="its guest is Windows")
    async with working(instance(target=400 * MIB), control, timing) as worker:
        await until(lambda: worker.view.problem is not None)
        assert worker.view.problem is not None
        assert worker.view.problem[0] == "NoDriver"
        assert worker.view.problem[1].endswith("; its guest is Windows"), "and no program can stand in for the driver"
        assert worker.view.need is None


async def test_a_paused_guest_is_left_alone() -> None:
    control = FakeMemoryControl(running=False)
    async with working(instance(target=400 * MIB), control) as worker:
        await samples(worker)
        assert worker.view.problem is not None
        assert worker.view.problem[0] == "Paused"
    assert control.requests == []


async def test_a_connection_that_breaks_is_made_again() -> None:
    control = FakeMemoryControl()
    async with working(instance(target=600 * MIB), control) as worker:
        await samples(worker)
        control.gone = GoneError("the socket vanished")
        await until(lambda: worker.view.problem is not None)
        assert worker.view.problem == ("Unreachable", "the socket vanished")
        assert worker.view.need is None
        control.gone = None
        await until(lambda: worker.view.problem is None)
        await until(lambda: control.actual == 600 * MIB)


@dataclass
class Failing(FakeMemoryControl):
    """A VM that can be connected to, and whose every sample fails with ``failure`` while there is one."""

    failure: Exception | None = None

    async def sample(self) -> DomainSample:
        """Read the memory, or fail."""
        if self.failure is not None:
            raise self.failure
        return await super().sample()


@pytest.mark.parametrize(
    ("failure", "reason", "message"),
    [
        (GarbledError("its XML cannot be read"), "DaemonGarbled", "its XML cannot be read"),
        (OverflowError("nobody expects it"), "InternalError", "its memory worker failed: OverflowError('nobody"),
    ],
    ids=["an answer that makes no sense", "an error that nobody expects"],
)
async def test_a_vm_whose_samples_fail_is_reported_and_tried_at_growing_pauses(
    failure: Exception, reason: str, message: str
) -> None:
    pauses: list[float] = []

    async def wait(event: asyncio.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return await wait_for(event, 0.001)

    control, of = Failing(failure=failure), instance(target=600 * MIB)
    timing = replace(QUICK.memory, reconnect=Backoff(shortest=1.0, longest=4.0))
    worker = MemoryWorker(of, FakeHypervisor({of.domain: control}), replace(settings(timing), wait=wait), lambda: None)
    task = asyncio.create_task(worker.run())
    await until(lambda: len(pauses) > 5)
    assert pauses[:5] == [1.0, 2.0, 4.0, 4.0, 4.0]
    assert worker.view.problem is not None
    assert worker.view.problem.reason == reason
    assert worker.view.problem.message.startswith(message)
    control.failure = None
    await until(lambda: control.actual == 600 * MIB)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_pod_that_is_replaced_is_left_for_the_new_one() -> None:
    control, of = FakeMemoryControl(), instance(target=600 * MIB)
    hypervisor = FakeHypervisor({of.domain: control})
    worker = MemoryWorker(of, hypervisor, settings(), lambda: None)
    task = asyncio.create_task(worker.run())
    await samples(worker)
    control.gone = GoneError("the socket vanished")
    await until(lambda: worker.view.problem is not None)
    worker.update(replace(of, pods=("pod-new",)), PolicyBacking())
    control.gone = None
    await until(lambda: worker.view.problem is None)
    await until(lambda: control.actual == 600 * MIB)
    assert hypervisor.forgotten == ["pod-vm"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert hypervisor.forgotten == ["pod-vm", "pod-new"]


@pytest.mark.parametrize(
    ("claimed", "size", "believed"),
    [
        (102400 * MIB, 1024 * MIB, 1024 * MIB),
        (512 * MIB, 1024 * MIB, 512 * MIB),
        (1431 * MIB, 1_500_000_000, 1431 * MIB),
        (512 * MIB, 0, 512 * MIB),
    ],
    ids=["more than it was given", "less, as before a hotplug", "rounded as libvirt does", "the object does not say"],
)
async def test_a_vm_s_size_is_at_most_what_its_object_says(claimed: int, size: int, believed: int) -> None:
    control = FakeMemoryControl(size=claimed, actual=claimed)
    async with working(instance(size=size), control) as worker:
        await samples(worker, 1)
        sample = worker.view.sample
    assert sample is not None
    assert (sample.size, sample.statistics.actual) == (believed, believed)


async def test_one_that_hangs_delays_no_other() -> None:
    hung, well = FakeMemoryControl(hangs=True), FakeMemoryControl()
    async with (
        working(instance("hung", target=400 * MIB), hung) as stuck,
        working(instance("well", target=400 * MIB), well),
    ):
        await until(lambda: well.actual == 400 * MIB, seconds=3.0)
        await until(lambda: stuck.view.problem is not None)
        assert stuck.view.problem is not None
        assert stuck.view.problem[0] == "Hung"


@dataclass
class ReportingMemoryControl(FakeMemoryControl):
    """Reports every five seconds of a clock that the test turns, dated in whole seconds; notes when it is sampled."""

    clock: Clock = field(default_factory=Clock)
    sampled: list[float] = field(default_factory=list)
    requested_at: list[float] = field(default_factory=list)
    dated: Callable[[float], float] = lambda at: at

    @property
    def reported(self) -> float:
        """When the guest last reported, seconds."""
        return self.clock.now - (self.clock.now - 3.7) % 5

    async def sample(self) -> DomainSample:
        """Read the memory as the guest last reported it."""
        self.sampled.append(self.clock.now)
        sample = await super().sample()
        return replace(sample, statistics=sample.statistics._replace(updated=float(int(self.dated(self.reported)))))

    async def set_memory(self, size: int) -> None:
        """Follow a request, and note when it was made."""
        self.requested_at.append(self.clock.now)
        await super().set_memory(size)


class BoastingMemoryControl(FakeMemoryControl):
    """Reports more memory than the VM has."""

    async def sample(self) -> DomainSample:
        """Read the memory as the guest reports it."""
        sample = await super().sample()
        return replace(sample, statistics=sample.statistics._replace(usable=1 << 62, unused=1 << 62))


async def test_a_guest_at_rest_is_sampled_once_for_each_of_its_reports() -> None:
    control, timing = ReportingMemoryControl(), DEFAULT_TIMING.memory

    async def wait(event: asyncio.Event, seconds: float) -> bool:
        control.clock.now += seconds
        return await wait_for(event, 0)

    of = instance()
    worker = MemoryWorker(
        of,
        FakeHypervisor({of.domain: control}),
        replace(settings(timing, period=5), wait=wait, wall_clock=control.clock),
        lambda: None,
        clock=control.clock,
    )
    task = asyncio.create_task(worker.run())
    await until(lambda: len(control.sampled) > 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    sampled = control.sampled[1:21]
    assert all((at - 3.7) % 5 <= timing.report_delay for at in sampled), "soon after a report"
    assert [round(after - at) for at, after in pairwise(sampled)] == [5] * 19


@pytest.mark.parametrize("jump", [-3600.0, 3600.0], ids=["back", "forward"])
async def test_a_wall_clock_that_is_set_stops_no_reclaim(jump: float) -> None:
    control, offset = ReportingMemoryControl(), 0.0
    control.dated = lambda at: at + offset

    async def wait(event: asyncio.Event, seconds: float) -> bool:
        control.clock.now += seconds
        return await wait_for(event, 0)

    of = instance(target=900 * MIB)
    worker = MemoryWorker(
        of,
        FakeHypervisor({of.domain: control}),
        replace(settings(DEFAULT_TIMING.memory, period=5), wait=wait, wall_clock=lambda: control.clock.now + offset),
        lambda: None,
        clock=control.clock,
    )
    task = asyncio.create_task(worker.run())
    await until(lambda: control.actual == 900 * MIB)
    offset, since = jump, control.clock.now
    worker.update(replace(of, target=700 * MIB), PolicyBacking())
    await until(lambda: control.actual == 700 * MIB)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert control.requested_at[-1] - since < 60


async def test_a_guest_is_not_believed_to_have_more_to_spare_than_its_size() -> None:
    control = BoastingMemoryControl()
    async with working(instance(), control) as worker:
        await samples(worker)
        sample = worker.view.sample
        assert sample is not None
        assert (sample.statistics.usable, sample.statistics.unused) == (1024 * MIB, 1024 * MIB)


async def test_demand_goes_on_falling_slowly_after_a_connection_was_lost() -> None:
    control = FakeMemoryControl(used=700 * MIB)
    async with working(instance(), control) as worker:
        await until(lambda: worker.view.need is not None)
        control.gone, control.used = GoneError("the socket vanished"), 200 * MIB
        await until(lambda: worker.view.problem is not None)
        control.gone = None
        await until(lambda: worker.view.need is not None and worker.view.need.present == 200 * MIB)
        assert worker.view.need is not None
        assert worker.view.need.value > 500 * MIB


async def test_a_guest_that_could_not_be_asked_to_report_is_asked_later() -> None:
    timing = replace(QUICK.memory, boot_grace=0.0)
    control, of = FakeMemoryControl(reports=False), instance(hold=Problem.of(AgentReason.MIGRATING))
    async with working(of, control, timing) as worker:
        await samples(worker)
        assert control.period == 0
        worker.update(replace(of, hold=None), PolicyBacking())
        await until(lambda: control.period == 1)


async def test_a_guest_that_may_soon_lack_memory_reports_each_second_until_it_has_enough_again() -> None:
    control, of = FakeMemoryControl(used=200 * MIB, actual=700 * MIB), instance(target=700 * MIB)
    worker = MemoryWorker(of, FakeHypervisor({of.domain: control}), settings(period=10), lambda: None)
    task = asyncio.create_task(worker.run())
    await samples(worker)
    assert control.period == 10
    control.used = 500 * MIB
    await until(lambda: control.period == 1)
    worker.update(replace(of, target=900 * MIB), PolicyBacking())
    await until(lambda: control.period == 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_demand_goes_on_falling_slowly_from_what_an_earlier_agent_reported() -> None:
    control = FakeMemoryControl(used=200 * MIB)
    report = VirtualMachineReport(
        uid="vm", namespace="default", name="vm", size=1024 * MIB, actual=1024 * MIB, need=700 * MIB
    )
    of = instance()
    worker = MemoryWorker(of, FakeHypervisor({of.domain: control}), settings(), lambda: None)
    worker.restore(report, time.time())
    assert worker.view.need is not None
    task = asyncio.create_task(worker.run())
    await until(lambda: worker.view.need is not None and worker.view.need.present == 200 * MIB)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 500 * MIB < worker.view.need.value <= 700 * MIB
    worker.restore(report, time.time() - 3600)
    assert worker.view.need is None, "too old"


def test_a_request_is_as_old_as_the_agents_of_its_node_have_seen() -> None:
    clock = Clock()
    clock.now = 10_000.0
    worker = MemoryWorker(
        instance(target=400 * MIB), FakeHypervisor({}), replace(settings(), wall_clock=clock), lambda: None
    )

    def age() -> float | None:
        return None if worker.target_since is None else clock.now - worker.target_since.timestamp()

    earlier = VirtualMachineReport(
        uid="vm",
        namespace="default",
        name="vm",
        size=1024 * MIB,
        target=400 * MIB,
        target_since=datetime.fromtimestamp(7000, UTC),
    )
    clock.now += 5
    worker.restore(earlier.model_copy(update={"target": 300 * MIB}), clock.now)
    assert age() == 5, "the earlier agent saw another request"
    worker.restore(earlier, clock.now)
    assert age() == 3005
    worker.update(instance(target=400 * MIB, minimum=200 * MIB), PolicyBacking())
    assert age() == 3005, "the request is the same"
    worker.update(instance(target=500 * MIB), PolicyBacking())
    assert age() == 0
    worker.update(instance(), PolicyBacking())
    assert age() is None


@pytest.mark.parametrize(("age", "target"), [(5.0, 300 * MIB), (3600.0, None)], ids=["just now", "an hour ago"])
async def test_what_an_earlier_agent_decided_in_an_emergency_holds_only_if_that_was_lately(
    age: float, target: int | None
) -> None:
    of = instance(target=400 * MIB)
    worker = MemoryWorker(of, FakeHypervisor({}), settings(), lambda: None)
    report = VirtualMachineReport(
        uid="vm", namespace="default", name="vm", size=1024 * MIB, target=400 * MIB, emergency_target=300 * MIB
    )
    worker.restore(report, time.time() - age)
    assert worker.emergency_target == target
