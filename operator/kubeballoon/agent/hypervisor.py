"""What the agent needs of a hypervisor: a few calls, each with a deadline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kubeballoon.agent.launchers import Launcher
from kubeballoon.core.demand import GuestStatistics


class HypervisorError(Exception):
    """A call failed; the text is one line for a person."""


class HungError(HypervisorError):
    """A call did not return in time; nothing can be asked until it does."""


class GoneError(HypervisorError):
    """The VM, or the connection to it, is gone: connect anew."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one look at a VM shows; bytes.

    Attributes:
        size: what the guest may have at most: its boot memory, and what is plugged in of a virtio-mem device.
        resident: what the VM's process holds of the node's memory.
        running: False while the guest is paused.
        balloon: whether the VM has a balloon at all.
        statistics: the guest's own; ``updated`` is 0 as long as its driver has not reported.
    """

    size: int
    resident: int
    running: bool
    balloon: bool
    statistics: GuestStatistics


class Domain(Protocol):
    """One VM, connected."""

    async def sample(self) -> Sample:
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

    async def connect(self, launcher: Launcher, domain: str) -> Domain:
        """Connect to the daemon of ``launcher`` and find the VM ``domain`` there.

        Raises:
            HypervisorError: see there.
        """
        ...

    def forget(self, pod: str) -> None:
        """The pod is gone: let go of what was kept for it."""
        ...
