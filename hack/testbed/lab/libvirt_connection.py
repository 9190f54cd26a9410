"""LibvirtConnection: the lab's own connection to a launcher's libvirt daemon; each call has a deadline."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from .deadline import call_with_deadline
from .errors import DeadlineError, LabError
from .unix_sockets import short_path

CALL_SECONDS = 15.0
_POLL_SECONDS = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LibvirtConnection:
    """A connection to the libvirt daemon of one launcher."""

    libvirt: ModuleType
    connection: Any

    @classmethod
    def connect(cls, socket: Path, seconds: float) -> Self:
        """Connect to the session daemon behind a socket; wait until there is one.

        Raises:
            LabError: libvirt-python is missing.
            DeadlineError: No daemon answered in time.
        """
        libvirt = _libvirt()
        deadline = time.monotonic() + seconds

        def open_connection() -> Any:
            with short_path(socket) as path:
                return libvirt.open(f"qemu+unix:///session?socket={path}")

        while True:
            try:
                connection = call_with_deadline(deadline - time.monotonic(), f"connecting to {socket}", open_connection)
            except libvirt.libvirtError as error:
                if time.monotonic() > deadline:
                    raise DeadlineError(f"no libvirt daemon at {socket} within {seconds:g} s: {error}") from error
                time.sleep(_POLL_SECONDS)
            else:
                return cls(libvirt, connection)

    def start(self, xml: str) -> None:
        """Define and start a domain, as KubeVirt does.

        Raises:
            LabError: libvirt refuses the domain.
        """
        self._call("starting a domain", lambda connection: connection.defineXML(xml).create())

    def domain_xml(self, name: str) -> str:
        """Return the XML of the running domain."""
        return self.call(name, "reading a domain", lambda domain: str(domain.XMLDesc()))

    def memory_stats(self, name: str) -> dict[str, int]:
        """Return libvirt's memory statistics of a domain in libvirt's own units: KiB, counts, and Unix seconds."""
        return self.call(name, "reading memory statistics", lambda domain: dict(domain.memoryStats()))

    def set_memory(self, name: str, size: int) -> None:
        """Set the size in bytes that the balloon is to leave the guest; do not wait for the guest."""
        live = self.libvirt.VIR_DOMAIN_AFFECT_LIVE
        self.call(name, "setting the balloon", lambda domain: domain.setMemoryFlags(size // 1024, live))

    def plug(self, name: str, xml: str, alias: str) -> None:
        """Attach a device, or change the device with the same alias."""
        live = self.libvirt.VIR_DOMAIN_AFFECT_LIVE

        def plug(domain: Any) -> None:
            if f"name='{alias}'" in domain.XMLDesc():
                domain.updateDeviceFlags(xml, live)
            else:
                domain.attachDeviceFlags(xml, live)

        self.call(name, "plugging memory", plug)

    def agent_command(self, name: str, command: str, arguments: Mapping[str, object]) -> Any:
        """Send a command to the guest's agent, and return what it returns.

        Raises:
            LabError: The guest agent refuses the command, or does not answer.
        """
        libvirt_qemu = importlib.import_module("libvirt_qemu")
        text = json.dumps({"execute": command, "arguments": arguments})
        seconds = round(CALL_SECONDS / 2)
        answer = self.call(name, command, lambda domain: libvirt_qemu.qemuAgentCommand(domain, text, seconds, 0))
        return json.loads(answer)["return"]

    def call(self, name: str, what: str, call: Callable[[Any], T], seconds: float = CALL_SECONDS) -> T:
        """Return the result of any call on a domain; ``what`` names the call in errors.

        Raises:
            LabError: libvirt refuses the call.
            DeadlineError: The call does not return in time.
        """
        return self._call(what, lambda connection: call(connection.lookupByName(name)), seconds)

    def close(self) -> None:
        """Close the connection; do nothing if the daemon does not answer."""
        try:
            self._call("closing a connection", lambda connection: connection.close())
        except LabError:
            return

    def _call(self, what: str, call: Callable[[Any], T], seconds: float = CALL_SECONDS) -> T:
        try:
            return call_with_deadline(seconds, what, lambda: call(self.connection))
        except self.libvirt.libvirtError as error:
            raise LabError(f"{what}: {error}") from error


def _libvirt() -> ModuleType:
    """Import libvirt, and silence it. It is imported this late because most of the lab works without it."""
    try:
        libvirt = importlib.import_module("libvirt")
    except ImportError as error:
        raise LabError("libvirt-python is missing: uv sync --extra agent") from error
    # By default libvirt prints each error on stderr, besides raising it.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    return libvirt
