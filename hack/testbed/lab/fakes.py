"""A fake hypervisor, whose VMs are numbers that do as they are told, for tests and benchmarks without guests."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from kubeballoon.agent.hypervisor.call_queue import CallQueue
from kubeballoon.agent.hypervisor.errors import GuestAgentError, HungError, HypervisorError
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher
from kubeballoon.agent.hypervisor.protocols import DomainSample, GuestControl, MemoryControl, PluggedProcessors
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.memory.demand import GuestStatistics

from .guest_spec import MIB

T = TypeVar("T")

KERNEL = 40 * MIB


async def _hop(calls: CallQueue | None) -> None:
    """Cost what a call to libvirt costs without libvirt: the way to a thread and back."""
    if calls is not None:
        await calls.call(5.0, time.time)


@dataclass
class FakeMemoryControl:
    """A FakeMemoryControl is a VM's memory whose guest follows at once, unless a test says otherwise; sizes are bytes.

    Attributes:
        size: what the guest may have at most.
        used: what the guest works with, its kernel included.
        actual: what the balloon leaves it.
        follows: whether its driver does what is requested.
        reports: whether its driver reports.
        running: False while the guest is paused.
        balloon: whether the VM has a balloon.
        hangs: whether calls never return, and so miss their deadline.
        gone: what every call raises; None if calls succeed.
        requests: everything that was requested, in order.
        period: how often the guest is to report, seconds; 0 before that was set.
        program_fault: why a program in the guest cannot take the balloon's place.
        spare: what the guest says it could still give.
        calls: makes each call, as libvirt's are made; without one they are made at once.
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
    program_fault: str | None = None
    spare: int | None = None
    calls: CallQueue | None = None

    async def sample(self) -> DomainSample:
        """Read the memory and the state."""
        await self._answer()
        statistics = GuestStatistics(
            actual=self.actual,
            updated=time.time() if self.reports else 0.0,
            available=self.actual - KERNEL if self.reports else None,
            usable=max(0, self.actual - self.used) if self.reports else None,
        )
        sample = DomainSample(self.size, self.actual, self.running, self.balloon, statistics)
        return replace(sample, program_fault=self.program_fault, spare=self.spare)

    async def set_memory(self, size: int) -> None:
        """Follow a request, if the guest does that."""
        await self._answer()
        self.requests.append(size)
        if self.follows:
            self.actual = size

    async def set_statistics_period(self, seconds: int) -> None:
        """Set how often the guest is to report."""
        await self._answer()
        self.period = seconds

    def close(self) -> None:
        """Do nothing: no connection is open."""

    async def _answer(self) -> None:
        await _hop(self.calls)
        if self.gone is not None:
            raise self.gone
        if self.hangs:
            await asyncio.sleep(0.5)
            raise HungError("the fake hangs")


@dataclass
class FakeGuestControl:
    """A FakeGuestControl is a VM's guest agent, processors and process, which do as the test says.

    Attributes:
        online: the guest's processors by index, and whether it uses them.
        fixed: the processors that the guest does not give up.
        absent: what every command of the guest agent raises; None if commands are carried out.
        ejects: whether the guest's kernel gives an unplugged processor up.
        tells: whether libvirt hears of that.
        count: how many processors libvirt believes there are.
        files: the guest's files by path.
        opened: the path of every file that was opened, in order.
        commands: every command for the guest agent, in order.
        refused: the commands that the guest agent refuses, and what it says then.
        ran: every program that was run in the guest, with its arguments.
        program: the exit status and the output of such a program.
        system: what the guest's operating system calls itself.
        unplugged: every processor that was to be unplugged, in order.
        pid: the number of the VM's process.
        emulated: whether the guest runs without KVM.
        deaf: whether the guest agent does nothing about processors, and does not say so.
        gone: what reading the processors raises; None if that succeeds.
        hangs: whether reading the processors never returns.
        looks: how often the processors were read.
        calls: makes each call, as libvirt's are made; without one they are made at once.
        process_bytes: what the VM's process holds of the node's memory, bytes; None if it cannot be seen.
        starts: whether the guest's kernel starts processors that are plugged in, by a udev rule for instance.
        plugged_in: the processors that were plugged in.
    """

    online: dict[int, bool] = field(default_factory=lambda: dict.fromkeys(range(4), True))
    fixed: frozenset[int] = frozenset({0})
    absent: HypervisorError | None = None
    ejects: bool = True
    tells: bool = True
    count: int = 4
    files: dict[str, bytes] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
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
    calls: CallQueue | None = None
    process_bytes: int | None = None
    starts: bool = True
    plugged_in: set[int] = field(default_factory=set)

    async def command(self, name: str, arguments: Mapping[str, Any], read: Callable[[str], T]) -> T:
        """Carry a command out, and have the answer read."""
        await _hop(self.calls)
        self.commands.append(name)
        return read(json.dumps({"return": self.answer(name, arguments)}))

    def answer(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Answer a command as the guest agent would, or raise an error."""
        if self.absent is not None:
            raise self.absent
        if name in self.refused:
            raise GuestAgentError(AgentReason.GUEST_AGENT_REFUSED, f"its guest agent refused: {self.refused[name]}")
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
                    raise GuestAgentError(
                        AgentReason.GUEST_AGENT_REFUSED, "its guest agent refused: No such file or directory"
                    )
                self.opened.append(arguments["path"])
                return len(self.opened)
            case "guest-file-read":
                return {"buf-b64": base64.b64encode(self.files[self.opened[arguments["handle"] - 1]]).decode()}
            case "guest-file-write":
                self.files[self.opened[arguments["handle"] - 1]] = base64.b64decode(arguments["buf-b64"])
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
        """Read the processors."""
        await _hop(self.calls)
        self.looks += 1
        if self.gone is not None:
            raise self.gone
        if self.hangs:
            await asyncio.sleep(3600)
        removable = tuple(f"vcpu{index}" for index in sorted(self.online, reverse=True) if index)
        return PluggedProcessors(self.count, removable, 0.0)

    async def unplug(self, name: str) -> None:
        """Have the guest give a processor up, if it does that."""
        self.unplugged.append(name)
        if self.ejects:
            del self.online[int(name.removeprefix("vcpu"))]
            self.count -= self.tells

    async def plug(self, count: int) -> None:
        """Plug processors in, which the guest does not use yet."""
        self.plugged_in |= set(range(count)) - self.online.keys()
        for index in range(count):
            self.online.setdefault(index, False)
        self.count = count

    def vcpus(self) -> frozenset[int]:
        """Read the indices of the processors that have a thread: all that are plugged in."""
        return frozenset(self.online)

    def started_vcpus(self) -> frozenset[int]:
        """Read the indices of the processors that the guest's kernel has started."""
        return frozenset(index for index in self.online if self.starts or index not in self.plugged_in)

    def resident(self) -> int | None:
        """Read how much of the node's memory the process holds, bytes."""
        return self.process_bytes

    resident_if_found = resident

    def merged(self) -> int | None:
        """Read how many bytes KSM merged: none."""
        return 0

    def close(self) -> None:
        """Do nothing: no connection is open."""


@dataclass
class FakeHypervisor:
    """A FakeHypervisor connects to the fakes it is given, by the name of their domain.

    Attributes:
        memory_controls: the fakes for memory.
        guest_controls: the fakes for guest agents and processors.
        connected: how often a fake for memory was connected to.
        forgotten: the pods that were given up, in order.
    """

    memory_controls: dict[str, FakeMemoryControl]
    guest_controls: dict[str, FakeGuestControl] = field(default_factory=dict)
    connected: int = 0
    forgotten: list[str] = field(default_factory=list)

    async def connect_memory(self, launcher: Launcher, domain: str) -> MemoryControl:  # noqa: ARG002 - any launcher will do
        """Find the fake for a VM's memory."""
        self.connected += 1
        return self.memory_controls[domain]

    async def connect_guest(self, launcher: Launcher, domain: str) -> GuestControl:  # noqa: ARG002 - any launcher will do
        """Find the fake for a VM's guest agent and processors."""
        return self.guest_controls[domain]

    def forget(self, pod: str) -> None:
        """Note that a pod was given up."""
        self.forgotten.append(pod)
