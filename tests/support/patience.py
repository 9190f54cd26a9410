"""eventually(): waits for real guests and agents, on a machine that may be slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hack.testbed.lab import GuestKilledError, LabError
from kubeballoon.agent.timing import DEFAULT_TIMING
from tests.support.waiting import until

T = TypeVar("T")

SLOW = DEFAULT_TIMING.node.heartbeat + 30
"""The seconds that a start, a boot, swapping or ballooning may take.

More than a heartbeat: some figures do not cause a report when they change, and appear in the next heartbeat only.
"""


def eventually(condition: Callable[[], T], seconds: float = SLOW, tell: Callable[[], object] | None = None) -> T:
    """Return the condition's first true value; fail the test if there is none in time, with what ``tell`` returns.

    The condition is evaluated again if it raises because a guest does not answer, or because a report lacks a key.
    """
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
