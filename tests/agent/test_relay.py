"""The relay between libvirt's client and a daemon, with plain sockets for both."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from kubeballoon.agent.hypervisor.relay import LONGEST_MESSAGE, MOST_MESSAGES, Relay, _Replies, _Requests

DEADLINE = 10.0


def abstract(address: str) -> bytes:
    """Return the abstract socket that libvirt's client connects to where its URI says ``@name``."""
    return address.replace("@", "\0", 1).ljust(108, "\0").encode()


def message(length: int) -> bytes:
    """Make a message of ``length`` bytes, its length included."""
    return length.to_bytes(4, "big") + b"x" * (length - 4)


@dataclass
class Connected:
    """A relay with both of its ends; the daemon's far end is the test's."""

    relay: Relay
    client: socket.socket
    daemon: socket.socket

    def client_gets(self, length: int) -> bytes:
        """Read so many bytes as the client; less where the connection ends."""
        received = b""
        while len(received) < length and (more := self.client.recv(length - len(received))):
            received += more
        return received


@pytest.fixture
def connected() -> Iterator[Connected]:
    near, far = socket.socketpair()
    relay = Relay(near)
    with far, socket.socket(socket.AF_UNIX) as client:
        for each in (client, far):
            each.settimeout(DEADLINE)
        client.connect(abstract(relay.address))
        yield Connected(relay, client, far)
        relay.close()


def test_requests_and_replies_are_passed_on_in_whatever_pieces_they_come(connected: Connected) -> None:
    for _ in range(3 * MOST_MESSAGES):
        connected.client.sendall(message(40))
        assert connected.daemon.recv(100) == message(40)
        for start in range(0, 60, 3):
            connected.daemon.sendall(message(60)[start : start + 3])
        assert connected.client_gets(60) == message(60)
    assert connected.relay.fault is None


class Recorded(asyncio.Transport):
    """A connection that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep what is written."""
        self.written += data

    def abort(self) -> None:
        """Do nothing: there is no connection."""


def test_a_request_that_comes_before_the_daemon_s_side_is_there_is_passed_on(connected: Connected) -> None:
    requests, replies = _Requests(connected.relay), _Replies(connected.relay)
    requests.other, replies.other = replies, requests
    client, daemon = Recorded(), Recorded()
    requests.connection_made(client)
    requests.data_received(message(28))
    replies.connection_made(daemon)
    replies.data_received(message(60))
    assert (daemon.written, client.written) == (message(28), message(60))


def test_the_longest_reply_reaches_a_client_that_takes_its_time(connected: Connected) -> None:
    sending = threading.Thread(target=connected.daemon.sendall, args=(message(LONGEST_MESSAGE),))
    sending.start()
    assert connected.client_gets(LONGEST_MESSAGE) == message(LONGEST_MESSAGE)
    sending.join()


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ((LONGEST_MESSAGE + 1).to_bytes(4, "big"), f"a message of {LONGEST_MESSAGE + 1} bytes"),
        (b"\xff\xff\xff\xff", "a message of 4294967295 bytes"),
        (message(60) + b"\0\0\0\0", "a message of 0 bytes"),
        (message(28) * (MOST_MESSAGES + 1), "sends what it was not asked for"),
    ],
    ids=["long", "longest", "no length", "unasked"],
)
def test_a_daemon_that_breaks_the_rules_is_cut_off(connected: Connected, sent: bytes, fault: str) -> None:
    connected.daemon.sendall(sent)
    with closing(connected.client):
        assert connected.client_gets(LONGEST_MESSAGE) in (b"", message(60))
    assert connected.relay.fault == f"its libvirt daemon {'sent ' if fault.startswith('a ') else ''}{fault}"
    assert connected.relay.closed


def test_a_client_that_waits_for_an_answer_is_freed_when_the_relay_is_closed(connected: Connected) -> None:
    connected.client.sendall(message(28))
    connected.daemon.sendall(message(500)[:-1])
    assert connected.client_gets(499) == message(500)[:-1]
    connected.relay.close()
    assert connected.client_gets(1) == b""
    assert connected.daemon.recv(100) in (message(28), b"")
    assert connected.relay.fault is None


def test_what_a_daemon_sends_before_it_ends_still_arrives(connected: Connected) -> None:
    connected.daemon.sendall(message(500))
    connected.daemon.shutdown(socket.SHUT_RDWR)
    assert connected.client_gets(501) == message(500)


def test_a_relay_that_nobody_comes_to_is_closed_with_the_daemon_s_connection() -> None:
    near, far = socket.socketpair()
    relay = Relay(near)
    relay.close()
    far.settimeout(DEADLINE)
    with far, socket.socket(socket.AF_UNIX) as client:
        assert far.recv(1) == b""
        with pytest.raises(OSError, match="refused"):
            client.connect(abstract(relay.address))


def test_another_process_does_not_get_through() -> None:
    near, far = socket.socketpair()
    relay = Relay(near)
    far.settimeout(DEADLINE)
    script = (
        "import socket, sys\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        f"client.connect({abstract(relay.address)!r})\n"
        "sys.exit(len(client.recv(1)))\n"
    )
    with far, socket.socket(socket.AF_UNIX) as client:
        assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
        client.connect(abstract(relay.address))
        client.sendall(message(28))
        assert far.recv(100) == message(28)
    relay.close()
