"""Watches of a fake API server that stops answering, or has very many objects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, Timeouts, UnreachableError
from kubeballoon.cluster.reflector import Reflector, without_status
from tests.support.cluster import Object
from tests.support.waiting import soon

PATH = "/apis/example.io/v1/things"
SHORT_TIMEOUTS = Timeouts(request=2.0, watch_silence=2.0)


def thing(name: str, version: str) -> dict[str, object]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": version, "managedFields": [{}]}}


class FakeServer:
    """A FakeServer lists one thing, and sends one event for each watch and then nothing; ``deaf`` it never answers."""

    def __init__(self) -> None:
        self.deaf = False
        self.watched: list[str] = []  # the resourceVersions that watches started from
        self._end = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as the API server would."""
        if self.deaf:
            await self._end.wait()
            raise web.HTTPServiceUnavailable
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "1"}, "items": [thing("first", "1")]})
        self.watched.append(request.query["resourceVersion"])
        count = len(self.watched)
        response = web.StreamResponse()
        await response.prepare(request)
        event = {"type": "ADDED", "object": thing(f"later-{count}", str(count + 1))}
        await response.write(json.dumps(event).encode() + b"\n")
        await self._end.wait()
        return response

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[ApiClient]:
        """Serve on a port, and connect a client."""
        application = web.Application()
        application.router.add_get(PATH, self.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            configuration = Configuration(host=f"http://127.0.0.1:{port}")
            async with ApiClient(configuration, "test", timeouts=SHORT_TIMEOUTS) as cluster:
                yield cluster
        finally:
            self._end.set()
            await runner.cleanup()


async def test_only_a_change_of_what_people_write_is_told_where_a_status_is_of_no_interest() -> None:
    told: list[int] = []

    class Policies(ApiClient):
        """A fake cluster with one policy, of which a watch sends the versions that the test has prepared."""

        def __init__(self) -> None:
            """Connect to nothing."""

        async def pages(self, path: str, *_: object, **__: object) -> AsyncIterator[dict[str, Any]]:
            """List the first version."""
            assert path == PATH
            yield {"metadata": {"resourceVersion": "1"}, "items": [thing("p", "1") | {"spec": {"shares": 1}}]}

        @asynccontextmanager
        async def watch(self, path: str, idle: float, **_: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
            """Send a new status, and then a new spec."""
            assert path == PATH
            assert idle

            async def events() -> AsyncIterator[dict[str, Any]]:
                yield {
                    "type": "MODIFIED",
                    "object": thing("p", "2") | {"spec": {"shares": 1}, "status": {"matched": 1}},
                }
                seen.append(len(told))
                yield {"type": "MODIFIED", "object": thing("p", "3") | {"spec": {"shares": 2}}}
                seen.append(len(told))
                await asyncio.Event().wait()

            yield events()

    seen: list[int] = []
    reflector = Reflector(Policies(), PATH, changed=lambda: told.append(1), essence=without_status)
    following = asyncio.create_task(reflector.run())
    await soon(lambda: len(seen) == 2, 60)
    following.cancel()
    assert seen == [1, 2]
    (policy,) = reflector.objects()
    assert policy["metadata"]["resourceVersion"] == "3"


async def test_a_watch_that_falls_silent_is_over(unused_tcp_port: int) -> None:
    async with (
        FakeServer().running(unused_tcp_port) as cluster,
        cluster.watch(PATH, 300, resourceVersion="1") as events,
    ):
        assert [event["object"]["metadata"]["name"] async for event in events] == ["later-1"]


async def test_a_server_that_takes_a_watch_and_does_not_answer_cannot_be_reached(unused_tcp_port: int) -> None:
    server = FakeServer()
    async with server.running(unused_tcp_port) as cluster:
        server.deaf = True
        with pytest.raises(UnreachableError):
            async with cluster.watch(PATH, 300, resourceVersion="1"):
                pass


async def test_a_reflector_watches_on_from_where_the_server_fell_silent_and_knows_when_it_cannot_be_reached(
    unused_tcp_port: int,
) -> None:
    server = FakeServer()
    lost = asyncio.Event()

    async def pause(_: float) -> None:
        await asyncio.sleep(0)
        server.deaf = len(server.watched) >= 3
        if server.deaf and not reflector.reachable:
            lost.set()

    async with server.running(unused_tcp_port) as cluster:
        reflector = Reflector(cluster, PATH, sleep=pause)
        following = asyncio.create_task(reflector.run())
        async with asyncio.timeout(60):
            await lost.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert server.watched == ["1", "2", "3"]
    known = {item["metadata"]["name"] for item in reflector.objects()}
    assert known == {"first", "later-1", "later-2", "later-3"}
    assert not any("managedFields" in item["metadata"] for item in reflector.objects()), "half of each object"


class PagedCluster(ApiClient):
    """An API server with namespaces, of which it lists two at a time, with nothing but their metadata."""

    def __init__(self, names: list[str]) -> None:
        """Connect to nothing."""
        self.listed = names
        self.accepted: set[str] = set()
        self.changes: asyncio.Queue[Object] = asyncio.Queue()

    async def _request(self, method: str, path: str, *, query: Mapping[str, str], accept: str = "", **_: Any) -> Object:
        """List a page."""
        assert (method, path, query["limit"].isdecimal()) == ("GET", paths.NAMESPACES, True)
        self.accepted.add(accept)
        start = int(query.get("continue", 0))
        more = {"continue": str(start + 2)} if start + 2 < len(self.listed) else {}
        page = [self.item(name) for name in self.listed[start : start + 2]]
        return {"metadata": {"resourceVersion": "7", **more}, "items": page or None}

    def item(self, name: str, **labels: str) -> Object:
        """Make the metadata of a namespace."""
        metadata = {"name": name, "uid": name, "labels": {"is": name, **labels}, "annotations": {"long": "x" * 999}}
        return {"metadata": {**metadata, "resourceVersion": "8"}}

    @asynccontextmanager
    async def watch(
        self, path: str, idle: float, *, accept: str = "", **query: str
    ) -> AsyncIterator[AsyncIterator[Object]]:
        """Yield what the test has happen."""
        assert (path, query["resourceVersion"]) == (paths.NAMESPACES, "7")
        assert idle
        self.accepted.add(accept)

        async def events() -> AsyncIterator[Object]:
            while True:
                yield {"type": "MODIFIED", "object": await self.changes.get()}

        yield events()


@pytest.mark.parametrize("names", [[], ["a"], list("abcde")], ids=len)
async def test_of_namespaces_only_names_and_labels_are_read_a_page_at_a_time(names: list[str]) -> None:
    cluster = PagedCluster(names)
    reflector = Reflector(cluster, paths.NAMESPACES, labels_only=True)
    following = asyncio.create_task(reflector.run())
    await reflector.synced.wait()
    cluster.changes.put_nowait(cluster.item("new", more="labels"))
    await soon(lambda: len(list(reflector.objects())) > len(names), 10.0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    kept = {item["metadata"]["name"]: item["metadata"] for item in reflector.objects()}
    assert kept.pop("new")["labels"] == {"is": "new", "more": "labels"}
    assert kept == {name: {"name": name, "uid": name, "labels": {"is": name}} for name in names}
    assert all("as=PartialObjectMetadata" in accept for accept in cluster.accepted)
