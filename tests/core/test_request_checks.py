"""The agent's last checks: a request's bounds, and whether a balloon frees memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.request_checks import FLOOR, clamp, frees_nothing
from kubeballoon.core.units import GIB, MIB


@given(st.integers(0, 1 << 40), st.none() | st.integers(0, 1 << 40), st.integers(FLOOR, 1 << 40))
def test_the_guard_keeps_minimum_floor_and_size(request: int, minimum: int | None, size: int) -> None:
    kept = clamp(request, minimum, size)
    assert kept <= size
    assert kept >= min(size, max(FLOOR, minimum or 0))


@pytest.mark.parametrize(
    ("request_", "minimum", "carried_out"),
    [(700, 512, 700), (300, 512, 512), (9000, 512, 1024), (10, None, 64), (100, None, 100), (700, 2048, 1024)],
)
def test_a_request_within_its_bounds_is_carried_out_as_it_is(
    request_: int, minimum: int | None, carried_out: int
) -> None:
    """Of a guest of 1024 MiB; figures are MiB."""
    least = None if minimum is None else minimum * MIB
    assert clamp(request_ * MIB, least, 1024 * MIB) == carried_out * MIB


@pytest.mark.parametrize(
    ("size", "resident", "futile"),
    [
        (4 * GIB, 2 * GIB, False),
        (4 * GIB, 2 * GIB + 200 * MIB + 256 * MIB, False),
        (4 * GIB, 2 * GIB + 200 * MIB + 256 * MIB + 1, True),
        (4 * GIB, GIB, False),
        (2 * GIB + 16 * MIB, 2 * GIB + 200 * MIB + 129 * MIB, False),
        (2 * GIB + 16 * MIB, 2 * GIB + 200 * MIB + 130 * MIB, True),
    ],
    ids=["all freed", "within a 16th of the size", "just above", "free page reporting", "16th of 2 GiB", "above it"],
)
def test_a_balloon_is_futile_if_the_process_holds_clearly_more_than_the_guest(
    size: int, resident: int, *, futile: bool
) -> None:
    assert frees_nothing(size, 2 * GIB, resident, overhead=200 * MIB) is futile


def test_a_small_guest_s_process_may_exceed_what_is_expected_by_16_mib() -> None:
    assert not frees_nothing(128 * MIB, 100 * MIB, 116 * MIB, overhead=0)
    assert frees_nothing(128 * MIB, 100 * MIB, 116 * MIB + 1, overhead=0)


def test_without_a_balloon_nothing_is_futile() -> None:
    assert not frees_nothing(GIB, GIB, 2 * GIB, overhead=0)
