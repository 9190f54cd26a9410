"""The last word on a request before it reaches a guest."""

from __future__ import annotations

FLOOR = 64 << 20
"""Bytes below which no guest is taken, whatever a policy or a forged annotation says: its kernel must live."""


def clamp(request: int, minimum: int | None, size: int) -> int:
    """A request of ``request`` bytes as it may be carried out on a guest of ``size`` bytes.

    Never below the guaranteed minimum or the absolute floor, never above the size.
    """
    return min(size, max(request, minimum or 0, FLOOR))
