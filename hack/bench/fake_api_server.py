"""A fake API server: it serves lists of kubeballoon's objects, made once, so that only the client's cost is measured.

It speaks HTTP/1.1 without TLS, knows no writes, and pages lists by ``limit`` and ``continue`` as the real one does.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]

GIB = 1 << 30
OVERHEAD = 300 << 20
OVERCOMMIT = 1.4  # the VMs' sizes together, to what the node has for them
OTHER = 8 * GIB
NAMESPACES = 50
STAMP = "2026-01-01T00:00:00Z"  # is replaced by the time of the answer, so that no report is ever old
GROUP = "kubeballoon.io/v1alpha1"
KINDS = {
    "nodepressures": "NodePressure",
    "memorypolicies": "MemoryPolicy",
    "processorpolicies": "ProcessorPolicy",
    "nodepolicies": "NodePolicy",
}
KUBEVIRT = "kubevirt.io/v1"


def vm_report(node: int, index: int, serial: int) -> Object:
    """Make a report of a VM; the same VM always has the same figures."""
    dice = random.Random(serial)  # noqa: S311 - figures, not secrets
    size = dice.choice([4, 4, 8, 8, 8, 16, 16, 32]) * GIB
    need = int(size * dice.uniform(0.15, 0.6))
    target = min(size, max(size // 2, int(need * 1.3)))
    name, app = f"{dice.choice(['web', 'db', 'queue', 'batch', 'ci'])}-{node:03d}-{index:03d}", f"app-{serial % 40}"
    labels = {
        "kubevirt.io/nodeName": node_name(node),
        "kubevirt.io/domain": name,
        "vm.kubevirt.io/name": name,
        "app.kubernetes.io/name": app,
        "team": f"team-{serial % 40}",
        "tier": dice.choice(["gold", "bronze"]),
    }
    report: Object = {
        "uid": str(uuid.UUID(int=dice.getrandbits(128))),
        "namespace": f"team-{serial % NAMESPACES:02d}",
        "name": name,
        "labels": labels,
        "size": str(size),
        "actual": str(target),
        "target": str(target),
        "policy": "default",
        "resident": str(min(target, int(need * dice.uniform(1.0, 1.8)) + OVERHEAD)),
        "overhead": str(OVERHEAD),
        "need": str(need),
        "presentNeed": str(need),
        "message": "no request",
        "guest": {
            "available": str(size - (200 << 20)),
            "usable": str(size - need),
            "unused": str((size - need) // 2),
            "diskCaches": str((size - need) // 3),
            "swapIn": "0",
            "swapOut": "0",
            "majorFaults": 12345,
        },
        "processors": {
            "size": 4,
            "online": 4,
            "offlinable": 3,
            "usage": dice.randrange(160),
            "method": "GuestAgent",
        },
    }
    return report | _trouble(report, dice)


def _trouble(report: Object, dice: random.Random) -> Object:
    """Make one VM in fifty one that swaps, cannot be ballooned, or does not follow."""
    kind = dice.randrange(150)
    if kind == 0:
        return {"troubled": True, "need": report["actual"], "presentNeed": report["actual"]}
    if kind == 1:
        return {"eligible": False, "reason": "VFIO", "message": "a device passed through pins its memory"}
    unreachable = {"responsive": False, "reason": "Unreachable", "message": "its domain is not running"}
    return unreachable if kind == 2 else {}  # noqa: PLR2004 - one kind of many is as good as another


def node_name(node: int) -> str:
    """Name a node as cloud providers do: long, with a common ending."""
    return f"worker-{node:03d}.rack{node % 7}.prod.example.net"


def node_pressure(node: int, vms: Sequence[Object]) -> Object:
    """Make the NodePressure of an overcommitted node."""
    total = int(sum(int(vm["size"]) + OVERHEAD for vm in vms) / OVERCOMMIT) + OTHER
    used = sum(int(vm["resident"]) + OVERHEAD for vm in vms) + OTHER
    condition = {"type": "Ready", "status": "True", "reason": "Reporting", "message": f"{len(vms)} VMs on this node"}
    scarce = node % 17 == 5  # noqa: PLR2004 - a few nodes, spread over the list
    status = {
        "observedAt": STAMP,
        "agentVersion": "0.1.0",
        "stall": {"some": 4 * scarce, "full": scarce},
        "state": "Scarce" if scarce else "Ample",
        "memory": {
            "total": str(total),
            "available": str(total // 40 if scarce else max(total // 9, total - used)),
            "other": str(OTHER),
            "reserve": str(total // 16),
        },
        "processors": {"count": 64, "usage": 20 + node % 60, "stall": node % 4},
        "virtualMachines": list(vms),
        "conditions": [{**condition, "observedGeneration": 0, "lastTransitionTime": STAMP}],
    }
    return {**_head("NodePressure", node_name(node)), "status": status}


def _head(kind: str, name: str, api_version: str = GROUP) -> Object:
    uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, kind + name))
    metadata = {"name": name, "uid": uid, "generation": 1, "resourceVersion": "1000"}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata | {"creationTimestamp": "2026-01-02T00:00:00Z"},
    }


def policies() -> dict[str, list[Object]]:
    """Make a MemoryPolicy for all VMs and one for those of tier gold, and a ProcessorPolicy."""
    gold = {"virtualMachineSelector": {"matchLabels": {"tier": "gold"}}}
    status = {"observedGeneration": 1, "matched": 1, "governed": 1, "excluded": [], "conditions": []}
    common = {**_head("MemoryPolicy", "default"), "spec": {"selector": {}, "memory": {"min": "30%"}}}
    precious = {**_head("MemoryPolicy", "gold"), "spec": {"selector": gold, "priority": 10, "memory": {"min": "60%"}}}
    processors = {**_head("ProcessorPolicy", "processors"), "spec": {"selector": {}, "processors": {"min": 1}}}
    reclaimed = {"reclaimed": "0"}
    return {
        "memorypolicies": [{**each, "status": status | reclaimed} for each in (common, precious)],
        "processorpolicies": [{**processors, "status": status | {"reclaimed": 0}}],
    }


class FakeCollections:
    """FakeCollections hold the JSON of objects, by the path of the collection, in the order of their names."""

    def __init__(self, nodes: int, vms_per_node: float) -> None:
        self.collections: dict[str, list[tuple[str, bytes]]] = {}
        self.kinds: dict[str, tuple[str, str]] = {}
        pressures = []
        for node in range(nodes):
            first, last = int(node * vms_per_node), int((node + 1) * vms_per_node)
            vms = [vm_report(node, serial - first, serial) for serial in range(first, last)]
            pressures.append(node_pressure(node, vms))
        self.add(f"/apis/{GROUP}/nodepressures", "NodePressure", pressures)
        for plural, objects in policies().items():
            self.add(f"/apis/{GROUP}/{plural}", KINDS[plural], objects)
        namespaces = [_head("Namespace", f"team-{index:02d}", "v1") for index in range(NAMESPACES)]
        self.add("/api/v1/namespaces", "Namespace", namespaces)
        self.add("/apis/coordination.k8s.io/v1/leases", "Lease", [_lease()])

    def add(self, path: str, kind: str, objects: Sequence[Object]) -> None:
        """Serve another collection of objects from now on."""
        self.collections[path] = [(each["metadata"]["name"], json.dumps(each).encode()) for each in objects]
        self.kinds[path] = kind, objects[0]["apiVersion"]

    def answer(self, path: str, query: dict[str, list[str]]) -> bytes | None:
        """Answer a GET; None for what there is not."""
        if path in self.collections:
            return self._list(path, query)
        collection, _, name = path.rpartition("/")
        if collection in self.collections:
            return dict(self.collections[collection]).get(name)
        found = _discovery(path)
        return None if found is None else json.dumps(found).encode()

    def _list(self, path: str, query: dict[str, list[str]]) -> bytes:
        items = [body for _, body in self.collections[path]]
        start, limit = int(query.get("continue", ["0"])[0]), int(query.get("limit", ["0"])[0]) or len(items)
        metadata: Object = {"resourceVersion": "1000"}
        if start + limit < len(items):
            metadata |= {"continue": str(start + limit), "remainingItemCount": len(items) - start - limit}
        kind, api_version = self.kinds[path]
        head = json.dumps({"kind": f"{kind}List", "apiVersion": api_version, "metadata": metadata})
        return head[:-1].encode() + b',"items":[' + b",".join(items[start : start + limit]) + b"]}"


def _lease() -> Object:
    spec = {"holderIdentity": "kubeballoon-controller-0", "leaseDurationSeconds": 15, "renewTime": STAMP}
    return {**_head("Lease", "kubeballoon-controller", "coordination.k8s.io/v1"), "spec": spec}


def _discovery(path: str) -> Object | None:
    """Answer what kubectl asks before it lists: which kinds there are."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        version = {"groupVersion": GROUP, "version": "v1alpha1"}
        group = {"name": "kubeballoon.io", "versions": [version], "preferredVersion": version}
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
    if path == "/api/v1":
        return _resources("v1", {"namespaces": "Namespace"})
    return _resources(GROUP, KINDS) if path == f"/apis/{GROUP}" else None


def _resources(group: str, kinds: dict[str, str]) -> Object:
    resources = [
        {"name": name, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["get", "list"]}
        for name, kind in kinds.items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": resources}


def handler(served: FakeCollections) -> type[BaseHTTPRequestHandler]:
    """Make the handler of a cluster's requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            body = served.answer(parts.path, parse_qs(parts.query))
            self.send_response(200 if body is not None else 404)
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            body = (
                body.replace(STAMP.encode(), now.encode())
                if body is not None
                else b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not found","code":404}'
            )
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


def write_kubeconfig(path: Path, port: int) -> None:
    """Write a kubeconfig for the fake on this machine."""
    context = {"cluster": "fake", "user": "fake", "namespace": "team-00"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "fake", "user": {"token": "none"}}],
        "contexts": [{"name": "fake", "context": context}],
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted, or until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m hack.bench.fake_api_server", description=__doc__)
    parser.add_argument("kubeconfig", type=Path, help="where to write a kubeconfig for the fake")
    parser.add_argument("--nodes", type=int, default=51)
    parser.add_argument("--vms", type=int, default=1200, help="of all nodes together (default: %(default)s)")
    options = parser.parse_args(arguments)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(FakeCollections(options.nodes, options.vms / options.nodes)))
    write_kubeconfig(options.kubeconfig, server.server_address[1])
    print("serving", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
