"""The last word on a request before it reaches a guest, and a look at what it came to."""

from __future__ import annotations

FLOOR = 64 << 20
"""Bytes below which no guest is taken, whatever a policy or a forged annotation says: its kernel must live."""

STILL_SECONDS = 5.0
"""Seconds a balloon must have stood still before its effect is judged."""

_SLACK = 16 << 20  # bytes by which a process may exceed what is expected of it, for guests of any size


def clamp(request: int, minimum: int | None, size: int) -> int:
    """A request of ``request`` bytes as it may be carried out on a guest of ``size`` bytes.

    Never below the guaranteed minimum or the absolute floor, never above the size.
    """
    return min(size, max(request, minimum or 0, FLOOR))


def frees_nothing(size: int, actual: int, resident: int, overhead: int) -> bool:
    """Whether a balloon that stands still has given the node nothing, though the guest has lost the memory.

    A VM's process may hold what the balloon leaves the guest and its own overhead. If it holds more, the pages are
    pinned, or QEMU was told not to discard them. If it holds less, the guest's free page reporting had returned them
    before, and the balloon keeps it so.

    Args:
        size: the guest's, bytes.
        actual: what the balloon leaves it, bytes.
        resident: what the VM's process holds of the node's memory, bytes.
        overhead: of that, what is not the guest's, bytes.
    """
    return actual < size and resident - overhead - actual > max(_SLACK, size // 16)
