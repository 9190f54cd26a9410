"""Libvirt daemons that whoever controls a launcher pod could run: they speak libvirt's RPC, and lie in it.

usage: python -m hack.testbed.hostile.lying_daemon FILE

The file is a JSON object of sockets, each with the fields of `Lies`. "ready" is printed once all of them listen.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from hack.testbed.lab.unix_sockets import listen

_REMOTE, _QEMU = 0x20008086, 0x20008087  # libvirt's RPC programs
_QEMU_AGENT_COMMAND = 3  # this and the next are procedures, with their names in libvirt's qemu_ and remote_protocol.x
_CONNECT_OPEN = 1
_CONNECT_CLOSE = 2
_DOMAIN_GET_XML_DESC = 14
_DOMAIN_GET_INFO = 16
_DOMAIN_LOOKUP_BY_NAME = 23
_CONNECT_SUPPORTS_FEATURE = 60
_AUTH_LIST = 66
_DOMAIN_MEMORY_STATS = 159
_DOMAIN_SET_VCPUS_FLAGS = 199
_DOMAIN_GET_VCPUS_FLAGS = 200
_DOMAIN_SET_MEMORY_FLAGS = 204
_DOMAIN_SET_MEMORY_STATS_PERIOD = 308
_EMPTY_ANSWERS = (
    *(_CONNECT_OPEN, _CONNECT_CLOSE, _DOMAIN_SET_VCPUS_FLAGS, _DOMAIN_SET_MEMORY_FLAGS),
    _DOMAIN_SET_MEMORY_STATS_PERIOD,
)
_INTERNAL_ERROR, _FROM_QEMU, _LEVEL_ERROR = 1, 10, 2  # of virterror.h: an error's code, origin and level
_ACTUAL = "6"  # the tag of the balloon's size, which follows a request at once
_UUID = b"u" * 16
_LAST_UPDATE = 9  # the tag of the statistics' date
_HEADER = 28  # bytes: a message's length and six numbers
_LONGEST = 33554428  # bytes: what libvirt's client would take


@dataclass(frozen=True)
class Lies:
    """Lies are what a daemon answers; what is not given it answers as an honest one would.

    Attributes:
        xml: the XML of its domain.
        memory: what it calls its domain's memory, KiB.
        statistics: libvirt's tags of memory statistics, and their values; sizes are in KiB.
        agent: what the guest agent answers to every command.
        error: the text of an error that answers every question about its domain.
        mode: "honest"; or instead of any answer "silent", "garbage", "long" (announces 32 MiB, sends all but a byte),
            "short" (all but a byte of a message that would do), "endless", "drip", or "unasked" (many for one).
    """

    xml: str = "<domain type='kvm'><memory>1048576</memory><devices><memballoon model='virtio'/></devices></domain>"
    memory: int = 1048576
    statistics: dict[str, int] = field(default_factory=lambda: {"6": 1048576, "7": 1048576, "8": 524288, "5": 1000000})
    agent: str = '{"return":[{"logical-id":0,"online":true,"can-offline":false}]}'
    error: str = ""
    mode: str = "honest"


def words(*values: int) -> bytes:
    """Encode numbers of 32 bits."""
    return b"".join(struct.pack(">I", value & 0xFFFFFFFF) for value in values)


def text(value: bytes) -> bytes:
    """Encode a string as XDR does: its length, its bytes, and padding to four bytes."""
    return words(len(value)) + value + b"\0" * (-len(value) % 4)


def failure(message: str) -> bytes:
    """Encode an error, as libvirt would one of its QEMU driver."""
    head = words(_INTERNAL_ERROR, _FROM_QEMU) + words(1) + text(message.encode())
    return head + words(_LEVEL_ERROR) + words(0) * 4 + words(0, 0) + words(0)


class Connection:
    """A Connection answers one client of the lying daemon."""

    def __init__(self, client: socket.socket, lies: Lies) -> None:
        """Answer ``client`` with ``lies``."""
        self._client = client
        self._lies = lies

    def serve(self) -> None:
        """Answer until the client leaves."""
        with self._client:
            try:
                while True:
                    self._answer()
            except (EOFError, OSError):
                return

    def _receive(self, length: int) -> bytes:
        received = b""
        while len(received) < length:
            more = self._client.recv(length - len(received))
            if not more:
                raise EOFError
            received += more
        return received

    def _answer(self) -> None:
        (length,) = struct.unpack(">I", self._receive(4))
        body = self._receive(length - 4)
        program, version, procedure, _, serial, _ = struct.unpack(">6I", body[:24])

        def header(length: int, status: int = 0) -> bytes:
            return words(length, program, version, procedure, 1, serial, status)

        if self._lies.mode != "honest":
            self._misbehave(header(_LONGEST), header(1 << 20), header(_HEADER))
            return
        found = self._honest_answer(program, procedure, body[24:])
        payload, failed = (failure(found), 1) if isinstance(found, str) else (found, 0)
        self._client.sendall(header(_HEADER + len(payload), failed) + payload)

    def _misbehave(self, longest: bytes, allowed: bytes, empty: bytes) -> None:
        match self._lies.mode:
            case "garbage":
                self._client.sendall(b"\xaa" * 4096)
            case "long":
                self._client.sendall(longest + b"\0" * (_LONGEST - _HEADER - 1))
            case "short":
                self._client.sendall(allowed + b"\0" * ((1 << 20) - _HEADER - 1))
            case "endless":
                while True:
                    self._client.sendall(longest + b"\0" * 65536)
            case "drip":
                for each in allowed:
                    self._client.sendall(bytes([each]))
            case "unasked":
                while True:
                    self._client.sendall(empty * 1000)
        self._receive(1 << 30)  # nothing more comes, and the client does not leave by itself

    def _honest_answer(self, program: int, procedure: int, argument: bytes) -> bytes | str:
        """Return an answer, or the text of an error."""
        lies = self._lies
        if program == _QEMU and procedure == _QEMU_AGENT_COMMAND:
            return words(1) + text(lies.agent.encode())
        if program != _REMOTE:
            return "no such program"
        if procedure == _DOMAIN_SET_MEMORY_FLAGS:
            (length,) = struct.unpack(">I", argument[:4])
            domain = 4 + length + -length % 4 + len(_UUID) + 4  # bytes: name, uuid and id
            (lies.statistics[_ACTUAL],) = struct.unpack(">Q", argument[domain : domain + 8])
        if procedure in _EMPTY_ANSWERS:
            return b""
        return self._about_the_connection(procedure, argument) or lies.error or self._about_the_domain(procedure)

    def _about_the_connection(self, procedure: int, argument: bytes) -> bytes:
        """Say who may come, what is supported (nothing), and that every domain is here; nothing else."""
        if procedure == _AUTH_LIST:
            return words(1, 0)  # one way to log in, which asks for nothing
        if procedure == _CONNECT_SUPPORTS_FEATURE:
            return words(0)
        if procedure == _DOMAIN_LOOKUP_BY_NAME:
            (length,) = struct.unpack(">I", argument[:4])
            return text(argument[4 : 4 + length]) + _UUID + words(1)
        return b""

    def _about_the_domain(self, procedure: int) -> bytes | str:
        """Tell XML, state, statistics or processors."""
        lies = self._lies
        if procedure == _DOMAIN_GET_XML_DESC:
            return text(lies.xml.encode())
        if procedure == _DOMAIN_GET_INFO:
            cpu_time = struct.pack(">Q", time.monotonic_ns())
            return words(1) + struct.pack(">QQ", lies.memory, 1048576) + words(4) + cpu_time
        if procedure == _DOMAIN_MEMORY_STATS:
            figures = {_LAST_UPDATE: int(time.time())} | {int(tag): value for tag, value in lies.statistics.items()}
            return words(len(figures)) + b"".join(words(tag) + struct.pack(">Q", figures[tag]) for tag in figures)
        if procedure == _DOMAIN_GET_VCPUS_FLAGS:
            return words(4)
        return f"no procedure {procedure}"


def main(file: str) -> None:
    """Listen at all sockets, and lie until the process is ended."""
    listeners = [(listen(Path(path)), Lies(**lies)) for path, lies in json.loads(Path(file).read_text()).items()]
    for listener, lies in listeners:
        threading.Thread(target=serve, args=(listener, lies), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def serve(listener: socket.socket, lies: Lies) -> None:
    """Accept libvirt's clients and lie to each until the daemon is stopped."""
    while True:
        client, _ = listener.accept()
        threading.Thread(target=Connection(client, lies).serve, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1])
