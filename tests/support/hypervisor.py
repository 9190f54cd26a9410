"""A hypervisor that is none: guests of numbers, that do as the test says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubeballoon.agent.hypervisor import AgentError, Channel, Domain, HungError, HypervisorError, Plugged, Sample
from kubeballoon.agent.launchers import Launcher
from kubeballoon.core.demand import GuestStatistics

MIB = 1 << 20
KERNEL = 40 * MIB


@dataclass
class FakeDomain:
    """A guest that follows at once, unless told otherwise.

    Attributes:
        used: what the guest works with, its kernel included.
        follows: whether its driver does what it is asked.
        reports: whether its driver reports.
        hangs: calls never return, and so miss their deadline.
        requests: everything that was asked, in order.
    """

    size: int = 1024 * MIB
    used: int = 200 * MIB
    actual: int = 1024 * MIB
    follows: bool = True
    reports: bool = True
    running: bool = True
    balloon: bool = True
    hangs: bool = False
    gone: HypervisorError | None = None
    requests: list[int] = field(default_factory=list)
    period: int = 0

    async def sample(self) -> Sample:
        """Look at the numbers."""
        await self._answer()
        statistics = GuestStatistics(
            actual=self.actual,
            updated=time.time() if self.reports else 0.0,
            available=self.actual - KERNEL if self.reports else None,
            usable=max(0, self.actual - self.used) if self.reports else None,
        )
        return Sample(self.size, self.actual, self.running, self.balloon, statistics)

    async def set_memory(self, size: int) -> None:
        """Do as asked, if the test lets it."""
        await self._answer()
        self.requests.append(size)
        if self.follows:
            self.actual = size

    async def set_statistics_period(self, seconds: int) -> None:
        """Remember the period."""
        await self._answer()
        self.period = seconds

    def close(self) -> None:
        """Nothing is open."""

    async def _answer(self) -> None:
        if self.gone is not None:
            raise self.gone
        if self.hangs:
            await asyncio.sleep(0.5)
            raise HungError("the fake hangs")


@dataclass
class FakeChannel:
    """A guest's agent and its processors, that do as the test says.

    Attributes:
        online: the guest's processors by index, and whether it uses them.
        fixed: those that the guest does not give up.
        absent: why its agent does not do as told; None while it does.
        ejects: whether the guest's kernel gives an unplugged processor up.
        tells: whether libvirt hears of that.
        commands: every command of the agent, in order.
    """

    online: dict[int, bool] = field(default_factory=lambda: dict.fromkeys(range(4), True))
    fixed: frozenset[int] = frozenset({0})
    absent: AgentError | None = None
    ejects: bool = True
    tells: bool = True
    counted: int = 4
    files: dict[str, bytes] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    unplugged: list[str] = field(default_factory=list)
    pid: int | None = 1

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Carry it out, if the agent is there."""
        self.commands.append(name)
        if self.absent is not None:
            raise self.absent
        if name == "guest-get-vcpus":
            return [
                {"logical-id": index, "online": online, "can-offline": index not in self.fixed}
                for index, online in self.online.items()
            ]
        for each in arguments["vcpus"]:
            self.online[each["logical-id"]] = each["online"]
        return len(arguments["vcpus"])

    async def plugged(self) -> Plugged:
        """Look at the numbers."""
        removable = tuple(f"vcpu{index}" for index in sorted(self.online, reverse=True) if index)
        return Plugged(self.counted, removable, 0.0)

    async def unplug(self, name: str) -> None:
        """Have the guest give a processor up, if the test lets it."""
        self.unplugged.append(name)
        if self.ejects:
            del self.online[int(name.removeprefix("vcpu"))]
            self.counted -= self.tells

    async def plug(self, count: int) -> None:
        """Plug processors in; the guest does not use them yet."""
        for index in range(count):
            self.online.setdefault(index, False)
        self.counted = count

    def vcpus(self) -> frozenset[int]:
        """Those that have a thread."""
        return frozenset(self.online)

    def merged(self) -> int | None:
        """Nothing is merged."""
        return 0

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class FakeHypervisor:
    """Connects to the fakes it is given, by the name of their domain."""

    domains: dict[str, FakeDomain]
    channels: dict[str, FakeChannel] = field(default_factory=dict)
    connected: int = 0
    forgotten: list[str] = field(default_factory=list)

    async def connect(self, launcher: Launcher, domain: str) -> Domain:  # noqa: ARG002 - any launcher will do
        """Find the fake."""
        self.connected += 1
        return self.domains[domain]

    async def open(self, launcher: Launcher, domain: str) -> Channel:  # noqa: ARG002 - any launcher will do
        """Find the fake."""
        return self.channels[domain]

    def forget(self, pod: str) -> None:
        """Remember what was forgotten."""
        self.forgotten.append(pod)
