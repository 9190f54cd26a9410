"""This module has what the conditions of all kinds of policies share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from kubeballoon.api.conditions import ConditionReason, ConditionType
from kubeballoon.api.meta import Condition, ConditionStatus
from kubeballoon.core.formatting import listed

Finding = tuple[ConditionStatus, ConditionReason, str]
"""Whether a condition holds, its reason and its message."""


def conditions_now(findings: Mapping[ConditionType, Finding], generation: int, now: datetime) -> list[Condition]:
    """Make conditions of what was found of a policy of this generation, as if each had changed ``now``."""
    return [
        Condition(
            type=condition_type,
            status=status,
            reason=reason,
            message=message,
            observed_generation=generation,
            last_transition_time=now,
        )
        for condition_type, (status, reason, message) in findings.items()
    ]


def find_conflict(policy: str, tied_with: Iterable[str], selected: str) -> Finding:
    """Find whether only their names order a policy and others that select the same nodes or VMs.

    Args:
        policy: the policy's name.
        tied_with: the names of the policies of its priority that select some of the same.
        selected: what policies of its kind select: "nodes" or "VMs".
    """
    others = sorted(tied_with)
    if not others:
        message = f"no policy of the same priority selects the same {selected}"
        return ConditionStatus.FALSE, ConditionReason.NO_CONFLICT, message
    tied, first = f"some of its {selected} are selected at the same priority by {listed(others)}", min(policy, *others)
    return ConditionStatus.TRUE, ConditionReason.SAME_PRIORITY, f"{tied}; {first} governs them"


def in_order(items: Iterable[str]) -> str:
    """Write the first of sorted names in one line, and how many more there are."""
    return listed(sorted(items))
