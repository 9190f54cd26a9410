"""This module stands between libvirt's client and a daemon: the agent connects itself, and bounds what is sent to it.

libvirt's client takes messages of 32 MiB, keeps what it has of an unfinished one for as long as its caller waits, and
offers no way to end a call. All of that is the daemon's to use, and the daemon is whatever listens in a launcher pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
import threading
from functools import cache, partial
from typing import cast

LONGEST_MESSAGE = 1 << 20  # bytes; a domain's XML, the longest that is asked for, takes a tenth of it
MOST_MESSAGES = 8  # that a daemon may send until it is asked again; it answers a call with one
_HEADER = 4  # bytes at the start of a message of libvirt's RPC: the message's whole length, these four included
_SHORTEST_MESSAGE = 28  # bytes: a message's length, and the six numbers that follow it
_ADDRESS = 108  # bytes of sun_path: libvirt's client fills the name of an abstract socket with NULs up to here


class Relay:
    """A Relay passes on what libvirt's client and one daemon send each other, until either breaks the rules.

    All relays run in one thread of their own.

    Attributes:
        address: where libvirt's client finds it: an abstract socket, which accepts this process once.
        fault: what the daemon did wrong, as one line; None if nothing.
        closed: whether nothing is passed on any more.
    """

    def __init__(self, daemon: socket.socket) -> None:
        """Take over the connection to a daemon, and wait for libvirt's client."""
        name = f"kubeballoon-{secrets.token_hex(16)}"
        self.address = f"@{name}"
        self.fault: str | None = None
        self.closed = False
        self._daemon = daemon
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(b"\0" + name.encode().ljust(_ADDRESS - 1, b"\0"))
        self._listener.listen(1)
        self._transports: list[asyncio.Transport] = []
        self._started = False  # whether _join has begun, and closes what it does not use
        self._loop = _loop()
        self._joining = asyncio.run_coroutine_threadsafe(self._join(), self._loop)

    def close(self) -> None:
        """End both connections; a call of libvirt's client that waits for an answer fails."""
        self.closed = True
        self._loop.call_soon_threadsafe(self._cut)

    def refuse(self, fault: str) -> None:
        """End both connections because of what the daemon did; this is called in the relays' thread."""
        self.fault = self.fault or fault
        self.closed = True
        self._cut()

    async def _join(self) -> None:
        """Connect the two sides once libvirt's client has come."""
        self._started = True
        waiting = [self._daemon]  # what belongs to no side yet, and is closed here
        try:
            client = await self._accept()
            waiting.append(client)
            requests, replies = _Requests(self), _Replies(self)
            requests.other, replies.other = replies, requests
            # Requests may come while the daemon's side is not there yet; replies find both sides there.
            for side, connection in ((requests, client), (replies, self._daemon)):
                waiting.remove(connection)
                connection.settimeout(0)
                await self._loop.connect_accepted_socket(partial(_as_protocol, side), connection)
        except (OSError, asyncio.CancelledError):
            self.closed = True
            self._abort()
        finally:
            for each in (self._listener, *waiting):
                each.close()

    async def _accept(self) -> socket.socket:
        while True:
            accepting = asyncio.ensure_future(self._loop.sock_accept(self._listener))
            try:
                client, _ = await accepting
            except asyncio.CancelledError:
                # The client may have come in the moment in which this was cancelled.
                accepting.add_done_callback(_close_accepted)
                raise
            pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if pid == os.getpid():
                return client
            client.close()

    def _cut(self) -> None:
        self._joining.cancel()
        if not self._started:  # a task that is cancelled before it has begun never closes anything
            self._listener.close()
            self._daemon.close()
        self._abort()

    def _abort(self) -> None:
        for transport in self._transports:
            transport.abort()

    def add(self, transport: asyncio.Transport) -> None:
        """Note one of the two connections, which end together."""
        self._transports.append(transport)
        if self.closed:
            transport.abort()


class _Side(asyncio.Protocol):
    """A _Side passes on to the other side what it receives, no faster than the other takes it.

    Attributes:
        relay: what it is one end of.
        other: its other end, which is set before either is connected.
        transport: its connection; None until it is connected.
    """

    def __init__(self, relay: Relay) -> None:
        """Make one end of ``relay``."""
        self.relay = relay
        self.other: _Side | None = None
        self.transport: asyncio.Transport | None = None
        self._early = b""  # what is to be written as soon as there is a connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write what the other side received before."""
        # Reading cannot be put off until both sides are connected: Python 3.11.2 reads here though it is paused.
        self.transport = cast("asyncio.Transport", transport)  # a connection of a socket has no other
        self.relay.add(self.transport)
        early, self._early = self._early, b""
        self.write(early)

    def write(self, data: bytes) -> None:
        """Send bytes to whoever is connected to this side, or keep them until somebody is."""
        if self.transport is None:
            self._early += data
        else:
            self.transport.write(data)

    def pause_writing(self) -> None:
        """Let the other side wait."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let the other side go on."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on to the other end of the relay."""
        if self.other is not None:
            self.other.write(data)


class _Requests(_Side):
    """The _Requests come from libvirt's client."""

    other: _Replies | None

    def data_received(self, data: bytes) -> None:
        """Pass a request on, which the daemon may answer."""
        if self.other is not None:
            self.other.messages = 0
        super().data_received(data)

    def connection_lost(self, _: Exception | None) -> None:
        """End with libvirt's client, whether the daemon takes what is left or not."""
        self.relay.close()


class _Replies(_Side):
    """The _Replies come from a daemon, and may be anything.

    Attributes:
        messages: how many have begun since the last request.
    """

    def __init__(self, relay: Relay) -> None:
        """Make the end of ``relay`` that passes replies on."""
        super().__init__(relay)
        self.messages = 0
        self._header = b""  # what has come of a message's length
        self._left = 0  # bytes of the present message that have not come yet

    def data_received(self, data: bytes) -> None:
        """Pass on what came, if it is what a daemon may send."""
        fault = self._check(memoryview(data))
        if fault is None:
            super().data_received(data)
        else:
            self.relay.refuse(fault)

    def connection_lost(self, _: Exception | None) -> None:
        """End with the daemon; libvirt's client still gets what the daemon sent before."""
        self.relay.closed = True
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def _check(self, data: memoryview) -> str | None:
        """Follow the messages in what was received; return what is wrong with them, if anything is."""
        while data:
            if self._left:
                step = min(self._left, len(data))
                self._left -= step
            else:
                step = _HEADER - len(self._header)
                self._header += data[:step]
            data = data[step:]
            if len(self._header) == _HEADER:
                length, self._header = int.from_bytes(self._header, "big"), b""
                self._left = length - _HEADER
                self.messages += 1
                if not _SHORTEST_MESSAGE <= length <= LONGEST_MESSAGE:
                    return f"its libvirt daemon sent a message of {length} bytes"
                if self.messages > MOST_MESSAGES:
                    return "its libvirt daemon sends what it was not asked for"
        return None


def _close_accepted(accepting: asyncio.Future[tuple[socket.socket, object]]) -> None:
    """Close the connection of a client whom nobody waits for any more, if one came."""
    if not accepting.cancelled() and accepting.exception() is None:
        accepting.result()[0].close()


def _as_protocol(side: _Side) -> _Side:
    return side


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Start the thread of all relays, and return its event loop."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_forever()

    threading.Thread(target=run, name="libvirt relays", daemon=True).start()
    return loop
