"""This module orders the nodes that wait for a round: those short of memory first, else whoever came first."""

from __future__ import annotations

import asyncio

URGENT = 1
"""The least severity of a shortage that does not wait behind calm nodes."""


class RoundQueue:
    """A RoundQueue hands out nodes for rounds: each node once at a time, the shortest of memory first."""

    def __init__(self) -> None:
        """Make a queue in which no node waits for a round."""
        self._waiting: dict[int, dict[str, None]] = {}  # names in the order in which they came, by severity
        self._severities: dict[str, int] = {}  # of the nodes that wait, by name
        self._running: set[str] = set()
        self._changed = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether no node waits for a round, and none is in one."""
        return not self._severities and not self._running

    def has(self, name: str) -> bool:
        """Whether the node ``name`` waits for a round, or is in one."""
        return name in self._severities or name in self._running

    def add(self, name: str, severity: int = 0) -> None:
        """Let the node ``name`` wait for a round; one that waits already keeps its place, or gets a better one."""
        before = self._severities.get(name)
        if before is not None:
            if before >= severity:
                return
            del self._waiting[before][name]
        self._severities[name] = severity
        self._waiting.setdefault(severity, {})[name] = None
        self._changed.set()

    def is_urgent(self, name: str) -> bool:
        """Whether the node ``name`` waits for a round because it is short of memory."""
        return self._severities.get(name, 0) >= URGENT

    async def next(self, settle: float, *, urgent: bool = False) -> str:
        """Wait for a node that needs a round; it is handed out again only after ``done``.

        Args:
            settle: how long to wait, after nothing was waiting, for more changes that then share a round, seconds.
            urgent: whether to wait for a node that is short of memory.
        """
        name = self._take(urgent)
        while name is None:
            self._changed.clear()
            await self._changed.wait()
            await asyncio.sleep(settle)
            name = self._take(urgent)
        return name

    def done(self, name: str) -> None:
        """Say that the round of the node ``name`` has ended."""
        self._running.discard(name)
        if name in self._severities:
            self._changed.set()

    def _take(self, urgent: bool) -> str | None:  # noqa: FBT001 - private
        for severity in sorted(self._waiting, reverse=True):
            if urgent and severity < URGENT:
                break
            name = next((each for each in self._waiting[severity] if each not in self._running), None)
            if name is not None:
                del self._waiting[severity][name], self._severities[name]
                self._running.add(name)
                return name
        return None
