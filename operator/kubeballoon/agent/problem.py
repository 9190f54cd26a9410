"""Why a VM does not have what is requested of it, as its agent found out."""

from __future__ import annotations

from typing import NamedTuple

from kubeballoon.api.reasons import AgentReason


class Problem(NamedTuple):
    """A Problem is a reason for scripts and for the controller, and a message for people."""

    reason: AgentReason
    message: str
