"""How fast a guest is asked to give memory: never faster than it was just seen to give.

A request is at most one second's worth ahead of the guest, at the rate the guest has shown; looked at several times a
second, a guest that follows at once shows a higher rate, one that lags a lower one (the patent's claims 8 and 20).
Nothing is asked of a guest of which it is not known what it could spare. Upward there is no pacing: memory a guest
needs comes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.core.memory.pacing import RETRY, RETRY_AT_MOST


@dataclass(frozen=True, slots=True)
class Backoff:
    """Ever longer pauses between attempts that come to nothing.

    Attributes:
        pause: the present one, seconds; 0 before the first failure.
        until: its end, seconds.
    """

    pause: float = 0.0
    until: float = 0.0

    def failed(self, now: float) -> Backoff:
        """After one more failure at ``now`` seconds."""
        pause = min(RETRY_AT_MOST, max(RETRY, 2 * self.pause))
        return Backoff(pause, now + pause)
