"""Writes of a client that may write for a while only, on a fake API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hack.testbed.fake_api_server import FakeApiServer
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, UnreachableError

EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"
LONG = 600.0


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as running:
        yield running


async def connect(server: FakeApiServer, directory: Path) -> ApiClient:
    return await ApiClient.connect("test", server.write_kubeconfig(directory / "kubeconfig"))


async def test_a_write_is_broken_off_when_no_time_is_left_for_it(server: FakeApiServer, tmp_path: Path) -> None:
    server.latency = LONG
    left = iter((0.2, 0.0))
    async with await connect(server, tmp_path) as client:
        client.bound_writes(lambda: next(left))
        with pytest.raises(UnreachableError, match=r"^POST .* was broken off: another replica may lead now$"):
            await client.create(EVENTS, {})


async def test_a_write_goes_on_while_its_time_is_prolonged(server: FakeApiServer, tmp_path: Path) -> None:
    server.latency = 0.2
    asked: list[float] = []

    def seconds_left() -> float:
        asked.append(0.01)
        return asked[-1]

    async with await connect(server, tmp_path) as client:
        client.bound_writes(seconds_left)
        assert await client.create(EVENTS, {"note": "written"}) == {"note": "written"}
    assert len(asked) > 1


async def test_nothing_is_sent_once_no_time_is_left_but_reads(server: FakeApiServer, tmp_path: Path) -> None:
    async with await connect(server, tmp_path) as client:
        client.bound_writes(lambda: -1.0)
        with pytest.raises(UnreachableError):
            await client.create(EVENTS, {})
        assert await client.names(paths.NAMESPACES) == set()
    assert "POST events" not in server.requests
