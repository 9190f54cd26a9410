"""This module waits for an event with a deadline; the agent's loops and workers all wait in this way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Wait = Callable[[asyncio.Event, float], Awaitable[bool]]
"""Does what ``wait_for`` does; tests hand in one that takes no time."""


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, but no longer than ``seconds``; clear it, and return whether it was set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    was_set = event.is_set()
    event.clear()
    return was_set
