"""This module calls QEMU's guest agent in one VM: a command fails with a reason, and is not repeated at once.

The guest agent serves KubeVirt too, and carries out one command at a time. One that does not answer, or a command that
it refuses, is tried again after ever longer pauses.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kubeballoon.agent.hypervisor.errors import GuestAgentError
from kubeballoon.agent.hypervisor.protocols import GuestControl
from kubeballoon.agent.wait_times import DEFAULT_TIMING, GuestAgentTiming
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.backoff import Backoff

T = TypeVar("T")

LONGEST_FILE = 4096  # bytes that are read of a file; what this project writes is far shorter
_MISSING = "No such file"
_FILE_COMMANDS = ("guest-file-open", "guest-exec")  # a missing file is no fault of these commands
_WHOLE_AGENT = ""  # stands among the commands for the guest agent as a whole


@dataclass(frozen=True, slots=True)
class GuestProcessor:
    """A GuestProcessor is a processor as the guest sees it."""

    index: int
    online: bool
    offlinable: bool


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure with the pause that follows it, in which the same failure is raised again without asking."""

    error: GuestAgentError
    backoff: Backoff


class GuestAgent:
    """A GuestAgent is the agent of one guest.

    The guest can answer anything: every answer is checked for its form where it is read.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, timing: GuestAgentTiming = DEFAULT_TIMING.guest_agent
    ) -> None:
        """Begin without a connection: ``control`` is set once there is one.

        Args:
            clock: gives monotonic seconds.
            timing: the deadlines of commands, and how long one that failed is not tried again.
        """
        self.control: GuestControl | None = None
        self._clock = clock
        self._timing = timing
        self._failures: dict[str, _Failure] = {}  # the last failure of each command, by the command's name

    async def processors(self) -> tuple[GuestProcessor, ...]:
        """Read the guest's processors, in the order of their indices.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, refuses, or its answer makes no sense.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        return await self._command("guest-get-vcpus", {}, _read_processors)

    async def set_processors(self, indices: list[int], *, online: bool) -> None:
        """Take processors offline, or bring them online.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, or refuses.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        vcpus = [{"logical-id": index, "online": online} for index in indices]
        await self._command("guest-set-vcpus", {"vcpus": vcpus}, _unchanged)

    async def read_file(self, path: str) -> bytes | None:
        """Read a small file in the guest; None if there is no such file.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, refuses, or its answer makes no sense.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        try:
            handle = await self._command("guest-file-open", {"path": path, "mode": "r"}, _unchanged)
        except GuestAgentError as error:
            if _file_is_missing(error):
                return None
            raise
        try:
            return await self._command("guest-file-read", {"handle": handle, "count": LONGEST_FILE}, _read_contents)
        finally:
            await self._command("guest-file-close", {"handle": handle}, _unchanged)

    async def write_file(self, path: str, content: bytes) -> None:
        """Replace the contents of a small file in the guest.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, or refuses.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        handle = await self._command("guest-file-open", {"path": path, "mode": "w"}, _unchanged)
        try:
            encoded = base64.b64encode(content).decode()
            await self._command("guest-file-write", {"handle": handle, "buf-b64": encoded}, _unchanged)
        finally:
            await self._command("guest-file-close", {"handle": handle}, _unchanged)

    async def run(self, program: str, *arguments: str) -> tuple[int, bytes]:
        """Run a short program in the guest; return its exit status and what it printed.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, refuses, its answer makes no sense, or the program
                did not end in time.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        command = {"path": program, "arg": list(arguments), "capture-output": True}
        pid = await self._command("guest-exec", command, lambda answer: int(answer["pid"]))
        for _ in range(self._timing.exec_polls):
            await asyncio.sleep(self._timing.exec_poll)
            ended = await self._command("guest-exec-status", {"pid": pid}, _read_exit)
            if ended is not None:
                return ended
        seconds = self._timing.exec_polls * self._timing.exec_poll
        raise GuestAgentError(AgentReason.GUEST_AGENT_BUSY, f"{program} did not end in its guest within {seconds:.0f}s")

    async def system(self) -> str:
        """Read what the guest's operating system calls itself, such as "debian" or "mswindows"; empty if nothing.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, refuses, or its answer makes no sense.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        return await self._command("guest-get-osinfo", {}, lambda answer: str(answer.get("id", "")))

    async def _command(self, name: str, arguments: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """Have a command carried out and its answer read, unless it failed a short while ago."""
        for failed in (_WHOLE_AGENT, name):
            failure = self._failures.get(failed)
            if failure is not None and self._clock() < failure.backoff.until:
                raise GuestAgentError(failure.error.reason, str(failure.error))
        if self.control is None:
            raise GuestAgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest agent cannot be reached")
        try:
            answer = await self._carry_out(self.control, name, arguments, read)
        except GuestAgentError as error:
            if not error.reason.guest_agent_answers:
                self._remember(_WHOLE_AGENT, error)
                raise
            self._failures.pop(_WHOLE_AGENT, None)
            if not (name in _FILE_COMMANDS and _file_is_missing(error)):
                self._remember(name, error)
            raise
        self._failures.pop(_WHOLE_AGENT, None)
        self._failures.pop(name, None)
        return answer

    async def _carry_out(
        self, control: GuestControl, name: str, arguments: Mapping[str, Any], read: Callable[[Any], T]
    ) -> T:
        try:
            return read(await control.command(name, arguments))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise GuestAgentError(
                AgentReason.GUEST_AGENT_GARBLED, f"its guest agent's answer to {name} makes no sense"
            ) from error

    def _remember(self, command: str, error: GuestAgentError) -> None:
        """Do not ask the same again before a pause is over, which is longer after each failure."""
        before = self._failures.get(command)
        backoff = self._timing.retry if before is None else before.backoff
        self._failures[command] = _Failure(error, backoff.failed(self._clock()))


def _file_is_missing(error: GuestAgentError) -> bool:
    return error.reason is AgentReason.GUEST_AGENT_REFUSED and _MISSING in str(error)


def _unchanged(answer: Any) -> Any:
    return answer


def _read_processors(answer: Any) -> tuple[GuestProcessor, ...]:
    found = (
        GuestProcessor(int(each["logical-id"]), bool(each["online"]), bool(each.get("can-offline", False)))
        for each in answer
    )
    return tuple(sorted(found, key=lambda processor: processor.index))


def _read_contents(answer: Any) -> bytes:
    return base64.b64decode(answer["buf-b64"])


def _read_exit(answer: Any) -> tuple[int, bytes] | None:
    """Read how a program ended and what it printed; None while it runs."""
    if not answer["exited"]:
        return None
    return int(answer.get("exitcode", -1)), base64.b64decode(answer.get("out-data", ""))
