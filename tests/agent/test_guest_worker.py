"""A guest worker and its VM, which is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hack.testbed.lab import GuestSpec, vmi_object
from hack.testbed.lab.fakes import FakeGuestControl, FakeHypervisor
from kubeballoon.agent.event_wait import Wait, wait_for
from kubeballoon.agent.hypervisor.errors import GoneError, GuestAgentError
from kubeballoon.agent.hypervisor.protocols import DomainSample, PluggedProcessors
from kubeballoon.agent.hypervisor.qemu_guest_agent import LONGEST_ANSWER, GuestAgent
from kubeballoon.agent.vm.guest_program_client import GuestProgram
from kubeballoon.agent.vm.guest_worker import GuestWorker, GuestWorkers
from kubeballoon.agent.vm.vmi import Instance, read_instance
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.agent.wait_times import DEFAULT_TIMING, Timing
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.backoff import Backoff
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.vocabulary import ReclaimMethod
from tests.agent.fast_timing import QUICK
from tests.support.waiting import Clock, soon

T = TypeVar("T")

until = partial(soon, seconds=5.0)


pytestmark = pytest.mark.usefixtures("sockets")

RETRY_AT_MOST = DEFAULT_TIMING.guest_agent.retry.longest
PROBE_INTERVAL = DEFAULT_TIMING.program.probe_interval


def instance(name: str, **annotations: str) -> Instance:
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name=name, vcpus=4), f"pod-{name}", "here", annotations=keys)
    made["metadata"]["uid"] = name
    found = read_instance(made, "here")
    assert found is not None
    return found


@asynccontextmanager
async def working(
    controls: dict[str, FakeGuestControl], timing: Timing = QUICK, wait: Wait = wait_for
) -> AsyncIterator[GuestWorkers]:
    domains = {f"default_{name}": control for name, control in controls.items()}
    hypervisor = FakeHypervisor({}, domains)
    guest_workers = GuestWorkers(
        lambda instance: GuestWorker(instance, hypervisor, Path("/pods"), lambda: None, timing, wait)
    )
    guest_workers.match({name: instance(name, processor_target="2") for name in controls})
    try:
        yield guest_workers
    finally:
        await guest_workers.close()


async def test_a_request_is_carried_out_and_undone_when_it_ends() -> None:
    control = FakeGuestControl()
    async with working({"a": control}) as guest_workers:
        await until(lambda: sum(control.online.values()) == 2)
        guest_workers.match({"a": instance("a")})
        await until(lambda: sum(control.online.values()) == 4)


async def test_a_connection_that_breaks_is_made_again() -> None:
    control = FakeGuestControl(gone=GoneError("the socket vanished"))
    async with working({"a": control}):
        await until(lambda: control.looks > 1)
        assert sum(control.online.values()) == 4
        control.gone = None
        await until(lambda: sum(control.online.values()) == 2)


async def test_one_that_hangs_delays_no_other() -> None:
    hung, well = FakeGuestControl(hangs=True), FakeGuestControl()
    async with working({"hung": hung, "well": well}):
        await until(lambda: sum(well.online.values()) == 2)
        assert sum(hung.online.values()) == 4


async def test_a_vm_that_left_has_no_worker_any_more() -> None:
    control = FakeGuestControl()
    async with working({"a": control}) as guest_workers:
        await until(lambda: control.looks > 0)
        guest_workers.match({})
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "guest worker default_a"])


async def test_the_worker_of_a_migrating_vm_waits_until_the_migration_ends() -> None:
    pauses: list[float] = []

    async def wait(event: asyncio.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return await wait_for(event, 0.002)

    control = FakeGuestControl()
    async with working({"a": control}, wait=wait) as guest_workers:
        await until(lambda: sum(control.online.values()) == 2)
        guest_workers.match({"a": replace(instance("a"), hold=Problem(AgentReason.MIGRATING, "it is migrating"))})
        await until(lambda: pauses and pauses[-1] == QUICK.guest.idle_poll)
        rested, looks = len(pauses), control.looks
        await until(lambda: len(pauses) > rested + 10)
        assert set(pauses[rested:]) == {QUICK.guest.idle_poll}
        assert control.looks == looks
        guest_workers.match({"a": instance("a")})
        await until(lambda: sum(control.online.values()) == 4)


async def test_a_vm_without_a_request_is_looked_at_rarely() -> None:
    guest_agent, control = GuestAgent(), FakeGuestControl()
    guest_program = GuestProgram(guest_agent, control, lambda: None)
    guest_program.sample(
        DomainSample(1 << 30, 1 << 30, running=True, balloon=True, statistics=GuestStatistics(1 << 30, 1.0))
    )
    await guest_program.poll()
    assert guest_program.until_due <= PROBE_INTERVAL, "it is not known whether a program has locked memory"
    guest_agent.control = control
    await guest_program.poll()
    assert guest_program.until_due == math.inf, "its balloon works"
    guest_program.method = ReclaimMethod.GUEST_AGENT
    assert guest_program.until_due <= PROBE_INTERVAL


class Garbling(FakeGuestControl):
    """A guest agent whose answers make no sense."""

    answered: object = None

    def answer(self, name: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - whatever is asked
        """Answer the same to every command."""
        return self.answered


@pytest.mark.parametrize("answer", [5, [{}], [5], [{"logical-id": "a", "online": True}], {"x": 1}], ids=str)
async def test_processors_that_make_no_sense_have_a_reason_of_their_own(answer: object) -> None:
    guest_agent, control = GuestAgent(), Garbling()
    guest_agent.control, control.answered = control, answer
    with pytest.raises(GuestAgentError) as garbled:
        await guest_agent.processors()
    assert garbled.value.reason == "GuestAgentGarbled"


@pytest.mark.parametrize("answer", [None, {"buf-b64": "x"}, {"buf-b64": 5}, {"pid": float("inf")}, {"pid": 1}], ids=str)
async def test_files_and_programs_that_make_no_sense_have_a_reason_of_their_own(answer: object) -> None:
    for method in ("read_file", "run"):
        guest_agent, control = GuestAgent(), Garbling()
        guest_agent.control, control.answered = control, answer
        with pytest.raises(GuestAgentError) as garbled:
            await getattr(guest_agent, method)("/x")
        assert garbled.value.reason == "GuestAgentGarbled"


class Text(str):
    """A text of which a test can find out whether anything still refers to it."""

    __slots__ = ("__weakref__",)


def many_brackets(length: int) -> str:
    """Write an answer that is short for its maker and long for its reader: each bracket pair becomes an object."""
    return '{"return":[' + "[]," * (length // 3) + "[]]}"


@pytest.mark.parametrize(
    "text",
    [
        many_brackets(4 << 20),
        many_brackets(LONGEST_ANSWER // 2),
        '{"return":' + "[" * 30000,
        '{"return":[{"logical-id":' + "9" * 5000 + ',"online":true}]}',
        '{"return":[{"logical-id":1e400,"online":true}]}',
        "\0\ud800",
    ],
    ids=["long", "as long as allowed", "deep", "long number", "infinite", "no text"],
)
async def test_nothing_of_an_answer_that_makes_no_sense_is_kept(text: str) -> None:
    answers: list[weakref.ref[Text]] = []

    class Liar(FakeGuestControl):
        async def command(self, name: str, arguments: Mapping[str, Any], read: Callable[[str], T]) -> T:  # noqa: ARG002
            answer = Text(text)
            answers.append(weakref.ref(answer))
            return read(answer)

    guest_agent = GuestAgent()
    guest_agent.control = Liar()
    with contextlib.suppress(GuestAgentError):
        await guest_agent.processors()
    with pytest.raises(GuestAgentError, match="makes no sense") as remembered:
        await guest_agent.processors()
    assert remembered.value.reason == "GuestAgentGarbled"
    assert [answer() for answer in answers] == [None]


async def test_a_command_that_is_refused_is_not_repeated_at_every_look() -> None:
    clock, control = Clock(), FakeGuestControl(refused={"guest-file-write": "disabled"})
    guest_agent = GuestAgent(clock)
    guest_agent.control = control
    for _ in range(600):
        clock.now += 1
        with pytest.raises(GuestAgentError, match="disabled"):
            await guest_agent.write_file("/x", b"")
        await guest_agent.processors()
    assert 600 / RETRY_AT_MOST <= control.commands.count("guest-file-write") < 15
    assert control.commands.count("guest-get-vcpus") == 600, "what it does not refuse is asked"
    control.refused = {}
    clock.now += RETRY_AT_MOST
    await guest_agent.write_file("/x", b"")
    assert control.files["/x"] == b""


class Faulty(FakeGuestControl):
    """Reading its processors raises an error that nobody expects, while the test says so."""

    faulty: bool = True

    async def plugged(self) -> PluggedProcessors:
        """Read the processors, or fail."""
        self.looks += 1
        if self.faulty:
            raise ZeroDivisionError("nobody expects it")
        return await super().plugged()


async def test_an_error_that_nobody_expects_ends_no_worker() -> None:
    pauses: list[float] = []
    timing = replace(QUICK, guest=replace(QUICK.guest, reconnect=Backoff(shortest=0.01, longest=0.03)))
    control = Faulty()

    async def wait(event: asyncio.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return await wait_for(event, 0)

    guest_worker = GuestWorker(
        instance("a", processor_target="2"),
        FakeHypervisor({}, {"default_a": control}),
        Path("/pods"),
        lambda: None,
        timing,
        wait,
    )
    task = asyncio.create_task(guest_worker.run())
    await until(lambda: control.looks > 4)
    assert pauses[:4] == [0.01, 0.02, 0.03, 0.03]
    assert guest_worker.processors.view.problem == (
        "InternalError",
        "its guest worker failed: ZeroDivisionError('nobody expects it')",
    )
    control.faulty = False
    await until(lambda: sum(control.online.values()) == 2)
    assert not task.done()
    task.cancel()
