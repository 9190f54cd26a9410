"""This module computes growing pauses between attempts that fail."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """A Backoff says when to try again after failures: each pause is twice the one before, within bounds.

    Attributes:
        shortest: the first pause, seconds.
        longest: the longest pause, seconds.
        pause: the present pause, seconds; 0 before the first failure.
        until: when the present pause ends, seconds of the caller's clock.
    """

    shortest: float = 10.0
    longest: float = 300.0
    pause: float = 0.0
    until: float = 0.0

    def failed(self, now: float) -> Backoff:
        """Count one more failure, at ``now`` seconds."""
        pause = min(self.longest, max(self.shortest, 2 * self.pause))
        return replace(self, pause=pause, until=now + pause)

    def succeeded(self) -> Backoff:
        """Begin anew: the pause after the next failure is the shortest."""
        return replace(self, pause=0.0, until=0.0)
