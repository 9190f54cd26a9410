"""A fake API server that costs next to nothing: objects in memory, HTTP on loopback, no TLS, no validation.

The controller's own limits show against it at sizes that a real API server on two cores cannot hold. It knows what the
controller asks for: lists (in pages, or of metadata only), watches, JSON patches with tests, statuses, events, Leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml
from aiohttp import web

from kubeballoon.cluster import paths

Object = dict[str, Any]

_LOOPBACK = "127.0.0.1"
_BOOKMARK_SECONDS = 20.0
_END = b""  # in the place of an event: the watch ends
NAMESPACE = "kubeballoon-system"
"""The namespace of the Leases, those of agents and that of the controllers."""
_PLURALS = {
    paths.leases(NAMESPACE): "Lease",
    paths.NODE_PRESSURES: "NodePressure",
    paths.MEMORY_POLICIES: "MemoryPolicy",
    paths.PROCESSOR_POLICIES: "ProcessorPolicy",
    paths.NODE_POLICIES: "NodePolicy",
    paths.NAMESPACES: "Namespace",
}


@dataclass(frozen=True, slots=True)
class Write:
    """A Write is a request that was written on a VMI.

    Attributes:
        at: when, seconds of ``time.monotonic``.
        vmi: the VMI's namespace and name.
        annotations: what was added; None is an annotation that was removed.
    """

    at: float
    vmi: tuple[str, str]
    annotations: dict[str, str | None]


@dataclass(slots=True)
class FakeVMI:
    """A FakeVMI is what the fake API server keeps of a VirtualMachineInstance."""

    uid: str
    node: str
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Stored:
    """A _Stored is an object and its JSON, which is made once for each version."""

    body: Object
    version: int
    text: bytes


class FakeApiServer:
    """A FakeApiServer serves objects on loopback; it is an async context manager.

    Attributes:
        vmis: the VMIs, by namespace and name.
        writes: all requests that were written on VMIs.
        statuses: when each policy's status was written, and the status.
        requests: how many requests came, by method and path of the collection.
        latency: seconds that each write takes.
        fault: answers a request in place of the server, or returns None.
    """

    def __init__(self, latency: float = 0.0, written: Callable[[Write], None] = lambda _: None) -> None:
        """Start without objects; ``written`` is called for each request that is written on a VMI."""
        self.vmis: dict[tuple[str, str], FakeVMI] = {}
        self.writes: list[Write] = []
        self.statuses: list[tuple[float, str, Object]] = []
        self.requests: dict[str, int] = {}
        self.latency = latency
        self.fault: Callable[[web.Request], web.Response | None] = lambda _: None
        self._written = written
        self._version = 1000
        self._objects: dict[str, dict[str, _Stored]] = {path: {} for path in _PLURALS}
        self._deleted: list[tuple[int, str, bytes]] = []  # the version, the collection's path, and the event
        self._watchers: dict[str, set[asyncio.Queue[bytes]]] = {path: set() for path in _PLURALS}
        self._leases: dict[str, Object] = {}
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.1)
        self._port = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """Refuse and break off all connections inside the context; objects stay, as etcd's would."""
        await self._runner.cleanup()
        try:
            yield
        finally:
            self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            await self._listen()

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig with the server's address."""
        cluster = {"name": "fake", "cluster": {"server": f"http://{_LOOPBACK}:{self._port}"}}
        user = {"name": "fake", "user": {"token": "fake"}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "fake"}}
        document = {"apiVersion": "v1", "kind": "Config", "current-context": "fake"}
        lists = {"clusters": [cluster], "users": [user], "contexts": [context]}
        path.write_text(yaml.safe_dump({**document, **lists}), encoding="utf-8")
        return path

    def put(self, path: str, body: Object) -> None:
        """Create or replace an object of the collection at ``path``, and tell its watchers."""
        self._version += 1
        name = body["metadata"]["name"]
        body["metadata"] |= {"uid": body["metadata"].get("uid") or name, "resourceVersion": str(self._version)}
        body = {"apiVersion": "v1", "kind": _PLURALS[path], **body}
        kind = "MODIFIED" if name in self._objects[path] else "ADDED"
        stored = self._objects[path][name] = _Stored(body, self._version, json.dumps(body).encode())
        self._notify(path, _event(kind, stored.text))

    def get(self, path: str, name: str) -> Object:
        """Return the body of an object; whoever changes it puts it again."""
        return self._objects[path][name].body

    def delete(self, path: str, name: str) -> None:
        """Delete an object, and tell its watchers."""
        self._version += 1
        stored = self._objects[path].pop(name)
        stored.body["metadata"]["resourceVersion"] = str(self._version)
        event = _event("DELETED", json.dumps(stored.body).encode())
        self._deleted.append((self._version, path, event))
        self._notify(path, event)

    def _notify(self, path: str, event: bytes) -> None:
        for queue in self._watchers[path]:
            queue.put_nowait(event)

    def cut_watches(self) -> None:
        """End all watches, as a proxy does that lets none last."""
        for queue in itertools.chain.from_iterable(self._watchers.values()):
            queue.put_nowait(_END)

    @web.middleware
    async def _fail(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        return self.fault(request) or await handler(request)

    async def _listen(self) -> None:
        site = web.TCPSite(self._runner, _LOOPBACK, self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 26, middlewares=[self._fail])
        routes: list[web.RouteDef] = []
        for path in _PLURALS:
            routes += [web.get(path, self._collection), web.patch(f"{path}/{{name}}/status", self._patch_status)]
        vmi = "/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}"
        leases = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        application.add_routes(
            [
                *routes,
                web.patch(vmi, self._patch_vmi),
                web.post("/apis/events.k8s.io/v1/namespaces/{namespace}/events", self._accept),
                web.patch("/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}", self._accept),
                web.post(paths.SELF_REVIEWS, self._accept),
                web.get(f"{leases}/{{name}}", self._get_lease),
                web.put(f"{leases}/{{name}}", self._put_lease),
                web.post(leases, self._post_lease),
                web.get("/{tail:.*}", self._discover),
            ]
        )
        return application

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch"):
            return await self._watch(request)
        # A replica that stands by only looks whether it may list; further pages are of the same list.
        if request.query.get("limit") != "1" and not request.query.get("continue"):
            self._count("LIST", request.path)
        stored = list(self._objects[request.path].values())
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or len(stored) or 1)
        rest = str(start + limit) if start + limit < len(stored) else ""
        page = stored[start : start + limit]
        if "PartialObjectMetadata" in request.headers.get("Accept", ""):
            items = [json.dumps({"metadata": each.body["metadata"]}).encode() for each in page]
        else:
            items = [each.text for each in page]
        metadata = json.dumps({"resourceVersion": str(self._version), "continue": rest}).encode()
        kind = _PLURALS[request.path].encode()
        body = b'{"kind":"%sList","apiVersion":"v1","metadata":%s,"items":[%s]}' % (kind, metadata, b",".join(items))
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self._count("WATCH", request.path)
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        for event in self._missed(request.path, int(request.query.get("resourceVersion") or 0)):
            queue.put_nowait(event)
        self._watchers[request.path].add(queue)
        try:
            while (event := await self._next_event(request.path, queue)) != _END:
                await response.write(event)
        except ConnectionError:
            pass
        finally:
            self._watchers[request.path].discard(queue)
        return response

    async def _next_event(self, path: str, queue: asyncio.Queue[bytes]) -> bytes:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BOOKMARK_SECONDS):
                return await queue.get()
        metadata = {"resourceVersion": str(self._version)}
        bookmark = {"apiVersion": "v1", "kind": _PLURALS[path], "metadata": metadata}
        return _event("BOOKMARK", json.dumps(bookmark).encode())

    def _missed(self, path: str, version: int) -> Iterator[bytes]:
        """Find the events after a version."""
        yield from (event for at, where, event in self._deleted if where == path and at > version)
        for stored in self._objects[path].values():
            if stored.version > version:
                yield _event("MODIFIED", stored.text)

    async def _patch_status(self, request: web.Request) -> web.Response:
        path, name = request.path.rsplit("/", 2)[0], request.match_info["name"]
        if name not in self._objects[path]:
            return refuse(404, "not found")
        patch = await self._body(request)
        body = self.get(path, name)
        body["status"] = patch["status"]
        self.statuses.append((time.monotonic(), name, patch["status"]))
        self.put(path, body)
        return web.json_response(body)

    async def _patch_vmi(self, request: web.Request) -> web.Response:
        key = request.match_info["namespace"], request.match_info["name"]
        operations = await self._body(request)
        vmi = self.vmis.get(key)
        if vmi is None:
            return refuse(404, "not found")
        expected = {"/metadata/uid": vmi.uid, "/status/nodeName": vmi.node}
        tests = [each for each in operations if each["op"] == "test" and each["path"] in expected]
        if len(tests) != len(expected) or any(each["value"] != expected[each["path"]] for each in tests):
            return refuse(422, "the server rejected our request due to an error in our request")
        changes: dict[str, str | None] = {}
        for each in operations:
            annotation = each["path"].removeprefix("/metadata/annotations/").replace("~1", "/")
            changes |= {"add": {annotation: each.get("value")}, "remove": {annotation: None}}.get(each["op"], {})
        merged = {**vmi.annotations, **changes}
        vmi.annotations = {name: value for name, value in merged.items() if value is not None}
        write = Write(time.monotonic(), key, changes)
        self.writes.append(write)
        self._written(write)
        return web.json_response({"kind": "VirtualMachineInstance", "metadata": {"name": key[1], "namespace": key[0]}})

    async def _accept(self, request: web.Request) -> web.Response:
        self._count(request.method, request.path.rpartition("/")[2])
        return web.json_response(await self._body(request), status=201)

    async def _body(self, request: web.Request) -> Any:
        body = json.loads(await request.read())
        if self.latency:
            await asyncio.sleep(self.latency)
        return body

    async def _get_lease(self, request: web.Request) -> web.Response:
        lease = self._leases.get(request.match_info["name"])
        return refuse(404, "not found") if lease is None else web.json_response(lease)

    async def _post_lease(self, request: web.Request) -> web.Response:
        return self._store_lease(await request.json())

    async def _put_lease(self, request: web.Request) -> web.Response:
        return self._store_lease(await request.json())

    def _store_lease(self, lease: Object) -> web.Response:
        name = lease["metadata"]["name"]
        known = self._leases.get(name)
        version = None if known is None else known["metadata"]["resourceVersion"]
        if lease["metadata"].get("resourceVersion") != version:
            return refuse(409, "the object has been modified")
        self._version += 1
        lease["metadata"]["resourceVersion"] = str(self._version)
        self._leases[name] = lease
        return web.json_response(lease)

    async def _discover(self, request: web.Request) -> web.Response:
        """Answer discovery, by which kopf finds its kinds."""
        group, _, version = paths.MEMORY_POLICIES.removeprefix("/apis/").rpartition("/")[0].partition("/")
        groups: Object = {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}]}
        groups["preferredVersion"] = groups["versions"][0]
        answers: dict[str, Object] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "groups": [groups]},
            "/api/v1": _resources("v1", "/api/v1/"),
            f"/apis/{group}/{version}": _resources(f"{group}/{version}", f"/apis/{group}/{version}/"),
        }
        answer = answers.get(request.path)
        return refuse(404, "not found") if answer is None else web.json_response(answer)

    def _count(self, method: str, path: str) -> None:
        key = f"{method} {path}"
        self.requests[key] = self.requests.get(key, 0) + 1


def _event(kind: str, text: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), text)


def refuse(code: int, message: str, **headers: str) -> web.Response:
    """Answer as the API server does that refuses a request."""
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code, headers=headers)


def _resources(group_version: str, prefix: str) -> Object:
    verbs = ["get", "list", "watch", "patch"]
    resources = [
        {"name": path.removeprefix(prefix), "singularName": "", "namespaced": False, "kind": kind, "verbs": verbs}
        for path, kind in _PLURALS.items()
        if path.startswith(prefix)
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
