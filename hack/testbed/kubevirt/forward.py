"""Connects whoever connects to a listening socket of another network namespace with an address in this one.

usage: forward.py FILE_DESCRIPTOR ADDRESS PORT
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import closing, suppress

_CONNECT_SECONDS = 10.0
_CHUNK_BYTES = 1 << 16


async def forward(listener: socket.socket, address: str, port: int) -> None:
    """Forward until it is cancelled."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(OSError):
            back, forth = await asyncio.wait_for(asyncio.open_connection(address, port), _CONNECT_SECONDS)
            with closing(forth):
                await asyncio.gather(_copy(reader, forth), _copy(back, writer))

    server = await asyncio.start_server(serve, sock=listener)
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    asyncio.run(forward(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
