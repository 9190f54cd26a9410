"""This module bounds the events that are posted because of what one node's agent reports of VMs.

A forged report can have the reasons of a thousand VMs change each second, and the queue of events is everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST = 256.0  # at once: more than a node has VMs
_PER_SECOND = 1.0


@dataclass(slots=True)
class EventAllowance:
    """An EventAllowance says how many events may still be posted about the VMs of one node.

    Attributes:
        used: how much of the allowance was used up at ``at`` seconds.
        at: when that was, seconds.
        refused: whether an event was refused, until half of the allowance is left again.
    """

    used: float = 0.0
    at: float = 0.0
    refused: bool = False

    def take(self, now: float) -> bool:
        """Use up one event, at ``now`` seconds; return whether it may be posted."""
        self.used = max(0.0, self.used - (now - self.at) * _PER_SECOND)
        self.at = now
        some_left = self.used + 1 <= _MOST
        self.refused = not some_left or (self.refused and self.used > _MOST / 2)
        self.used += some_left
        return some_left
