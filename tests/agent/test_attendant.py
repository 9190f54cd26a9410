"""An attendant and its VM; the VM is a fake."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hack.lab import GuestSpec, vmi_object
from hack.lab.fakes import FakeChannel, FakeHypervisor
from kubeballoon.agent import attendant as module
from kubeballoon.agent.attendant import Attendant, Attendants
from kubeballoon.agent.hypervisor import GoneError, Sample
from kubeballoon.agent.instance import Instance, read
from kubeballoon.agent.launchers import Launcher
from kubeballoon.agent.reservation import PROBE
from kubeballoon.api.v1alpha1 import ReclaimMethod
from kubeballoon.core.demand import GuestStatistics


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other quickly, and every pod has a socket."""
    for name in ("LOOK", "IDLE", "STEP"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "RETRY", (0.01,))
    monkeypatch.setattr(module, "find", lambda pods, uids: Launcher(uids[0], pods / uids[0]))


def instance(name: str, **annotations: str) -> Instance:
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name=name, vcpus=4), f"pod-{name}", "here", annotations=keys)
    made["metadata"]["uid"] = name
    found = read(made, "here")
    assert found is not None
    return found


@asynccontextmanager
async def attended(channels: dict[str, FakeChannel]) -> AsyncIterator[Attendants]:
    named = {f"default_{name}": channel for name, channel in channels.items()}
    attendants = Attendants(FakeHypervisor({}, named), Path("/pods"), lambda: None)
    attendants.match({name: instance(name, processor_target="2") for name in channels})
    try:
        yield attendants
    finally:
        await attendants.close()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition, most without an event
            await asyncio.sleep(0.005)


async def test_what_a_vm_is_asked_is_carried_out_and_undone_when_it_is_not_asked_any_more() -> None:
    channel = FakeChannel()
    async with attended({"a": channel}) as attendants:
        await until(lambda: sum(channel.online.values()) == 2)
        attendants.match({"a": instance("a")})
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
    async with attended({"a": channel}) as attendants:
        await until(lambda: channel.looks > 0)
        attendants.match({})
        await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "attend default_a"])


async def test_a_frozen_vm_s_attendant_rests_until_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(_: Attendant, seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0.002)

    monkeypatch.setattr(Attendant, "_pause", pause)
    channel = FakeChannel()
    async with attended({"a": channel}) as attendants:
        await until(lambda: sum(channel.online.values()) == 2)
        attendants.match({"a": replace(instance("a"), frozen=("Migrating", "it is migrating"))})
        await until(lambda: pauses and pauses[-1] == module.IDLE)
        rested, looks = len(pauses), channel.looks
        await until(lambda: len(pauses) > rested + 10)
        assert set(pauses[rested:]) == {module.IDLE}
        assert channel.looks == looks
        attendants.match({"a": instance("a")})
        await until(lambda: sum(channel.online.values()) == 4)


async def test_a_vm_of_which_nothing_is_asked_is_looked_at_rarely() -> None:
    channel = FakeChannel()
    attendant = Attendant(instance("a"), FakeHypervisor({}, {"default_a": channel}), Path("/pods"), lambda: None)
    attendant.reservation.sample(
        Sample(1 << 30, 1 << 30, running=True, balloon=True, statistics=GuestStatistics(1 << 30, 1.0))
    )
    await attendant.reservation.look()
    assert attendant.reservation.rest == math.inf, "its balloon works"
    attendant.reservation.method = ReclaimMethod.GUEST_AGENT
    assert attendant.reservation.rest <= PROBE
