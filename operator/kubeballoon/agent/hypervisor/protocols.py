"""This module defines what the agent needs of a hypervisor: a few calls to a VM, each with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from kubeballoon.agent.hypervisor.launcher_sockets import Launcher
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.core.memory.demand import GuestStatistics

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluggedProcessors:
    """PluggedProcessors are a VM's processors as its hypervisor sees them.

    Attributes:
        count: how many libvirt believes there are.
        removable: the names of those that can be unplugged, the last one first.
        cpu_seconds: the processor time that the VM has used since it was started.
    """

    count: int
    removable: tuple[str, ...]
    cpu_seconds: float


class ProcessMemory(Protocol):
    """A ProcessMemory is what a VM's process holds of its node's memory; None if the process cannot be seen."""

    def resident(self) -> int | None:
        """Read how much of the node's memory the process holds, in bytes, merged pages included."""
        ...

    def resident_if_found(self) -> int | None:
        """Read what a process that was found before holds, in bytes; no search for it, which may block, is made."""
        ...


class VMProcess(ProcessMemory, Protocol):
    """A VMProcess is a VM's process on this node; every figure is None if the process cannot be seen."""

    @property
    def pid(self) -> int | None:
        """The process's number."""
        ...

    def vcpus(self) -> frozenset[int] | None:
        """Read the indices of the VM's processors that have a thread on the node."""
        ...

    def started_vcpus(self) -> frozenset[int] | None:
        """Read the indices of the VM's processors that the guest's kernel has started."""
        ...

    def merged(self) -> int | None:
        """Read how many bytes KSM merged with other pages: they count as resident, and yet are free again."""
        ...


class GuestControl(Protocol):
    """A GuestControl is a connection to a VM for what may take long: its guest agent and its processors.

    It shares neither connection nor thread with the VM's MemoryControl, so that what hangs here delays no memory.

    Attributes:
        emulated: whether QEMU runs the guest without KVM; then QEMU does not tell libvirt that a processor has left.
    """

    emulated: bool

    async def command(self, name: str, arguments: Mapping[str, Any], read: Callable[[str], T]) -> T:
        """Have the guest agent carry a command out, and return what ``read`` makes of its answer.

        The answer is JSON that the guest wrote, of any length: ``read`` is called off the event loop.

        Raises:
            GuestAgentError: the guest agent is absent, does not answer in time, or refuses, or ``read`` does.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        ...

    async def plugged(self) -> PluggedProcessors:
        """Read the VM's processors.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        ...

    async def unplug(self, name: str) -> None:
        """Ask the guest's kernel, through ACPI, to give a processor up; it does so in its own time, or not at all.

        Raises:
            HypervisorError: QEMU refuses, or the VM cannot be reached, or did not answer in time.
        """
        ...

    async def plug(self, count: int) -> None:
        """Plug processors in until the VM has ``count``.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        ...

    def close(self) -> None:
        """Close the connection, without waiting for that."""
        ...


@dataclass(frozen=True, slots=True)
class DomainSample:
    """A DomainSample is what one look at a VM shows; sizes are in bytes.

    Attributes:
        size: what the guest may have at most: its boot memory, and what is plugged in of a virtio-mem device.
        resident: what the VM's process holds of the node's memory by the kernel's account; None if it cannot be seen.
        running: False while the guest is paused.
        balloon: whether the VM has a balloon at all.
        statistics: the guest's own; ``updated`` is 0 as long as its driver has not reported.
        free_delay: how long it may take until the node has back what the guest gave, in seconds.
        problem: why the guest follows no request, where the hypervisor's side already knows that.
        program_fault: why a program in the guest cannot take the balloon's place, for a person, where that is known.
        unanswered: the request to which the guest has not answered yet; None if nothing is waited for.
        spare: what the guest says it could still give; None if it says nothing of that.
        plugged: the part of ``size`` that was plugged in after the guest had booted.
        claimed: the largest of the figures of memory that hypervisor and guest gave, before any was bounded.
    """

    size: int
    resident: int | None
    running: bool
    balloon: bool
    statistics: GuestStatistics
    free_delay: float = 0.0
    problem: Problem | None = None
    program_fault: str | None = None
    unanswered: int | None = None
    spare: int | None = None
    plugged: int = 0
    claimed: int = 0


class MemoryControl(Protocol):
    """A MemoryControl is a connection to a VM for its memory."""

    async def sample(self) -> DomainSample:
        """Read the VM's memory and state.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        ...

    async def set_memory(self, size: int) -> None:
        """Ask the guest's driver to leave the guest ``size`` bytes; the driver follows in its own time.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        ...

    async def set_statistics_period(self, seconds: int) -> None:
        """Have the guest report its statistics every ``seconds`` seconds.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        ...

    def close(self) -> None:
        """Close the connection, without waiting for that."""
        ...


class Hypervisor(Protocol):
    """A Hypervisor connects to VMs by their launcher pods."""

    async def connect_memory(self, launcher: Launcher, domain: str) -> MemoryControl:
        """Connect to the VM ``domain`` at the daemon of ``launcher``, for its memory.

        Raises:
            HypervisorError: the daemon cannot be reached, did not answer in time, or knows no such VM.
        """
        ...

    async def connect_guest(self, launcher: Launcher, domain: str) -> GuestControl:
        """Connect to the VM ``domain`` at the daemon of ``launcher``, for its guest agent and processors.

        Raises:
            HypervisorError: the daemon cannot be reached, did not answer in time, or knows no such VM.
        """
        ...

    def forget(self, pod: str) -> None:
        """Give up everything that is kept for a pod that is gone, by its uid."""
        ...
