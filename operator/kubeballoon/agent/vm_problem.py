"""This module defines a Problem: why a VM has something else than is requested of it, as the agent found out."""

from __future__ import annotations

from typing import NamedTuple, Self

from kubeballoon.api.reasons import AgentReason


class Problem(NamedTuple):
    """A Problem is a reason for scripts and for the controller, and a message for people."""

    reason: AgentReason
    message: str

    @classmethod
    def of(cls, reason: AgentReason) -> Self:
        """Make a problem whose message is the reason's general meaning."""
        return cls(reason, reason.meaning)
