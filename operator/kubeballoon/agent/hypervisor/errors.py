"""Errors of calls to a VM's hypervisor and to the agent in its guest."""

from __future__ import annotations

from kubeballoon.api.reasons import AgentReason


class HypervisorError(Exception):
    """A call failed, or the VM cannot be reached; the text is one line for a person."""


class HungError(HypervisorError):
    """A call did not return before its deadline; the VM can be asked nothing until it does."""


class GoneError(HypervisorError):
    """The VM, or the connection to it, is gone: only a new connection may help."""


class GuestAgentError(HypervisorError):
    """The guest agent did not carry a command out.

    Attributes:
        reason: why not, in one word.
    """

    def __init__(self, reason: AgentReason, message: str) -> None:
        """Name the reason, and explain it to a person in one line."""
        super().__init__(message)
        self.reason = reason
