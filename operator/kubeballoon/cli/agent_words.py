"""This module says in the agent's own words why a VM does not follow, or why nothing is known of it."""

from __future__ import annotations

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.formatting import human
from kubeballoon.core.memory.model import MemoryDecision

FROM_THE_AGENT = (DecisionReason.UNRESPONSIVE, DecisionReason.DEMAND_UNKNOWN)
"""The reasons of decisions behind which there may be a problem that the agent reports."""


def agent_words(report: VirtualMachineReport) -> str | None:
    """Return what the agent found wrong with a VM, a whole clause; None if nothing is."""
    return None if report.reason is None else report.message or report.reason.meaning


def decision_message(report: VirtualMachineReport, decision: MemoryDecision) -> str:
    """Return a decision's message; where the agent is why there is no better decision, what the agent found.

    The core knows only that a VM does not follow. The agent knows more, for example that its domain is not running.
    """
    words = agent_words(report)
    if words is None or decision.reason not in FROM_THE_AGENT:
        return decision.message
    return f"{words}: {human(decision.entitlement)} counted as used"
