"""This module makes an agent's last checks: a request's bounds, and whether a balloon frees memory."""

from __future__ import annotations

from kubeballoon.core.units import MIB

FLOOR = 64 * MIB
"""Bytes that every guest keeps, whatever a policy or a forged annotation says: its kernel must live."""

STILL_SECONDS = 5.0
"""For how long a balloon must have stood still before its effect is judged: until then memory is still being freed."""

_EXCESS_TOLERANCE = 16 * MIB  # by which a process may exceed what is expected of it, for guests of any size


def clamp(request: int, minimum: int | None, size: int) -> int:
    """Return the request, in bytes, as it may be carried out on a guest of ``size`` bytes.

    It is never below the guaranteed minimum or the absolute floor, and never above the size.
    """
    return min(size, max(request, minimum or 0, FLOOR))


def frees_nothing(size: int, actual: int, resident: int, overhead: int) -> bool:
    """Whether a balloon that stands still has given the node nothing, though the guest has lost the memory.

    A VM's process may hold what the balloon leaves the guest, and its own overhead. If it holds more, the pages are
    pinned, or QEMU was told not to discard them. If it holds less, the guest's free page reporting had returned memory
    before, and the balloon keeps the guest from using it again.

    Args:
        size: the guest's size, bytes.
        actual: what the balloon leaves the guest, bytes.
        resident: what the VM's process holds of the node's memory, bytes.
        overhead: the part of it that is not the guest's, bytes.
    """
    # The overhead is KubeVirt's formula. What QEMU needs beside the guest may exceed it, by more in large guests,
    # and must not look like pinned pages. So a balloon of less than a sixteenth is never judged: it frees little.
    return actual < size and resident - overhead - actual > max(_EXCESS_TOLERANCE, size // 16)
