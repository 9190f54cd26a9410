"""A fake API server with what an agent reads and writes, for agents that run without a control plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hack.testbed.lab import MIB, GuestSpec, vmi_object
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiError, ForbiddenError, InvalidError, NotFoundError, UnreachableError

Object = dict[str, Any]
SIZE = 1024 * MIB
"""The size of a VM that `vmi` makes, bytes."""
LEASE = f"{paths.leases('own')}/agent.here"
"""The path of the agent's Lease."""


@dataclass
class FakeCluster:
    """A FakeCluster is an API server with what an agent reads.

    Attributes:
        collections: objects by path; None if they may not be read.
        pressure: the NodePressure that an earlier agent wrote; None if there is none.
        away: whether the server accepts no report.
        fails: the error that every report meets; None if it is accepted.
        answers: cleared, a report is not answered before it is set again.
        reports: every status that was written, in order.
        refused: how many reports were not accepted.
        waiting: how many reports are not answered yet.
        events: what happens to objects, by path.
        refuses: whether a report with what it says of a VM is refused.
        leases: whether the agent may have a Lease.
        lease_fails: the error that every write of the Lease meets; None if it is accepted.
        refused_leases: how many of those there were.
        lease: the agent's Lease; None if there is none.
        beats: how often the Lease was written.
        created: how often the NodePressure was created, or found to be there.
        labels: the Node's labels.
    """

    collections: dict[str, list[Object] | None]
    pressure: Object | None = None
    away: bool = False
    reports: list[Object] = field(default_factory=list)
    refused: int = 0
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    events: dict[str, asyncio.Queue[Object]] = field(default_factory=dict)
    refuses: Callable[[Object], bool] = lambda _: False
    fails: ApiError | None = None
    leases: bool = True
    lease_fails: ApiError | None = None
    refused_leases: int = 0
    lease: Object | None = None
    beats: int = 0
    created: int = 0
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Answer, unless the test does otherwise."""
        self.answers.set()

    async def get(self, path: str, **_: str) -> Object:
        """Read one object, or list all of a path."""
        if path == paths.node_pressure("here"):
            if self.pressure is None:
                raise NotFoundError("there is none")
            return self.pressure
        if path == paths.node("here"):
            return {"metadata": {"uid": "node", "labels": self.labels}}
        if path == LEASE:
            return self._lease()
        items = self.collections[path]
        if items is None:
            raise ForbiddenError(f"{path} may not be read")
        return {"metadata": {"resourceVersion": "1"}, "items": items}

    async def pages(self, path: str, *_: object, **__: object) -> AsyncIterator[Object]:
        """List all objects of a path in one page."""
        yield await self.get(path)

    async def create(self, path: str, body: Object) -> Object:
        """Say who the agent is, or create its Lease."""
        if path == paths.SELF_REVIEWS:
            return {"status": {"userInfo": {"username": "system:serviceaccount:own:agent", "uid": "account"}}}
        if path != paths.leases("own"):
            raise ForbiddenError(f"nothing is created at {path}")
        return await self.replace(LEASE, body)

    async def replace(self, path: str, body: Object) -> Object:
        """Write the agent's Lease, or not."""
        if not self.leases or path != LEASE:
            raise ForbiddenError("an agent may not have a Lease")
        if self.lease_fails:
            self.refused_leases += 1
            raise self.lease_fails
        if self.away:
            self.refused += 1
            raise UnreachableError("the fake is away")
        uid = f"made by beat {self.beats}" if self.lease is None else self.lease["metadata"].get("uid")
        self.beats += 1
        self.lease = {**body, "metadata": {**body["metadata"], "uid": uid, "resourceVersion": str(self.beats)}}
        return self.lease

    def _lease(self) -> Object:
        if self.lease is None:
            raise NotFoundError("there is none")
        return self.lease

    async def apply(self, path: str, body: Object) -> Object:
        """Accept a NodePressure, or not."""
        return await self._write(path, body)

    async def json_patch(self, path: str, operations: list[Object], *, dry_run: bool = False) -> Object:
        """Accept a report, or not."""
        (operation,) = operations
        if (operation["op"], operation["path"]) != ("add", "/status"):
            raise InvalidError("an agent writes all of a status, and nothing else")
        return await self._write(path, {"status": operation["value"]}, dry_run=dry_run)

    async def _write(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        self.waiting += 1
        await self.answers.wait()
        self.waiting -= 1
        if self.away or self.fails:
            self.refused += 1
            raise self.fails or UnreachableError("the fake is away")
        culprits = [vm for vm in body.get("status", {}).get("virtualMachines", []) if self.refuses(vm)]
        if culprits:
            self.refused += 1
            raise InvalidError("one of the VMs is invalid")
        if dry_run:
            return body
        if path == paths.node_pressure_status("here"):
            self.reports.append(body["status"])
        else:
            self.created += 1
        return body

    @asynccontextmanager
    async def watch(self, path: str, *_: object, **__: str) -> AsyncIterator[AsyncIterator[Object]]:
        """Yield everything that the test has happen."""
        queue = self.events.setdefault(path, asyncio.Queue())

        async def events() -> AsyncIterator[Object]:
            while True:
                yield await queue.get()

        yield events()

    def happen(self, path: str, item: Object) -> None:
        """Tell those who watch a collection that an object in it has changed."""
        self.events.setdefault(path, asyncio.Queue()).put_nowait({"type": "MODIFIED", "object": item})

    def vm(self, name: str) -> Object:
        """Find what was last reported of a VM; empty where nothing was."""
        vms = self.reports[-1].get("virtualMachines", []) if self.reports else []
        return next((vm for vm in vms if vm["name"] == name), {})


def vmi(name: str = "vm", **annotations: str) -> Object:
    """Make the object of a VM of `SIZE` bytes in the namespace "default", whose pod is "pod-NAME"."""
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name=name, memory_bytes=SIZE), f"pod-{name}", "here", annotations=keys)
    made["metadata"] |= {"uid": name, "resourceVersion": "1"}
    return made


def namespace(**labels: str) -> Object:
    """Make the object of the VMs' namespace."""
    return {"metadata": {"name": "default", "uid": "default", "resourceVersion": "1", "labels": labels}}


def cluster(*vms: Object, policies: list[Object] | None = None, namespaces: list[Object] | None = None) -> FakeCluster:
    """Make an API server with these objects; without ``namespaces``, those may not be read."""
    named = [
        {**policy, "metadata": {**policy["metadata"], "uid": policy["metadata"]["name"], "resourceVersion": "1"}}
        for policy in policies or []
    ]
    collections: dict[str, list[Object] | None] = {
        paths.INSTANCES: list(vms),
        paths.MEMORY_POLICIES: list(named),
        paths.PROCESSOR_POLICIES: [],
        paths.NODE_POLICIES: [],
        paths.NAMESPACES: namespaces,
        paths.KUBEVIRTS: [],
    }
    return FakeCluster(collections)
