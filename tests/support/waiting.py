"""This module waits for conditions, never for a fixed time, and has a clock that only tests advance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest

from hack.testbed.lab import GuestKilledError, LabError
from kubeballoon.agent.wait_times import DEFAULT_TIMING

T = TypeVar("T")

SLOW = DEFAULT_TIMING.node.heartbeat + 30
"""The seconds that a start, a boot, swapping or ballooning may take.

More than a heartbeat: some texts do not cause a report when they change, and appear with the next heartbeat only.
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


@dataclass
class Clock:
    """A clock that stands still until a test sets it."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Return the time that the test has set, in seconds."""
        return self.now


_POLL_SECONDS = 0.1


def until(condition: Callable[[], T], seconds: float = 20.0, tell: Callable[[], object] | None = None) -> T:
    """Return the condition's first true value; fail the test if there is none in time, with what ``tell`` returns."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {seconds:g} s; last seen: {value if tell is None else tell()!r}")
        time.sleep(_POLL_SECONDS)
    return value


async def soon(condition: Callable[[], object], seconds: float) -> None:
    """Let the event loop run until the condition is true.

    Raises:
        TimeoutError: The condition is not true in time.
    """
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - most conditions have no event to wait for
            await asyncio.sleep(0.005)


def throughout(condition: Callable[[], bool], seconds: float) -> None:
    """Fail the test if the condition stops holding within ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition()
        time.sleep(_POLL_SECONDS)
