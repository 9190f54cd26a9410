"""QEMU's guest agent in one VM: commands with reasons when they fail, and with pauses after that.

It is KubeVirt's too, and carries out one command at a time; one that does not answer is not asked again at once.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kubeballoon.agent.hypervisor import AgentError, Channel

RETRY = 5.0  # seconds until an agent that failed is asked again; doubles
RETRY_AT_MOST = 60.0
LONGEST_FILE = 4096  # bytes that are read of a file; what this project writes is far shorter
_POLL = 0.2  # seconds between looks at a program that runs in the guest
_POLLS = 25
_REFUSED = "GuestAgentRefused"
_MISSING = "No such file"


@dataclass(frozen=True, slots=True)
class GuestProcessor:
    """A processor as the guest sees it."""

    index: int
    online: bool
    offlinable: bool


class GuestAgent:
    """The agent of one guest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask through no channel yet; ``clock`` gives seconds.

        ``failure`` is why it cannot be asked now; None while it answers.
        """
        self.failure: AgentError | None = None
        self.channel: Channel | None = None
        self._clock = clock
        self._pause = 0.0
        self._until = 0.0

    async def processors(self) -> tuple[GuestProcessor, ...]:
        """The guest's processors by index.

        Raises:
            HypervisorError: see there.
        """
        answer = await self._command("guest-get-vcpus")
        found = (GuestProcessor(each["logical-id"], each["online"], each.get("can-offline", False)) for each in answer)
        return tuple(sorted(found, key=lambda processor: processor.index))

    async def set_processors(self, indices: list[int], *, online: bool) -> None:
        """Take processors offline or bring them online.

        Raises:
            HypervisorError: see there.
        """
        await self._command(
            "guest-set-vcpus", {"vcpus": [{"logical-id": index, "online": online} for index in indices]}
        )

    async def read_file(self, path: str) -> bytes | None:
        """A small file's contents; None when there is no such file.

        Raises:
            HypervisorError: see there.
        """
        try:
            handle = await self._command("guest-file-open", {"path": path, "mode": "r"})
        except AgentError as error:
            if error.reason == _REFUSED and _MISSING in str(error):
                self._succeeded()
                return None
            raise
        try:
            answer = await self._command("guest-file-read", {"handle": handle, "count": LONGEST_FILE})
        finally:
            await self._command("guest-file-close", {"handle": handle})
        return base64.b64decode(answer["buf-b64"])

    async def write_file(self, path: str, content: bytes) -> None:
        """Replace a small file's contents.

        Raises:
            HypervisorError: see there.
        """
        handle = await self._command("guest-file-open", {"path": path, "mode": "w"})
        try:
            await self._command("guest-file-write", {"handle": handle, "buf-b64": base64.b64encode(content).decode()})
        finally:
            await self._command("guest-file-close", {"handle": handle})

    async def run(self, program: str, *arguments: str) -> tuple[int, bytes]:
        """Run a short program; its exit status and what it printed.

        Raises:
            HypervisorError: see there.
        """
        started = await self._command("guest-exec", {"path": program, "arg": list(arguments), "capture-output": True})
        for _ in range(_POLLS):
            await asyncio.sleep(_POLL)
            answer = await self._command("guest-exec-status", {"pid": started["pid"]})
            if answer["exited"]:
                return answer.get("exitcode", -1), base64.b64decode(answer.get("out-data", ""))
        raise AgentError("GuestAgentBusy", f"{program} did not end in its guest within {_POLLS * _POLL:.0f}s")

    async def system(self) -> str:
        """The guest's operating system as it calls itself, such as "debian" or "mswindows"; nothing if it does not.

        Raises:
            HypervisorError: see there.
        """
        return str((await self._command("guest-get-osinfo")).get("id", ""))

    async def _command(self, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
        if self.failure is not None and self._clock() < self._until:
            raise self.failure
        if self.channel is None:
            raise AgentError("GuestAgentAbsent", "its guest agent cannot be reached")
        try:
            answer = await self.channel.command(name, arguments or {})
        except AgentError as error:
            if error.reason != _REFUSED:  # one that refuses a command answers
                self.failure = error
                self._pause = min(RETRY_AT_MOST, max(RETRY, 2 * self._pause))
                self._until = self._clock() + self._pause
            raise
        self._succeeded()
        return answer

    def _succeeded(self) -> None:
        self.failure, self._pause = None, 0.0
