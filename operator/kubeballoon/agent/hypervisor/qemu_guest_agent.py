"""This module calls QEMU's guest agent in one VM: a command fails with a reason, and is not repeated at once.

The guest agent serves KubeVirt too, and carries out one command at a time. One that does not answer, or a command that
it refuses, is tried again after ever longer pauses.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, TypeVar, overload

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, TypeAdapter

from kubeballoon.agent.foreign_text import parse_json
from kubeballoon.agent.hypervisor.errors import GuestAgentError
from kubeballoon.agent.hypervisor.protocols import GuestControl
from kubeballoon.agent.wait_times import DEFAULT_TIMING, GuestAgentTiming
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.backoff import Backoff

T = TypeVar("T")

LONGEST_FILE = 4096  # bytes that are read of a file; what this project writes is far shorter
LONGEST_ANSWER = 64 << 10  # characters: the processors of a guest that has 1000 of them take 55 KiB
_MISSING = "No such file"
_FILE_COMMANDS = ("guest-file-open", "guest-exec")  # a missing file is no fault of these commands
_WHOLE_AGENT = ""  # stands among the commands for the guest agent as a whole


@dataclass(frozen=True, slots=True)
class GuestProcessor:
    """A GuestProcessor is a processor as the guest sees it."""

    index: int
    online: bool
    offlinable: bool


_Number = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]


class _Form(BaseModel):
    """A _Form has the fields that are read of one kind of answer; all others are dropped."""

    model_config = ConfigDict(frozen=True)


class _Answer(_Form, Generic[T]):
    result: T = Field(alias="return")


class _Vcpu(_Form):
    index: _Number = Field(alias="logical-id", lt=1 << 16)
    online: bool = Field(strict=True)
    offlinable: bool = Field(alias="can-offline", default=False, strict=True)


class _File(_Form):
    contents: Base64Bytes = Field(alias="buf-b64")


class _Started(_Form):
    pid: _Number


class _ProgramState(_Form):
    exited: bool = Field(strict=True)
    exit_status: int = Field(alias="exitcode", default=-1, ge=-(1 << 31), lt=1 << 31, strict=True)
    output: Base64Bytes = Field(alias="out-data", default=b"")


class _System(_Form):
    name: str = Field(alias="id", default="", max_length=256)


_VCPUS = TypeAdapter(_Answer[list[_Vcpu]])
_HANDLE = TypeAdapter(_Answer[_Number])
_FILE = TypeAdapter(_Answer[_File])
_STARTED = TypeAdapter(_Answer[_Started])
_PROGRAM_STATE = TypeAdapter(_Answer[_ProgramState])
_SYSTEM = TypeAdapter(_Answer[_System])


@dataclass(frozen=True, slots=True)
class _Failure:
    """A _Failure is a command's failure with the pause in which it is raised again, instead of asking the guest agent.

    The error itself is not kept: it would keep alive whatever its frames refer to.
    """

    reason: AgentReason
    message: str
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
        found = await self._command("guest-get-vcpus", {}, _VCPUS)
        processors = (GuestProcessor(vcpu.index, vcpu.online, vcpu.offlinable) for vcpu in found)
        return tuple(sorted(processors, key=lambda processor: processor.index))

    async def set_processors(self, indices: list[int], *, online: bool) -> None:
        """Take processors offline, or bring them online.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, or refuses.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        vcpus = [{"logical-id": index, "online": online} for index in indices]
        await self._command("guest-set-vcpus", {"vcpus": vcpus}, None)

    async def read_file(self, path: str) -> bytes | None:
        """Read a small file in the guest; None if there is no such file.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, refuses, or its answer makes no sense.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        try:
            handle = await self._command("guest-file-open", {"path": path, "mode": "r"}, _HANDLE)
        except GuestAgentError as error:
            if _file_is_missing(error):
                return None
            raise
        try:
            return (await self._command("guest-file-read", {"handle": handle, "count": LONGEST_FILE}, _FILE)).contents
        finally:
            await self._command("guest-file-close", {"handle": handle}, None)

    async def write_file(self, path: str, content: bytes) -> None:
        """Replace the contents of a small file in the guest.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, or refuses.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        handle = await self._command("guest-file-open", {"path": path, "mode": "w"}, _HANDLE)
        try:
            encoded = base64.b64encode(content).decode()
            await self._command("guest-file-write", {"handle": handle, "buf-b64": encoded}, None)
        finally:
            await self._command("guest-file-close", {"handle": handle}, None)

    async def run(self, program: str, *arguments: str) -> tuple[int, bytes]:
        """Run a short program in the guest; return its exit status and what it printed.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, refuses, its answer makes no sense, or the program
                did not end in time.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        command = {"path": program, "arg": list(arguments), "capture-output": True}
        pid = (await self._command("guest-exec", command, _STARTED)).pid
        for _ in range(self._timing.exec_polls):
            await asyncio.sleep(self._timing.exec_poll)
            state = await self._command("guest-exec-status", {"pid": pid}, _PROGRAM_STATE)
            if state.exited:
                return state.exit_status, state.output
        seconds = self._timing.exec_polls * self._timing.exec_poll
        raise GuestAgentError(AgentReason.GUEST_AGENT_BUSY, f"{program} did not end in its guest within {seconds:.0f}s")

    async def system(self) -> str:
        """Read what the guest's operating system calls itself, such as "debian" or "mswindows"; empty if nothing.

        Raises:
            GuestAgentError: the guest agent is absent, busy or hung, refuses, or its answer makes no sense.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        return (await self._command("guest-get-osinfo", {}, _SYSTEM)).name

    @overload
    async def _command(self, name: str, arguments: Mapping[str, Any], form: TypeAdapter[_Answer[T]]) -> T: ...

    @overload
    async def _command(self, name: str, arguments: Mapping[str, Any], form: None) -> None: ...

    async def _command(self, name: str, arguments: Mapping[str, Any], form: TypeAdapter[_Answer[T]] | None) -> T | None:
        """Have a command carried out, unless it failed a short while ago; with no form its answer is not looked at."""
        for failed in (_WHOLE_AGENT, name):
            failure = self._failures.get(failed)
            if failure is not None and self._clock() < failure.backoff.until:
                raise GuestAgentError(failure.reason, failure.message)
        if self.control is None:
            raise GuestAgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest agent cannot be reached")
        try:
            answer = await self.control.command(name, arguments, partial(_read, name, form))
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

    def _remember(self, command: str, error: GuestAgentError) -> None:
        """Do not ask the same again before a pause is over, which is longer after each failure."""
        before = self._failures.get(command)
        backoff = self._timing.retry if before is None else before.backoff
        self._failures[command] = _Failure(error.reason, str(error), backoff.failed(self._clock()))


def _file_is_missing(error: GuestAgentError) -> bool:
    return error.reason is AgentReason.GUEST_AGENT_REFUSED and _MISSING in str(error)


def _read(command: str, form: TypeAdapter[_Answer[T]] | None, answer: str) -> T | None:
    """Read an answer, which is JSON; this is called in a thread of the VM's queue.

    Raises:
        GuestAgentError: the answer is too long, or makes no sense.
    """
    if form is None:
        return None
    with contextlib.suppress(ValueError):
        return parse_json(answer, form, LONGEST_ANSWER).result
    raise GuestAgentError(AgentReason.GUEST_AGENT_GARBLED, f"its guest agent's answer to {command} makes no sense")
