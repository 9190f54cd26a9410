"""GuestLoad: sends commands to the load generator in a guest, by the protocol that memload.c describes."""

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
from .unix_sockets import short_path

LOAD_SECONDS = 180.0  # a command takes minutes in a guest that swaps on a busy machine

_NUMBER = re.compile(r"(\w+)=(-?\d+)")


class Fill(StrEnum):
    """The content of the pages that the load generator allocates."""

    UNIQUE = "u"
    SAME = "s"
    """Each page is the same as in every other guest."""
    ZERO = "z"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The load generator's answer to a command, with the guest's own memory figures.

    Attributes:
        held_mib: The memory that the load holds, in MiB.
        kills: How often the guest's out-of-memory killer has killed the load, and so freed all that it held.
        seconds: How long the command took.
        total_bytes: MemTotal of the guest's /proc/meminfo.
        free_bytes: MemFree of it.
        available_bytes: MemAvailable of it.
        cached_bytes: Cached and Buffers of it.
        swap_free_bytes: SwapFree of it.
        stalled_seconds: How long some task of the guest has waited for memory since the guest booted (PSI).
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
        """Parse the `KEY=VALUE ...` of an answer."""
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
    """A connection to the load generator of one guest. Every command has a deadline.

    Commands raise GuestKilledError if the guest's out-of-memory killer kills the load during the command (it holds
    nothing after that), DeadlineError if there is no answer in time (the command may still take effect), and LabError
    if the guest cannot carry the command out, or has ended.
    """

    path: Path
    _socket: socket.socket | None = field(default=None, init=False)
    _received: bytes = field(default=b"", init=False)
    _last_id: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def set(self, mib: int, *, fill: Fill = Fill.UNIQUE, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Make the load hold ``mib`` MiB: allocate and fill more, or free what is too much."""
        return self.command(f"set {mib} {fill}", seconds)

    def touch(self, mib: int, *, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Write once to each page of the first ``mib`` MiB that the load holds, its working set."""
        return self.command(f"touch {mib}", seconds)

    def keep(self, mib: int, *, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Write to each page of the first ``mib`` MiB that the load holds, again and again until the next command."""
        return self.command(f"keep {mib}", seconds)

    def cache(self, mib: int, *, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Read the first ``mib`` MiB of the guest's disk, which fills its page cache."""
        return self.command(f"cache {mib}", seconds)

    def spin(self, spin_seconds: float) -> LoadReport:
        """Keep one of the guest's processors busy for ``spin_seconds``."""
        return self.command(f"spin {round(spin_seconds * 1e3)}", spin_seconds + LOAD_SECONDS)

    def info(self, *, seconds: float = LOAD_SECONDS) -> LoadReport:
        """Return a report, and change nothing."""
        return self.command("info", seconds)

    def command(self, command: str, seconds: float) -> LoadReport:
        """Send a command in memload.c's syntax, and return the report that answers it."""
        deadline = time.monotonic() + seconds
        if not self._lock.acquire(timeout=seconds):
            raise DeadlineError(f"the guest was busy for {seconds:g} s, before {command!r}")
        try:
            status, _, numbers = self._exchange(command, deadline).partition(" ")
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
        """Disconnect; the next command connects again."""
        if self._socket:
            self._socket.close()
        self._socket, self._received = None, b""

    def _exchange(self, command: str, deadline: float) -> str:
        self._last_id += 1
        connected = self._connect(deadline)
        connected.settimeout(_remaining(deadline))
        connected.sendall(f"{self._last_id} {command}\n".encode())
        while True:
            number, _, answer = self._read_line(connected, deadline).partition(" ")
            if number == str(self._last_id):  # any other is the late answer to a command whose deadline has passed
                return answer

    def _read_line(self, connected: socket.socket, deadline: float) -> str:
        while b"\n" not in self._received:
            connected.settimeout(_remaining(deadline))
            received = connected.recv(4096)
            if not received:
                raise ConnectionResetError("QEMU closed the load's port")
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def _connect(self, deadline: float) -> socket.socket:
        if self._socket is None:
            connecting = socket.socket(socket.AF_UNIX)
            connecting.settimeout(_remaining(deadline))
            with short_path(self.path) as path:
                connecting.connect(path)
            self._socket = connecting
        return self._socket


def _remaining(deadline: float) -> float:
    """Return the seconds left, as a socket's time-out: never zero, which would make the socket non-blocking."""
    return max(deadline - time.monotonic(), 0.001)
