"""Waiting for conditions, never for time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest

T = TypeVar("T")


@dataclass
class Clock:
    """Seconds that pass only as the test says."""

    now: float = 1000.0

    def __call__(self) -> float:
        """What it shows."""
        return self.now


_POLL_SECONDS = 0.1


def until(condition: Callable[[], T], seconds: float = 20.0, tell: Callable[[], object] | None = None) -> T:
    """The condition's first true value; fails the test when there is none in time, with what ``tell`` has to say."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {seconds:g} s; last seen: {value if tell is None else tell()!r}")
        time.sleep(_POLL_SECONDS)
    return value


async def soon(condition: Callable[[], object], seconds: float) -> None:
    """Let the event loop go on until the condition is true; TimeoutError when that is not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition, most without an event
            await asyncio.sleep(0.005)


def throughout(condition: Callable[[], bool], seconds: float) -> None:
    """Fails the test when the condition does not hold all the while."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition()
        time.sleep(_POLL_SECONDS)
