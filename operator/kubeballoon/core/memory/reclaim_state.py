"""This module decides what reclaims a guest's memory: its balloon driver, or a program that locks memory.

Only one of the two reclaims at a time. When the other is to take over, the first gives everything back before, so that
together they never take a guest below its guaranteed minimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from kubeballoon.vocabulary import ReclaimMethod


@dataclass(frozen=True, slots=True)
class BalloonStatus:
    """A BalloonStatus says what is known of a guest's balloon.

    Attributes:
        works: whether the VM has a balloon whose driver has reported; None while that is not known.
        inflated: whether the balloon keeps memory from the guest.
    """

    works: bool | None = None
    inflated: bool = False


class ReclaimState(Enum):
    """A ReclaimState says which of the balloon and the guest program reclaims, or which has to give back first."""

    BALLOON_RECLAIMS = auto()
    EMPTYING_PROGRAM = auto()
    PROGRAM_RECLAIMS = auto()
    EMPTYING_BALLOON = auto()

    @property
    def program_in_charge(self) -> bool:
        """Whether the guest's memory is computed from what the program has locked, instead of from the balloon."""
        return self in (ReclaimState.EMPTYING_PROGRAM, ReclaimState.PROGRAM_RECLAIMS)


def reclaim_state(method: ReclaimMethod, balloon: BalloonStatus, locked: int | None) -> ReclaimState:
    """Decide the state of a guest from what is known of it now; the state before does not count.

    Args:
        method: how the guest's memory is to be reclaimed.
        balloon: what is known of its balloon.
        locked: bytes that the program in the guest says it has locked; None while no program says anything.
    """
    if _program_is_chosen(method, balloon, program_reports=locked is not None):
        return ReclaimState.EMPTYING_BALLOON if balloon.inflated else ReclaimState.PROGRAM_RECLAIMS
    return ReclaimState.EMPTYING_PROGRAM if locked else ReclaimState.BALLOON_RECLAIMS


def may_need_program(method: ReclaimMethod, balloon: BalloonStatus) -> bool:
    """Whether a guest in which no program reports is worth asking for one, because its balloon may not be enough."""
    return method is ReclaimMethod.GUEST_AGENT or (method is ReclaimMethod.AUTO and not balloon.works)


def _program_is_chosen(method: ReclaimMethod, balloon: BalloonStatus, *, program_reports: bool) -> bool:
    match method:
        case ReclaimMethod.BALLOON:
            return False
        case ReclaimMethod.GUEST_AGENT:
            return True
        case ReclaimMethod.AUTO:
            # Not before the balloon is known to be of no use: at the agent's start nothing is known of it.
            return balloon.works is False and program_reports
    assert_never(method)
