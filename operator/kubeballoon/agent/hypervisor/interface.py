"""What the agent needs of a hypervisor: a few calls, each with a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kubeballoon.agent.hypervisor.launchers import Launcher
from kubeballoon.agent.problem import Problem
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.memory.demand import GuestStatistics


class HypervisorError(Exception):
    """A call failed; the text is one line for a person."""


class HungError(HypervisorError):
    """A call did not return in time; nothing can be asked until it does."""


class GoneError(HypervisorError):
    """The VM, or the connection to it, is gone: connect anew."""


class AgentError(HypervisorError):
    """The guest's agent did not do as told; ``reason`` says in one word why."""

    def __init__(self, reason: AgentReason, message: str) -> None:
        """Name the reason, and say it in a line."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PluggedProcessors:
    """A VM's processors as its hypervisor sees them.

    Attributes:
        counted: how many there are, by libvirt's account.
        removable: the names of those that can be unplugged, the last one first.
        seconds: processor time the VM has used.
    """

    counted: int
    removable: tuple[str, ...]
    seconds: float


class VMProcess(Protocol):
    """The VM's process on this node; where it cannot be seen all is None."""

    @property
    def pid(self) -> int | None:
        """Its number."""
        ...

    def vcpus(self) -> frozenset[int] | None:
        """The indices of the processors that have a thread."""
        ...

    def resident(self) -> int | None:
        """Bytes of the node's memory that it holds, merged pages included."""
        ...

    def merged(self) -> int | None:
        """Bytes of its memory that the kernel has merged with other pages: resident, and yet the node's again."""
        ...


class GuestControl(Protocol):
    """The ways into a VM that may take long: its guest's agent, and its processors.

    They have a connection and a thread of their own: what hangs here holds up nothing of the VM's memory.

    Attributes:
        emulated: whether QEMU runs the guest without KVM; it does not tell libvirt of processors that left then.
    """

    emulated: bool

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Have the guest's agent carry out a command; what it returns.

        Raises:
            AgentError: it is not there, does not answer, or refuses.
            HypervisorError: see there.
        """
        ...

    async def plugged(self) -> PluggedProcessors:
        """Look at the VM's processors.

        Raises:
            HypervisorError: see there.
        """
        ...

    async def unplug(self, name: str) -> None:
        """Ask the guest's kernel, through ACPI, to give a processor up; it does so in its own time, or not at all.

        Raises:
            HypervisorError: see there.
        """
        ...

    async def plug(self, count: int) -> None:
        """Plug processors in until there are ``count``.

        Raises:
            HypervisorError: see there.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; does not wait."""
        ...


@dataclass(frozen=True, slots=True)
class DomainSample:
    """What one look at a VM shows; bytes.

    Attributes:
        size: what the guest may have at most: its boot memory, and what is plugged in of a virtio-mem device.
        resident: what the VM's process holds of the node's memory.
        running: False while the guest is paused.
        balloon: whether the VM has a balloon at all.
        statistics: the guest's own; ``updated`` is 0 as long as its driver has not reported.
        lag: how long the node may take to get back what the guest gave, seconds.
        problem: why the guest gives nothing, as (reason, message), where that is known here.
        alone: why nothing in the guest could take the balloon's place, where that is known.
        pending: what the guest was asked to keep to and has not answered since, bytes; None where all is as it is now.
        spare: what the guest says it could still give, bytes; None where it says nothing of that.
    """

    size: int
    resident: int
    running: bool
    balloon: bool
    statistics: GuestStatistics
    lag: float = 0.0
    problem: Problem | None = None
    alone: str | None = None
    pending: int | None = None
    spare: int | None = None


class MemoryControl(Protocol):
    """One VM, connected."""

    async def sample(self) -> DomainSample:
        """Look at the VM.

        Raises:
            HypervisorError: see there.
        """
        ...

    async def set_memory(self, size: int) -> None:
        """Ask the guest's driver to leave the guest ``size`` bytes; it follows in its own time.

        Raises:
            HypervisorError: see there.
        """
        ...

    async def set_statistics_period(self, seconds: int) -> None:
        """Have the guest report every so many seconds.

        Raises:
            HypervisorError: see there.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; does not wait."""
        ...


class Hypervisor(Protocol):
    """Connects to VMs."""

    async def connect(self, launcher: Launcher, domain: str) -> MemoryControl:
        """Connect to the daemon of ``launcher`` and find the VM ``domain`` there.

        Raises:
            HypervisorError: see there.
        """
        ...

    async def open(self, launcher: Launcher, domain: str) -> GuestControl:
        """Open the other ways into the VM ``domain``.

        Raises:
            HypervisorError: see there.
        """
        ...

    def forget(self, pod: str) -> None:
        """The pod is gone: let go of what was kept for it."""
        ...
