"""Waiting for real guests and their agents, on a machine that may be slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hack.testbed.lab import GuestKilledError, LabError
from kubeballoon.agent.timing import DEFAULT_TIMING
from tests.support.waiting import until

T = TypeVar("T")

SLOW = DEFAULT_TIMING.node.heartbeat + 30
"""Seconds for anything that starts, boots, swaps or balloons; also for a figure whose change is no news by itself."""


def eventually(condition: Callable[[], T], seconds: float = SLOW, tell: Callable[[], object] | None = None) -> T:
    """As ``until``; a guest that does not answer, or a report that does not have it yet, is looked at again."""
    last: object = None

    def attempt() -> T | None:
        nonlocal last
        try:
            last = found = condition()
        except GuestKilledError:
            raise
        except (LabError, OSError, LookupError) as error:
            last = error
            return None
        return found

    found = until(attempt, seconds, lambda: last if tell is None or isinstance(last, Exception) else tell())
    assert found is not None
    return found
