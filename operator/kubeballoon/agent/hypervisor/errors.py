"""This module defines the errors of calls to a VM's hypervisor and to the agent in its guest."""

from __future__ import annotations

from kubeballoon.api.reasons import AgentReason


class HypervisorError(Exception):
    """A HypervisorError means that a call failed, or the VM cannot be reached; its text is one line for a person.

    Attributes:
        reason: why, in one word.
    """

    reason: AgentReason = AgentReason.UNREACHABLE


class HungError(HypervisorError):
    """A HungError means that a call did not return before its deadline; until it does, no other can be made."""

    reason = AgentReason.HUNG


class GarbledError(HypervisorError):
    """A GarbledError means that a VM's libvirt daemon answered something that no such daemon answers."""

    reason = AgentReason.DAEMON_GARBLED


class GoneError(HypervisorError):
    """A GoneError means that the VM, or the connection to it, is gone: only a new connection may help."""


class SocketRefusedError(HypervisorError):
    """A SocketRefusedError means that what should be the socket of a VM's libvirt daemon is something else."""

    reason = AgentReason.SOCKET_REFUSED


class GuestAgentError(HypervisorError):
    """A GuestAgentError means that the guest agent did not carry a command out."""

    def __init__(self, reason: AgentReason, message: str) -> None:
        """Name the reason, and explain it to a person in one line."""
        super().__init__(message)
        self.reason = reason
