"""Plugged memory that a guest does not bring online: it holds none of it, and what it is asked for leaves it out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from hack.testbed.lab import MIB
from hack.testbed.lab.fakes import KERNEL, FakeMemoryControl
from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.agent.vm.offline_memory import OnlineMemoryControl, offline_memory
from kubeballoon.core.memory.demand import BalloonCalibration, GuestStatistics, present_need
from tests.support.waiting import Clock

GIB = 1024 * MIB


@dataclass
class Grown(FakeMemoryControl):
    """A guest of 1 GiB to which half a GiB was plugged in, some of which is offline; sizes are in bytes."""

    size: int = 1536 * MIB
    actual: int = 1536 * MIB
    plugged: int = 512 * MIB
    offline: int = 512 * MIB

    async def sample(self) -> DomainSample:
        """Read the memory; the guest's kernel manages and counts only what is online."""
        sample = await super().sample()
        statistics = sample.statistics
        assert statistics.available is not None
        statistics = statistics._replace(
            available=statistics.available - self.offline, usable=max(0, self.actual - self.offline - self.used)
        )
        return replace(sample, plugged=self.plugged, statistics=statistics)


async def test_what_is_offline_is_neither_held_nor_needed_nor_asked_for() -> None:
    guest = Grown()
    control = OnlineMemoryControl(guest, "default_vm")
    sample = await control.sample()
    assert (sample.size, sample.statistics.actual, sample.plugged) == (GIB, GIB, 0)
    assert present_need(sample.statistics) == guest.used
    await control.set_memory(768 * MIB)
    assert guest.actual - guest.offline == 768 * MIB, "so much the guest can use"
    sample = await control.sample()
    assert (sample.size, sample.statistics.actual) == (GIB, 768 * MIB)
    await control.set_memory(sample.size)
    assert guest.actual == guest.size, "the balloon is empty"


async def test_memory_that_comes_online_later_counts_from_then_on() -> None:
    guest, clock = Grown(), Clock(0.0)
    control = OnlineMemoryControl(guest, "default_vm", clock)
    assert (await control.sample()).size == GIB
    guest.offline = 0
    assert (await control.sample()).size == guest.size


async def test_while_the_balloon_moves_the_size_stays_as_it_was_found() -> None:
    guest = Grown(follows=False)
    control = OnlineMemoryControl(guest, "default_vm")
    assert (await control.sample()).size == GIB
    for actual in (1400, 1200, 900, 700):
        guest.actual = actual * MIB
        assert (await control.sample()).size == GIB


def seen(boot: int, plugged: int, managed: int, actual: int | None = None) -> DomainSample:
    """A VM whose guest's kernel manages so much of its memory."""
    size = boot + plugged
    left = size if actual is None else actual
    statistics = GuestStatistics(left, updated=1.0, available=managed - (size - left))
    return DomainSample(size, size, running=True, balloon=True, statistics=statistics, plugged=plugged)


@pytest.mark.parametrize(
    ("boot", "plugged", "managed", "offline"),
    [
        (GIB, 0, GIB - KERNEL, 0),
        (GIB, 512 * MIB, 1536 * MIB - KERNEL, 0),
        (GIB, 512 * MIB, GIB - KERNEL, 512 * MIB),
        (GIB, 64 * MIB, GIB - KERNEL, 0),
        (GIB, 512 * MIB, 1264 * MIB, 0),
        (64 * GIB, 64 * GIB, 126 * GIB, 0),
        (64 * GIB, 64 * GIB, 62 * GIB, 64 * GIB),
        (64 * GIB, 64 * GIB, 94 * GIB, 30 * GIB + 640 * MIB),
    ],
    ids=[
        "nothing plugged",
        "all online",
        "all offline",
        "too little to tell",
        "all online beside a crash kernel",
        "a large guest",
        "a large guest with all of it offline",
        "a large guest with half of it offline",
    ],
)
@pytest.mark.parametrize("ballooned", [0, 256 * MIB], ids=["no balloon", "a balloon"])
def test_what_is_offline_is_told_by_what_the_guest_manages(
    boot: int, plugged: int, managed: int, offline: int, ballooned: int
) -> None:
    sample = seen(boot, plugged, managed, boot + plugged - ballooned)
    assert offline_memory(sample, BalloonCalibration()) == offline


def test_a_guest_whose_memory_does_not_shrink_with_its_balloon_is_judged_by_all_of_it() -> None:
    sample = seen(GIB, 512 * MIB, GIB - KERNEL, 1280 * MIB)
    available = GIB - KERNEL
    deflating = replace(sample, statistics=sample.statistics._replace(available=available))
    assert offline_memory(deflating, BalloonCalibration(autodeflate=True)) == 512 * MIB


def test_of_a_guest_that_does_not_report_nothing_is_offline() -> None:
    sample = seen(GIB, 512 * MIB, GIB)
    assert offline_memory(replace(sample, statistics=GuestStatistics(GIB, 0.0)), BalloonCalibration()) == 0
