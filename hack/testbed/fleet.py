"""A fleet of nodes whose agents are made up: they report VMs, and their VMs follow requests a second later."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hack.testbed.fake_api_server import FakeApiServer, FakeVMI, Write
from kubeballoon.api.names import MEMORY_MIN, MEMORY_TARGET, POLICY
from kubeballoon.cluster import paths
from kubeballoon.core.units import GIB, MIB

Object = dict[str, Any]

_OVERCOMMIT = 1.4
_OTHER = 8 * GIB
_OVERHEAD = 300 * MIB
_FOLLOW_SECONDS = 1.0
_REQUESTS = {MEMORY_TARGET: "target", MEMORY_MIN: "min", POLICY: "policy"}
POOL = "example.com/pool"
"""The label by which policies select the VMs of one part of the nodes."""


@dataclass(slots=True)
class Fleet:
    """A Fleet is what made-up agents report.

    Attributes:
        nodes: the number of nodes.
        vms: the number of VMs on each node.
        pooled: how many nodes, the first by name, have the label ``POOL=a`` on their VMs; the others have ``POOL=b``.
        publish: writes the report of the node with this name.
        bodies: each node's NodePressure.
    """

    nodes: int
    vms: int
    pooled: int
    namespaces: int = 50
    publish: Callable[[str], None] = lambda _: None
    bodies: dict[str, Object] = field(default_factory=dict)
    _homes: dict[tuple[str, str], tuple[str, Object]] = field(default_factory=dict)
    _due: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make all reports."""
        for number in range(self.nodes):
            body = self._node(number)
            self.bodies[body["metadata"]["name"]] = body
            for vm in body["status"]["virtualMachines"]:
                self._homes[vm["namespace"], vm["name"]] = (body["metadata"]["name"], vm)

    def home(self, vmi: tuple[str, str]) -> str:
        """Return the name of the node that runs a VMI, given by its namespace and name."""
        return self._homes[vmi][0]

    def vmis(self) -> Iterator[tuple[tuple[str, str], FakeVMI]]:
        """List all VMIs by namespace and name."""
        for key, (node, vm) in self._homes.items():
            yield key, FakeVMI(vm["uid"], node)

    def namespace_names(self) -> list[str]:
        """List the namespaces of the VMs."""
        return [f"ns-{number:04d}" for number in range(self.namespaces)]

    def follow(self, write: Write) -> None:
        """Let a VM follow what was requested of it; its node reports that a second later."""
        node, vm = self._homes[write.vmi]
        for annotation, name in _REQUESTS.items():
            if annotation in write.annotations:
                vm.pop(name, None)
                value = write.annotations[annotation]
                if value is not None:
                    vm[name] = value
        vm["actual"] = vm.get("target", vm["size"])
        if node not in self._due:
            self._due.add(node)
            asyncio.get_running_loop().call_later(_FOLLOW_SECONDS, self.report, node)

    def delete_vms(self, nodes: Sequence[str]) -> list[tuple[str, str]]:
        """Delete all VMs of some nodes, which report that; return their namespaces and names."""
        for node in nodes:
            self.bodies[node]["status"]["virtualMachines"] = []
            self.report(node)
        return [vmi for vmi, (node, _) in self._homes.items() if node in nodes]

    def create_vms(self, vmis: Sequence[tuple[str, str]]) -> dict[tuple[str, str], FakeVMI]:
        """Create VMs that were deleted anew, each on its node, which reports that; return their VMIs."""
        created = {}
        for vmi in vmis:
            node, vm = self._homes[vmi]
            vm |= {"uid": str(uuid.uuid4()), "actual": vm["size"]}
            for name in _REQUESTS.values():
                vm.pop(name, None)
            self.bodies[node]["status"]["virtualMachines"].append(vm)
            created[vmi] = FakeVMI(vm["uid"], node)
        for node in {vmi.node for vmi in created.values()}:
            self.report(node)
        return created

    @property
    def settled(self) -> bool:
        """Whether no node has a report to write because its VMs followed requests."""
        return not self._due

    def report(self, node: str) -> None:
        """Write a node's report as of now."""
        self._due.discard(node)
        self.bodies[node]["status"]["observedAt"] = _now()
        self.publish(node)

    def run_short(self, node: str) -> None:
        """Let a node run short of memory: something else than its VMs has taken it."""
        status = self.bodies[node]["status"]
        memory = status["memory"]
        memory["other"] = str(int(memory["other"]) + int(memory["total"]) // 5)
        memory["available"] = str(int(memory["total"]) // 64)
        status["state"] = "Scarce"
        self.report(node)

    def change(self, node: str, draw: random.Random) -> None:
        """Let one VM of a node need something else, and report that."""
        vm = draw.choice(self.bodies[node]["status"]["virtualMachines"])
        vm["need"] = vm["presentNeed"] = str(int(int(vm["size"]) * draw.uniform(0.15, 0.6)))
        self.report(node)

    def granted(self, node: str) -> int:
        """Sum up what a node's VMs may use by their requests, bytes."""
        return sum(int(vm.get("target", vm["size"])) for vm in self.bodies[node]["status"]["virtualMachines"])

    def _node(self, number: int) -> Object:
        draw = random.Random(number)  # noqa: S311 - not for secrets
        vms = [self._vm(number, index, draw) for index in range(self.vms)]
        total = int(sum(int(vm["size"]) + _OVERHEAD for vm in vms) / _OVERCOMMIT) + _OTHER
        memory = {"total": total, "available": total // 3, "other": _OTHER, "reserve": int(total * 0.06)}
        status = {
            "observedAt": _now(),
            "agentVersion": "0.1.0",
            "memory": {key: str(value) for key, value in memory.items()},
            "processors": {"count": 64, "usage": 30, "stall": 2},
            "stall": {"some": 0, "full": 0},
            "state": "Ample",
            "virtualMachines": vms,
            "conditions": [],
        }
        head = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure"}
        return {**head, "metadata": {"name": f"node-{number:05d}"}, "status": status}

    def _vm(self, node: int, index: int, draw: random.Random) -> Object:
        size = draw.choice([4, 4, 8, 8, 8, 16, 16, 32]) * GIB
        need = int(size * draw.uniform(0.15, 0.6))
        name = f"vm-{node:05d}-{index:03d}"
        labels = {
            "kubevirt.io/nodeName": f"node-{node:05d}",
            "kubevirt.io/domain": name,
            "vm.kubevirt.io/name": name,
            "app.kubernetes.io/name": draw.choice(["web", "db", "queue", "batch", "ad", "erp", "ci"]),
            "team": f"team-{draw.randrange(40)}",
            "env": draw.choice(["prod", "test", "dev"]),
            "tier": draw.choice(["gold", "silver", "bronze"]),
            POOL: "a" if node < self.pooled else "b",
        }
        guest = {"available": size - 200 * MIB, "usable": size - need, "unused": (size - need) // 2}
        return {
            "uid": str(uuid.UUID(int=draw.getrandbits(128))),
            "namespace": f"ns-{(node * self.vms + index) % self.namespaces:04d}",
            "name": name,
            "labels": labels,
            "size": str(size),
            "actual": str(size),
            "resident": str(int(need * 1.1)),
            "overhead": str(_OVERHEAD),
            "need": str(need),
            "presentNeed": str(need),
            "method": "Balloon",
            "guest": {key: str(value) for key, value in guest.items()},
            "processors": {"size": 4, "online": 4, "offlinable": 3, "usage": 37, "method": "GuestAgent"},
        }


def serve_fleet(server: FakeApiServer, fleet: Fleet) -> None:
    """Put a fleet's objects into a fake API server."""
    for name in fleet.namespace_names():
        server.put(paths.NAMESPACES, {"metadata": {"name": name, "labels": {"env": "prod"}}})
    for body in fleet.bodies.values():
        server.put(paths.NODE_PRESSURES, body)
    server.vmis.update(fleet.vmis())
    fleet.publish = lambda node: server.put(paths.NODE_PRESSURES, fleet.bodies[node])


def policy(name: str, pool: str | None, **memory: object) -> Object:
    """Make a MemoryPolicy for the VMs of one pool, or for all."""
    selector = {} if pool is None else {"virtualMachineSelector": {"matchLabels": {POOL: pool}}}
    spec = {"selector": selector, "memory": {"min": "30%", "headroom": "10%", **memory}}
    return {
        "apiVersion": "kubeballoon.io/v1alpha1",
        "kind": "MemoryPolicy",
        "metadata": {"name": name, "generation": 1},
        "spec": {**spec, "reclaim": {"when": "Overcommitted"}},
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
