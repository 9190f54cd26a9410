"""Commands to the load generator in a guest; the protocol is told in memload.c."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from .errors import DeadlineError, GuestKilledError, LabError
from .sockets import short_path

LOAD_SECONDS = 180.0  # a guest that swaps takes minutes on a busy machine

_NUMBER = re.compile(r"(\w+)=(-?\d+)")


class Fill(StrEnum):
    """What the load's new pages hold."""

    UNIQUE = "u"
    SAME = "s"
    """The same as in every other guest, page for page."""
    ZERO = "z"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a guest says after a command.

    Attributes:
        held_mib: How much the load holds.
        kills: How often the guest's out-of-memory killer has taken the load, with all it held.
        seconds: How long the command took.
        total_bytes: The guest's MemTotal; and so on: free, available, cached, free swap.
        stalled_seconds: How long some task of the guest has waited for memory, since it booted (PSI).
    """

    held_mib: int
    kills: int
    seconds: float
    total_bytes: int
    free_bytes: int
    available_bytes: int
    cached_bytes: int
    swap_free_bytes: int
    stalled_seconds: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """The report in an answer's `KEY=VALUE ...`."""
        numbers = {key: int(value) for key, value in _NUMBER.findall(text)}
        return cls(
            held_mib=numbers["held_mib"],
            kills=numbers["kills"],
            seconds=numbers["ms"] / 1e3,
            total_bytes=numbers["total_kib"] * 1024,
            free_bytes=numbers["free_kib"] * 1024,
            available_bytes=numbers["available_kib"] * 1024,
            cached_bytes=numbers["cached_kib"] * 1024,
            swap_free_bytes=numbers["swap_free_kib"] * 1024,
            stalled_seconds=numbers["stalled_us"] / 1e6,
        )


@dataclass(slots=True)
class GuestLoad:
    """The load generator of one guest. Every command has a deadline, after which nothing is known about its effect.

    Commands raise GuestKilledError when the guest's out-of-memory killer takes the load meanwhile (it then holds
    nothing), DeadlineError when there is no answer in time, and LabError when the guest cannot or is gone.
    """

    path: Path
    _socket: socket.socket | None = field(default=None, init=False)
    _received: bytes = field(default=b"", init=False)
    _last_id: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def set(self, mib: int, *, fill: Fill = Fill.UNIQUE, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Holds so much memory: more is filled, less is given back to the guest."""
        return self.command(f"set {mib} {fill}", seconds)

    def touch(self, mib: int, *, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Writes once to each page of the first so many MiB held: the working set."""
        return self.command(f"touch {mib}", seconds)

    def cache(self, mib: int, *, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Reads so much of the guest's disk through its page cache."""
        return self.command(f"cache {mib}", seconds)

    def spin(self, spin_seconds: float) -> LoadReport:
        """Keeps one of the guest's processors busy."""
        return self.command(f"spin {round(spin_seconds * 1e3)}", spin_seconds + LOAD_SECONDS)

    def info(self, *, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Only reports."""
        return self.command("info", seconds)

    def command(self, command: str, seconds: float) -> LoadReport:
        """Has a command carried out."""
        deadline = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            raise DeadlineError(f"the guest was busy for {seconds:g} s, before {command!r}")
        try:
            status, _, numbers = self._ask(command, deadline).partition(" ")
        except TimeoutError as error:
            raise DeadlineError(f"the guest did not answer {command!r} within {seconds:g} s") from error
        except OSError as error:
            self.close()
            raise LabError(f"the guest is gone: {error}") from error
        finally:
            self._lock.release()
        if status == "killed":
            raise GuestKilledError(f"the guest ran out of memory and killed its load during {command!r}")
        if status != "ok":
            raise LabError(f"the guest answered {command!r} with: {status} {numbers}")
        return LoadReport.parse(numbers)

    def close(self) -> None:
        """Disconnects; the next command connects again."""
        if self._socket:
            self._socket.close()
        self._socket, self._received = None, b""

    def _ask(self, command: str, deadline: float) -> str:
        self._last_id += 1
        connected = self._connected(deadline)
        connected.settimeout(_remaining(deadline))
        connected.sendall(f"{self._last_id} {command}\n".encode())
        while True:
            number, _, answer = self._line(connected, deadline).partition(" ")
            if number == str(self._last_id):  # else it is the late answer to what was given up
                return answer

    def _line(self, connected: socket.socket, deadline: float) -> str:
        while b"\n" not in self._received:
            connected.settimeout(_remaining(deadline))
            received = connected.recv(4096)
            if not received:
                raise ConnectionResetError("QEMU closed the load's port")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def _connected(self, deadline: float) -> socket.socket:
        if self._socket is None:
            connecting = socket.socket(socket.AF_UNIX)
            connecting.settimeout(_remaining(deadline))
            with short_path(self.path) as path:
                connecting.connect(path)
            self._socket = connecting
        return self._socket


def _remaining(deadline: float) -> float:
    """Seconds left, as a socket's time-out: never zero, which would mean not to wait at all."""
    return max(deadline - time.monotonic(), 0.001)
