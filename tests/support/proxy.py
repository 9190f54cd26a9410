"""This module puts a bad network between a program and its API server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import yaml


class Proxy:
    """A Proxy passes bytes between clients and the API server that a kubeconfig names, of which it takes the place.

    Attributes:
        delay: seconds after which what the API server sends is passed on.
    """

    def __init__(self, kubeconfig: Path) -> None:
        """Stand before the API server of a kubeconfig, which names the proxy instead once the proxy has begun."""
        self.delay = 0.0
        self._kubeconfig = kubeconfig
        self._open: set[asyncio.Event] = set()  # one for each connection: whether it passes nothing more
        self._passing: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server_port = 0

    async def __aenter__(self) -> Self:
        config = yaml.safe_load(self._kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        url = urlsplit(cluster["server"])
        assert url.port is not None
        self._server_port = url.port
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        cluster["server"] = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._kubeconfig.write_text(yaml.safe_dump(config))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    def freeze(self) -> None:
        """Pass nothing more on the connections that there are, and do not close them; new ones work."""
        for frozen in self._open:
            frozen.set()
        self._open.clear()

    async def _connect(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._writers |= {client_writer, server_writer}
        frozen = asyncio.Event()
        self._open.add(frozen)
        ways = ((client_reader, server_writer, False), (server_reader, client_writer, True))
        for reader, writer, to_client in ways:
            task = asyncio.create_task(self._pass(reader, writer, frozen, to_client=to_client))
            self._passing.add(task)
            task.add_done_callback(self._passing.discard)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frozen: asyncio.Event, *, to_client: bool
    ) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                if to_client:
                    await asyncio.sleep(self.delay)
                if frozen.is_set():
                    await asyncio.Event().wait()
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            if not frozen.is_set():
                writer.close()
