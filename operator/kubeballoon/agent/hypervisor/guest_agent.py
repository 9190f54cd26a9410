"""QEMU's guest agent in one VM: commands with reasons when they fail, and with pauses after that.

It is KubeVirt's too, and carries out one command at a time; one that does not answer is not asked again at once.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kubeballoon.agent.hypervisor.interface import AgentError, GuestControl
from kubeballoon.api.reasons import AgentReason

T = TypeVar("T")

RETRY = 5.0  # seconds until an agent that failed, or a command that it refused, is tried again; doubles
RETRY_AT_MOST = 60.0
LONGEST_FILE = 4096  # bytes that are read of a file; what this project writes is far shorter
_POLL = 0.2  # seconds between looks at a program that runs in the guest
_POLLS = 25
_REFUSED = AgentReason.GUEST_AGENT_REFUSED
_GARBLED = AgentReason.GUEST_AGENT_GARBLED
_MISSING = "No such file"
_OF_FILES = ("guest-file-open", "guest-exec")  # which say so of the file, and nothing of themselves
_ALL = ""  # no command: the agent as a whole


@dataclass(frozen=True, slots=True)
class GuestProcessor:
    """A processor as the guest sees it."""

    index: int
    online: bool
    offlinable: bool


@dataclass(frozen=True, slots=True)
class _Rest:
    """Why something is not asked before ``until``, after a pause; seconds."""

    failure: AgentError
    pause: float
    until: float


class GuestAgent:
    """The agent of one guest. Its answers are the guest's to make up: none is taken to have the form it should."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask through no channel yet; ``clock`` gives seconds."""
        self.channel: GuestControl | None = None
        self._clock = clock
        self._rests: dict[str, _Rest] = {}  # by command

    async def processors(self) -> tuple[GuestProcessor, ...]:
        """The guest's processors by index.

        Raises:
            HypervisorError: see there.
        """
        return await self._command("guest-get-vcpus", {}, _processors)

    async def set_processors(self, indices: list[int], *, online: bool) -> None:
        """Take processors offline or bring them online.

        Raises:
            HypervisorError: see there.
        """
        vcpus = [{"logical-id": index, "online": online} for index in indices]
        await self._command("guest-set-vcpus", {"vcpus": vcpus}, _anything)

    async def read_file(self, path: str) -> bytes | None:
        """A small file's contents; None when there is no such file.

        Raises:
            HypervisorError: see there.
        """
        try:
            handle = await self._command("guest-file-open", {"path": path, "mode": "r"}, _anything)
        except AgentError as error:
            if error.reason == _REFUSED and _MISSING in str(error):
                return None
            raise
        try:
            return await self._command("guest-file-read", {"handle": handle, "count": LONGEST_FILE}, _contents)
        finally:
            await self._command("guest-file-close", {"handle": handle}, _anything)

    async def write_file(self, path: str, content: bytes) -> None:
        """Replace a small file's contents.

        Raises:
            HypervisorError: see there.
        """
        handle = await self._command("guest-file-open", {"path": path, "mode": "w"}, _anything)
        try:
            encoded = base64.b64encode(content).decode()
            await self._command("guest-file-write", {"handle": handle, "buf-b64": encoded}, _anything)
        finally:
            await self._command("guest-file-close", {"handle": handle}, _anything)

    async def run(self, program: str, *arguments: str) -> tuple[int, bytes]:
        """Run a short program; its exit status and what it printed.

        Raises:
            HypervisorError: see there.
        """
        order = {"path": program, "arg": list(arguments), "capture-output": True}
        pid = await self._command("guest-exec", order, lambda answer: int(answer["pid"]))
        for _ in range(_POLLS):
            await asyncio.sleep(_POLL)
            ended = await self._command("guest-exec-status", {"pid": pid}, _ended)
            if ended is not None:
                return ended
        raise AgentError(
            AgentReason.GUEST_AGENT_BUSY, f"{program} did not end in its guest within {_POLLS * _POLL:.0f}s"
        )

    async def system(self) -> str:
        """The guest's operating system as it calls itself, such as "debian" or "mswindows"; nothing if it does not.

        Raises:
            HypervisorError: see there.
        """
        return await self._command("guest-get-osinfo", {}, lambda answer: str(answer.get("id", "")))

    async def _command(self, name: str, arguments: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Have a command carried out, and read its answer."""
        for what in (_ALL, name):
            rest = self._rests.get(what)
            if rest is not None and self._clock() < rest.until:
                raise AgentError(rest.failure.reason, str(rest.failure))
        if self.channel is None:
            raise AgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest agent cannot be reached")
        try:
            answer = await self._carried_out(self.channel, name, arguments, read)
        except AgentError as error:
            if error.reason not in (_REFUSED, _GARBLED):
                self._rest(_ALL, error)
                raise
            self._rests.pop(_ALL, None)  # it answers
            if not (name in _OF_FILES and _MISSING in str(error)):
                self._rest(name, error)
            raise
        self._rests.pop(_ALL, None)
        self._rests.pop(name, None)
        return answer

    async def _carried_out(
        self, channel: GuestControl, name: str, arguments: Mapping[str, Any], read: Callable[[Any], T]
    ) -> T:
        try:
            return read(await channel.command(name, arguments))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise AgentError(_GARBLED, f"its guest agent's answer to {name} makes no sense") from error

    def _rest(self, what: str, failure: AgentError) -> None:
        before = self._rests.get(what)
        pause = min(RETRY_AT_MOST, RETRY if before is None else 2 * before.pause)
        self._rests[what] = _Rest(failure, pause, self._clock() + pause)


def _anything(answer: Any) -> Any:
    return answer


def _processors(answer: Any) -> tuple[GuestProcessor, ...]:
    found = (
        GuestProcessor(int(each["logical-id"]), bool(each["online"]), bool(each.get("can-offline", False)))
        for each in answer
    )
    return tuple(sorted(found, key=lambda processor: processor.index))


def _contents(answer: Any) -> bytes:
    return base64.b64decode(answer["buf-b64"])


def _ended(answer: Any) -> tuple[int, bytes] | None:
    """How a program ended, and what it printed; None while it runs."""
    if not answer["exited"]:
        return None
    return int(answer.get("exitcode", -1)), base64.b64decode(answer.get("out-data", ""))
