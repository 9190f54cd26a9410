"""A hypervisor that is none: guests of numbers, that do as they are told. For tests and benchmarks without guests."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kubeballoon.agent.hypervisor.interface import (
    AgentError,
    DomainSample,
    GuestControl,
    HungError,
    HypervisorError,
    MemoryControl,
    PluggedProcessors,
)
from kubeballoon.agent.hypervisor.launchers import Launcher
from kubeballoon.agent.hypervisor.libvirt import CallThread
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.memory.demand import GuestStatistics

from .guest_spec import MIB

KERNEL = 40 * MIB


async def _hop(thread: CallThread | None) -> None:
    """Do what a call to libvirt costs here: the way to the thread and back."""
    if thread is not None:
        await thread.call(5.0, time.time)


@dataclass
class FakeDomain:
    """A guest that follows at once, unless told otherwise.

    Attributes:
        used: what the guest works with, its kernel included.
        follows: whether its driver does what it is asked.
        reports: whether its driver reports.
        hangs: calls never return, and so miss their deadline.
        requests: everything that was asked, in order.
        alone: why nothing in the guest could take the balloon's place.
        spare: what it says it could still give, bytes.
        thread: makes each call there, as libvirt's are made; without one they are made at once.
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
    alone: str | None = None
    spare: int | None = None
    thread: CallThread | None = None

    async def sample(self) -> DomainSample:
        """Look at the numbers."""
        await self._answer()
        statistics = GuestStatistics(
            actual=self.actual,
            updated=time.time() if self.reports else 0.0,
            available=self.actual - KERNEL if self.reports else None,
            usable=max(0, self.actual - self.used) if self.reports else None,
        )
        seen = DomainSample(self.size, self.actual, self.running, self.balloon, statistics)
        return replace(seen, alone=self.alone, spare=self.spare)

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
        await _hop(self.thread)
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
        deaf: whether its agent does nothing about processors, and says nothing of that.
        files: the guest's files by path.
        refused: the agent's commands that it refuses, and what it says then.
        ran: every program that was run in the guest, with its arguments.
        program: what such a program comes to.
        system: what the guest's system calls itself.
        thread: makes each call there, as libvirt's are made; without one they are made at once.
        commands: every command of the agent, in order.
        held: what its process holds of the node's memory, bytes.
    """

    online: dict[int, bool] = field(default_factory=lambda: dict.fromkeys(range(4), True))
    fixed: frozenset[int] = frozenset({0})
    absent: AgentError | None = None
    ejects: bool = True
    tells: bool = True
    counted: int = 4
    files: dict[str, bytes] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    program: Callable[[tuple[str, ...]], tuple[int, bytes]] = lambda _: (0, b"")
    system: str = "debian"
    unplugged: list[str] = field(default_factory=list)
    pid: int | None = 1
    emulated: bool = False
    deaf: bool = False
    gone: HypervisorError | None = None
    hangs: bool = False
    looks: int = 0
    thread: CallThread | None = None
    held: int | None = None

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Carry it out, if the agent is there."""
        await _hop(self.thread)
        self.commands.append(name)
        if self.absent is not None:
            raise self.absent
        if name in self.refused:
            raise AgentError(AgentReason.GUEST_AGENT_REFUSED, f"its guest agent refused: {self.refused[name]}")
        if name == "guest-get-vcpus":
            return [
                {"logical-id": index, "online": online, "can-offline": index not in self.fixed}
                for index, online in self.online.items()
            ]
        if name == "guest-set-vcpus" and self.deaf:
            return 0
        if name == "guest-set-vcpus":
            self.online |= {each["logical-id"]: each["online"] for each in arguments["vcpus"]}
            return len(arguments["vcpus"])
        return self._files(name, arguments)

    def _files(self, name: str, arguments: Mapping[str, Any]) -> Any:
        match name:
            case "guest-file-open":
                if arguments["mode"] == "r" and arguments["path"] not in self.files:
                    raise AgentError(
                        AgentReason.GUEST_AGENT_REFUSED, "its guest agent refused: No such file or directory"
                    )
                return arguments["path"]
            case "guest-file-read":
                return {"buf-b64": base64.b64encode(self.files[arguments["handle"]]).decode()}
            case "guest-file-write":
                self.files[arguments["handle"]] = base64.b64decode(arguments["buf-b64"])
            case "guest-exec":
                self.ran.append((arguments["path"], *arguments["arg"]))
                return {"pid": len(self.ran)}
            case "guest-exec-status":
                status, output = self.program(self.ran[arguments["pid"] - 1][1:])
                return {"exited": True, "exitcode": status, "out-data": base64.b64encode(output).decode()}
            case "guest-get-osinfo":
                return {"id": self.system}
        return None

    async def plugged(self) -> PluggedProcessors:
        """Look at the numbers."""
        await _hop(self.thread)
        self.looks += 1
        if self.gone is not None:
            raise self.gone
        if self.hangs:
            await asyncio.sleep(3600)
        removable = tuple(f"vcpu{index}" for index in sorted(self.online, reverse=True) if index)
        return PluggedProcessors(self.counted, removable, 0.0)

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

    def resident(self) -> int | None:
        """As much as the test says."""
        return self.held

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

    async def connect(self, launcher: Launcher, domain: str) -> MemoryControl:  # noqa: ARG002 - any launcher will do
        """Find the fake."""
        self.connected += 1
        return self.domains[domain]

    async def open(self, launcher: Launcher, domain: str) -> GuestControl:  # noqa: ARG002 - any launcher will do
        """Find the fake."""
        return self.channels[domain]

    def forget(self, pod: str) -> None:
        """Remember what was forgotten."""
        self.forgotten.append(pod)
