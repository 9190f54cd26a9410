"""The lab's own calls to a launcher's libvirt daemon, each with a deadline."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeVar

from .deadlines import within
from .errors import DeadlineError, LabError
from .sockets import short_path

CALL_SECONDS = 15.0
_POLL_SECONDS = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """A connection to one libvirt daemon."""

    libvirt: ModuleType
    connection: Any

    @classmethod
    def connect(cls, socket: Path, seconds: float) -> Self:
        """Connects to the session daemon behind a socket, as soon as there is one.

        Raises:
            LabError: libvirt-python is missing.
            DeadlineError: There was none in time.
        """
        libvirt = _libvirt()
        deadline = time.monotonic() + seconds

        def open_connection() -> Any:
            with short_path(socket) as path:
                return libvirt.open(f"qemu+unix:///session?socket={path}")

        while True:
            try:
                connection = within(deadline - time.monotonic(), f"connecting to {socket}", open_connection)
            except libvirt.libvirtError as error:
                if time.monotonic() > deadline:
                    raise DeadlineError(f"no libvirt daemon at {socket} within {seconds:g} s: {error}") from error
                time.sleep(_POLL_SECONDS)
            else:
                return cls(libvirt, connection)

    def start(self, xml: str) -> None:
        """Defines a domain and starts it, as KubeVirt does.

        Raises:
            LabError: libvirt refuses it.
        """
        self._call("starting a domain", lambda connection: connection.defineXML(xml).create())

    def domain_xml(self, name: str) -> str:
        """The live domain."""
        return self.ask(name, "reading a domain", lambda domain: str(domain.XMLDesc()))

    def memory_stats(self, name: str) -> dict[str, int]:
        """The memory statistics libvirt has of a domain, as they come: KiB, counts, and seconds since the epoch."""
        return self.ask(name, "reading memory statistics", lambda domain: dict(domain.memoryStats()))

    def set_memory(self, name: str, size: int) -> None:
        """Asks the guest, through its balloon, to use only so many bytes; returns at once."""
        live = self.libvirt.VIR_DOMAIN_AFFECT_LIVE
        self.ask(name, "setting the balloon", lambda domain: domain.setMemoryFlags(size // 1024, live))

    def plug(self, name: str, xml: str, alias: str) -> None:
        """Attaches a device, or changes the one of the same alias."""
        live = self.libvirt.VIR_DOMAIN_AFFECT_LIVE

        def plug(domain: Any) -> None:
            if f"name='{alias}'" in domain.XMLDesc():
                domain.updateDeviceFlags(xml, live)
            else:
                domain.attachDeviceFlags(xml, live)

        self.ask(name, "plugging memory", plug)

    def agent_command(self, name: str, command: str, arguments: Mapping[str, object]) -> Any:
        """What the guest's agent returns for a command.

        Raises:
            LabError: It refuses, or does not answer.
        """
        libvirt_qemu = importlib.import_module("libvirt_qemu")
        text = json.dumps({"execute": command, "arguments": arguments})
        seconds = round(CALL_SECONDS / 2)
        answer = self.ask(name, command, lambda domain: libvirt_qemu.qemuAgentCommand(domain, text, seconds, 0))
        return json.loads(answer)["return"]

    def ask(self, name: str, what: str, call: Callable[[Any], T], seconds: float = CALL_SECONDS) -> T:
        """The result of any call on a domain.

        Raises:
            LabError: libvirt refuses it.
            DeadlineError: There is no answer in time.
        """
        return self._call(what, lambda connection: call(connection.lookupByName(name)), seconds)

    def close(self) -> None:
        """Ends the connection; does nothing if the daemon does not answer."""
        try:
            self._call("closing a connection", lambda connection: connection.close())
        except LabError:
            return

    def _call(self, what: str, call: Callable[[Any], T], seconds: float = CALL_SECONDS) -> T:
        try:
            return within(seconds, what, lambda: call(self.connection))
        except self.libvirt.libvirtError as error:
            raise LabError(f"{what}: {error}") from error


def _libvirt() -> ModuleType:
    """The libvirt module, silenced; imported late, as most of this package works without it."""
    try:
        libvirt = importlib.import_module("libvirt")
    except ImportError as error:
        raise LabError("libvirt-python is missing: uv sync --extra agent") from error
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print what it also raises
    return libvirt
