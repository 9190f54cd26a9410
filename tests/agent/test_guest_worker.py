"""An guest_worker and its VM; the VM is a fake."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.lab import GuestSpec, vmi_object
from hack.testbed.lab.fakes import FakeChannel, FakeHypervisor
from kubeballoon.agent.hypervisor.guest_agent import RETRY_AT_MOST, GuestAgent
from kubeballoon.agent.hypervisor.interface import AgentError, DomainSample, GoneError, PluggedProcessors
from kubeballoon.agent.hypervisor.launchers import Launcher
from kubeballoon.agent.problem import Problem
from kubeballoon.agent.vm import guest_worker as module
from kubeballoon.agent.vm.guest_program import PROBE, GuestProgram
from kubeballoon.agent.vm.guest_worker import GuestWorker, GuestWorkers
from kubeballoon.agent.vm.instance import Instance, read
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.vocabulary import ReclaimMethod
from tests.support.waiting import Clock, soon

until = partial(soon, seconds=5.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other quickly, and every pod has a socket."""
    for name in ("LOOK", "IDLE", "STEP"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "RETRY", (0.01,))
    monkeypatch.setattr(module, "find_launcher", lambda pods, uids: Launcher(uids[0], pods / uids[0]))


def instance(name: str, **annotations: str) -> Instance:
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name=name, vcpus=4), f"pod-{name}", "here", annotations=keys)
    made["metadata"]["uid"] = name
    found = read(made, "here")
    assert found is not None
    return found


@asynccontextmanager
async def attended(channels: dict[str, FakeChannel]) -> AsyncIterator[GuestWorkers]:
    named = {f"default_{name}": channel for name, channel in channels.items()}
    guest_workers = GuestWorkers(FakeHypervisor({}, named), Path("/pods"), lambda: None)
    guest_workers.match({name: instance(name, processor_target="2") for name in channels})
    try:
        yield guest_workers
    finally:
        await guest_workers.close()


async def test_what_a_vm_is_asked_is_carried_out_and_undone_when_it_is_not_asked_any_more() -> None:
    channel = FakeChannel()
    async with attended({"a": channel}) as guest_workers:
        await until(lambda: sum(channel.online.values()) == 2)
        guest_workers.match({"a": instance("a")})
        await until(lambda: sum(channel.online.values()) == 4)


async def test_a_connection_that_breaks_is_made_again() -> None:
    channel = FakeChannel(gone=GoneError("the socket vanished"))
    async with attended({"a": channel}):
        await until(lambda: channel.looks > 1)
        assert sum(channel.online.values()) == 4
        channel.gone = None
        await until(lambda: sum(channel.online.values()) == 2)


async def test_one_that_hangs_delays_no_other() -> None:
    hung, well = FakeChannel(hangs=True), FakeChannel()
    async with attended({"hung": hung, "well": well}):
        await until(lambda: sum(well.online.values()) == 2)
        assert sum(hung.online.values()) == 4


async def test_a_vm_that_left_is_attended_to_no_more() -> None:
    channel = FakeChannel()
    async with attended({"a": channel}) as guest_workers:
        await until(lambda: channel.looks > 0)
        guest_workers.match({})
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "attend default_a"])


async def test_a_frozen_vm_s_attendant_rests_until_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(_: GuestWorker, seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0.002)

    monkeypatch.setattr(GuestWorker, "_pause", pause)
    channel = FakeChannel()
    async with attended({"a": channel}) as guest_workers:
        await until(lambda: sum(channel.online.values()) == 2)
        guest_workers.match({"a": replace(instance("a"), hold=Problem(AgentReason.MIGRATING, "it is migrating"))})
        await until(lambda: pauses and pauses[-1] == module.IDLE)
        rested, looks = len(pauses), channel.looks
        await until(lambda: len(pauses) > rested + 10)
        assert set(pauses[rested:]) == {module.IDLE}
        assert channel.looks == looks
        guest_workers.match({"a": instance("a")})
        await until(lambda: sum(channel.online.values()) == 4)


async def test_a_vm_of_which_nothing_is_asked_is_looked_at_rarely() -> None:
    agent, channel = GuestAgent(), FakeChannel()
    guest_program = GuestProgram(agent, channel, lambda: None)
    guest_program.sample(
        DomainSample(1 << 30, 1 << 30, running=True, balloon=True, statistics=GuestStatistics(1 << 30, 1.0))
    )
    await guest_program.look()
    assert guest_program.rest <= PROBE, "it is not known whether a program holds memory"
    agent.channel = channel
    await guest_program.look()
    assert guest_program.rest == math.inf, "its balloon works"
    guest_program.method = ReclaimMethod.GUEST_AGENT
    assert guest_program.rest <= PROBE


class Garbling(FakeChannel):
    """A guest's agent that answers what makes no sense."""

    answer: object = None

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002 - whatever is asked
        """Say the same to everything."""
        self.commands.append(name)
        return self.answer


@pytest.mark.parametrize("answer", [5, [{}], [5], [{"logical-id": "a", "online": True}], {"x": 1}], ids=str)
async def test_processors_that_make_no_sense_are_told_as_that(answer: object) -> None:
    agent, channel = GuestAgent(), Garbling()
    agent.channel, channel.answer = channel, answer
    with pytest.raises(AgentError) as garbled:
        await agent.processors()
    assert garbled.value.reason == "GuestAgentGarbled"


@pytest.mark.parametrize("answer", [None, {"buf-b64": "x"}, {"buf-b64": 5}, {"pid": float("inf")}, {"pid": 1}], ids=str)
async def test_files_and_programs_that_make_no_sense_are_told_as_that(answer: object) -> None:
    for method in ("read_file", "run"):
        agent, channel = GuestAgent(), Garbling()
        agent.channel, channel.answer = channel, answer
        with pytest.raises(AgentError) as garbled:
            await getattr(agent, method)("/x")
        assert garbled.value.reason == "GuestAgentGarbled"


async def test_a_command_that_is_refused_is_not_repeated_at_every_look() -> None:
    clock, channel = Clock(), FakeChannel(refused={"guest-file-write": "disabled"})
    agent = GuestAgent(clock)
    agent.channel = channel
    for _ in range(600):
        clock.now += 1
        with pytest.raises(AgentError, match="disabled"):
            await agent.write_file("/x", b"")
        await agent.processors()
    assert 600 / RETRY_AT_MOST <= channel.commands.count("guest-file-write") < 15
    assert channel.commands.count("guest-get-vcpus") == 600, "what it does not refuse is asked"
    channel.refused = {}
    clock.now += RETRY_AT_MOST
    await agent.write_file("/x", b"")
    assert channel.files["/x"] == b""


class Faulty(FakeChannel):
    """Looks at it end in what nobody expects, while the test says so."""

    faulty: bool = True

    async def plugged(self) -> PluggedProcessors:
        """See ``Channel.plugged``."""
        self.looks += 1
        if self.faulty:
            raise ZeroDivisionError("nobody expects it")
        return await super().plugged()


async def test_what_nobody_expects_is_contained_and_the_reservation_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module, "RETRY", (0.01, 0.02, 0.03))
    channel = Faulty()

    async def pause(_: GuestWorker, seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(GuestWorker, "_pause", pause)
    guest_worker = GuestWorker(
        instance("a", processor_target="2"), FakeHypervisor({}, {"default_a": channel}), Path("/pods"), lambda: None
    )
    task = asyncio.create_task(guest_worker.run())
    await until(lambda: channel.looks > 4)
    assert pauses[:4] == [0.01, 0.02, 0.03, 0.03]
    assert guest_worker.processors.view.problem == (
        "InternalError",
        "its guest_worker failed: ZeroDivisionError('nobody expects it')",
    )
    channel.faulty = False
    await until(lambda: sum(channel.online.values()) == 2)
    assert not task.done()
    task.cancel()
