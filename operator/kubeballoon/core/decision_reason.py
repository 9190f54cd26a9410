"""This module holds what decisions about memory and decisions about processors have in common."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from kubeballoon import vocabulary


class DecisionReason(enum.StrEnum):
    """A DecisionReason says in one word why a VM has its target.

    Of a VM without a target it says why nothing is requested, or why the target would be what the message says.
    """

    SATISFIED = "Satisfied"  # it may use its policy's maximum
    RECLAIMED = "Reclaimed"  # it may use less than its maximum
    AT_MINIMUM = "AtMinimum"  # it may use no more than its guaranteed minimum
    WITHHOLDING = "Withholding"  # its guest works with more than its fair share and cannot swap, so it keeps it
    WAITING = "WaitingForMemory"  # it is to get memory that other VMs have not freed yet
    STEADY = "Steady"  # its target stays: it changed a moment ago, or its policy only observes
    NOT_UNDER_PRESSURE = "NotUnderPressure"  # its policy reclaims under pressure only, and there is none
    DEMAND_UNKNOWN = "DemandUnknown"  # there are no fresh statistics of its guest
    UNRESPONSIVE = vocabulary.UNRESPONSIVE  # its guest does not follow requests
    EXCLUDED = "Excluded"  # it must not be moved
    NO_POLICY = "NoPolicy"  # no policy selects it


@dataclass(frozen=True, slots=True)
class TargetChange:
    """A TargetChange is the last change of a VM's target.

    Attributes:
        up: whether the target rose; None where it was never seen to move, and only its age is known.
        age: how long ago that was, seconds.
    """

    up: bool | None
    age: float


class _GovernedVM(Protocol):
    @property
    def observed(self) -> bool: ...


class _Decision(Protocol):
    @property
    def vm(self) -> _GovernedVM: ...


D = TypeVar("D", bound=_Decision)


def merge_observed(decisions: Iterable[D], hypothetical: Iterable[D]) -> tuple[D, ...]:
    """Replace the decisions for VMs whose policies only observe by the hypothetical ones for the same VMs.

    Args:
        decisions: one for each VM of a node; nothing is requested of VMs whose policies only observe.
        hypothetical: what would be decided for the same VMs, in the same order, if all policies were enforced.
    """
    return tuple(
        what_if if decision.vm.observed else decision for decision, what_if in zip(decisions, hypothetical, strict=True)
    )
