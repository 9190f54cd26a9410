"""Pauses between attempts that fail."""

from __future__ import annotations

from kubeballoon.core.backoff import Backoff


def test_each_pause_is_twice_the_one_before_within_bounds() -> None:
    backoff, now, pauses = Backoff(shortest=1.0, longest=5.0), 100.0, []
    for _ in range(5):
        backoff = backoff.failed(now)
        pauses.append(backoff.until - now)
        now = backoff.until
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.pause == 5.0


def test_a_success_begins_anew() -> None:
    backoff = Backoff(shortest=1.0, longest=5.0).failed(0.0).failed(1.0).succeeded()
    assert (backoff.pause, backoff.until) == (0.0, 0.0)
    assert backoff.failed(10.0).until == 11.0
