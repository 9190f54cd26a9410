"""What the core decides about, and what it decided."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class DecisionReason(enum.StrEnum):
    """Why a VM has the target it has: the machine-readable half of every decision."""

    SATISFIED = "Satisfied"
    RECLAIMED = "Reclaimed"
    AT_MINIMUM = "AtMinimum"
    WAITING = "WaitingForMemory"
    STEADY = "Steady"
    NOT_UNDER_PRESSURE = "NotUnderPressure"
    DEMAND_UNKNOWN = "DemandUnknown"
    UNRESPONSIVE = "Unresponsive"
    EXCLUDED = "Excluded"
    NO_POLICY = "NoPolicy"


@dataclass(frozen=True, slots=True)
class TargetChange:
    """The last time a VM's target moved: up (True) or down, ``age`` seconds ago."""

    up: bool
    age: float
