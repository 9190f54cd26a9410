"""Rounds on a clock of the test's own, written to an API server that is a fake."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubeballoon.cluster.snapshot import SILENT
from kubeballoon.controller.counters import Counters
from kubeballoon.controller.round import Rounds
from kubeballoon.controller.scheduler import RESYNC, Scheduler
from kubeballoon.controller.world import World
from kubeballoon.metrics import new_registry
from tests.support.cluster import MIB, Object, memory_policy
from tests.support.waiting import Clock

TODAY = datetime(2026, 1, 1, tzinfo=UTC)


class FakeCluster:
    """Takes every patch, and has time pass with each."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.patches: list[str] = []
        self.scheduler: Scheduler | None = None
        self.stalls: list[str | None] = []

    async def merge(self, path: str, body: Object) -> Object:
        """Take it."""
        await asyncio.sleep(0)
        self.clock.now += self.seconds
        self.patches.append(path)
        if self.scheduler is not None:
            self.stalls.append(self.scheduler.stalled())
        return body


def report(observed: datetime, vms: int = 1, version: int = 1) -> Object:
    """A node's report of VMs that use little."""
    guests = [
        {"uid": f"u{index}", "namespace": "shop", "name": f"vm-{index}", "size": str(512 * MIB)}
        | {"actual": str(512 * MIB), "need": str(100 * MIB)}
        for index in range(vms)
    ]
    memory = {"total": str(vms * 400 * MIB), "available": str(100 * MIB), "other": "0", "reserve": "0"}
    status = {"observedAt": observed.isoformat(), "memory": memory, "state": "High", "virtualMachines": guests}
    return {"metadata": {"name": "n", "uid": "n", "resourceVersion": str(version)}, "status": status}


class Controller:
    """Rounds, and what they are run with."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.clock = Clock()
        self.cluster = FakeCluster(self.clock, seconds)
        self.world = World(today=lambda: TODAY)
        self.world.memory.put(memory_policy("all"))
        unused: Any = None  # nothing is announced on a first round
        cluster: Any = self.cluster
        self.rounds = Rounds(cluster, self.world, unused, Counters(new_registry()), self.clock)
        self.scheduler = Scheduler(cluster, self.world, unused, self.rounds, self.clock)

    async def silent(self) -> bool:
        """Whether a round finds that the agent is."""
        await self.rounds.run("n")
        return self.rounds.outcomes["n"].silent


@pytest.mark.parametrize("wrong", [timedelta(hours=-3), timedelta(), timedelta(hours=3)], ids=str)
async def test_an_agent_is_silent_by_the_controller_s_clock_whatever_its_own_says(wrong: timedelta) -> None:
    controller = Controller()
    for beat in range(1, 5):
        controller.clock.now += 60
        controller.world.put_node(
            report(TODAY + wrong + timedelta(seconds=60 * beat), version=beat), controller.clock()
        )
        assert beat == 1 or not await controller.silent()
    controller.clock.now += SILENT
    assert not await controller.silent()
    controller.clock.now += 1
    assert await controller.silent()


async def test_the_first_report_s_own_date_tells_whether_its_agent_is_gone() -> None:
    controller = Controller()
    controller.world.put_node(report(TODAY - timedelta(seconds=SILENT + 1)), controller.clock())
    assert await controller.silent()


async def test_a_report_that_is_only_read_again_is_no_sign_of_life() -> None:
    controller = Controller()
    controller.world.put_node(report(TODAY), controller.clock())
    controller.clock.now += SILENT + 1
    controller.world.put_node(report(TODAY, version=2), controller.clock())
    assert await controller.silent()


async def test_a_round_of_many_slow_patches_counts_as_alive_while_it_gets_on() -> None:
    controller = Controller(seconds=5)
    controller.cluster.scheduler = controller.scheduler
    controller.world.put_node(report(TODAY, vms=20), controller.clock())
    await controller.rounds.run("n")
    assert controller.cluster.stalls == [None] * 20
    controller.clock.now += 4 * RESYNC
    assert controller.scheduler.stalled() is not None
