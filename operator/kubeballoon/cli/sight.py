"""What the commands see of a cluster: policies, namespaces and reports, read once."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressure, NodePressureStatus, Resource, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import Cluster, ClusterError, ForbiddenError, NotFoundError, Object
from kubeballoon.cluster.snapshot import SILENT, Governance, Requested, core_node, govern
from kubeballoon.core.model import Node

Kind = TypeVar("Kind", bound=Resource)


@dataclass(frozen=True, slots=True)
class Place:
    """A VM, and the node whose agent reports it."""

    pressure: NodePressure
    status: NodePressureStatus
    report: VirtualMachineReport


@dataclass(frozen=True, slots=True)
class Sight:
    """The cluster as of ``now``."""

    policies: tuple[MemoryPolicy, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    nodes: tuple[NodePressure, ...]
    now: datetime

    def governance(self, report: VirtualMachineReport) -> Governance[MemoryPolicy]:
        """Which policies select a VM."""
        return govern(self.policies, report.labels, self.namespaces.get(report.namespace, {}))

    def reported(self) -> Iterator[tuple[NodePressure, NodePressureStatus]]:
        """The nodes whose agents have reported."""
        for pressure in self.nodes:
            if pressure.status is not None:
                yield pressure, pressure.status

    def places(self) -> Iterator[Place]:
        """Every VM that is reported."""
        for pressure, status in self.reported():
            for report in status.virtual_machines:
                yield Place(pressure, status, report)

    def core(self, pressure: NodePressure, status: NodePressureStatus) -> Node:
        """A node as the core sees it."""
        return core_node(
            pressure.metadata.name,
            status,
            lambda report: self.governance(report).governing,
            {report.uid: Requested(report.target) for report in status.virtual_machines},
            released=pressure.metadata.released,
        )

    def age(self, status: NodePressureStatus) -> float:
        """Seconds since the agent looked and wrote."""
        return max(0.0, (self.now - status.observed_at).total_seconds())

    def silent(self, status: NodePressureStatus) -> bool:
        """Whether the agent is silent for so long that nothing is decided for its node."""
        return self.age(status) > SILENT


async def look(cluster: Cluster) -> Sight:
    """Read everything.

    Raises:
        ClusterError: that is not possible; in particular where kubeballoon is not installed.
    """
    policies, nodes, namespaces = await asyncio.gather(
        policies_of(cluster), nodes_of(cluster), cluster.get(paths.NAMESPACES)
    )
    labels = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in namespaces["items"]}
    return Sight(tuple(policies), labels, tuple(nodes), datetime.now(UTC))


async def policies_of(cluster: Cluster) -> list[MemoryPolicy]:
    """All MemoryPolicies."""
    return [_read(MemoryPolicy, item) for item in await items(cluster, MemoryPolicy)]


async def nodes_of(cluster: Cluster) -> list[NodePressure]:
    """All NodePressures."""
    return [_read(NodePressure, item) for item in await items(cluster, NodePressure)]


async def items(cluster: Cluster, kind: type[Resource]) -> list[Object]:
    """All objects of a kind of ours."""
    try:
        answer: list[Object] = (await cluster.get(paths.ours(kind.plural)))["items"]
    except NotFoundError as error:
        raise ClusterError(
            f"kubeballoon is not installed: the API server has no {kind.plural}.kubeballoon.io"
        ) from error
    return answer


def _read(kind: type[Kind], item: Object) -> Kind:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        name = item.get("metadata", {}).get("name")
        raise ClusterError(f"{kind.__name__} {name} cannot be read: {where}: {first['msg']}") from error


def split(text: str, namespace: str) -> tuple[str, str]:
    """The namespace and name of a VM written NAME, vm/NAME or NAMESPACE/NAME."""
    before, slash, name = text.rpartition("/")
    return (before, name) if slash and before not in _VM_WORDS else (namespace, name)


_VM_WORDS = ("vm", "vms", "vmi", "vmis", "virtualmachine", "virtualmachineinstance")


async def find(cluster: Cluster, sight: Sight, namespace: str, name: str) -> Place:
    """A VM by its name.

    Raises:
        ClusterError: no agent reports it; the text says why, and what may have been meant.
    """
    for place in sight.places():
        if (place.report.namespace, place.report.name) == (namespace, name):
            return place
    raise ClusterError(await _absent(cluster, sight, namespace, name))


async def _absent(cluster: Cluster, sight: Sight, namespace: str, name: str) -> str:
    try:
        status = (await cluster.get(paths.instance(namespace, name))).get("status", {})
    except (NotFoundError, ForbiddenError):
        known = [f"{place.report.namespace}/{place.report.name}" for place in sight.places()]
        return f"no VM {namespace}/{name} runs on a node with an agent{_meant(f'{namespace}/{name}', known)}"
    node = status.get("nodeName")
    if node is None:
        return f"the VM {namespace}/{name} runs nowhere yet (phase {status.get('phase', 'unknown')})"
    return f"the VM {namespace}/{name} runs on node {node}, whose agent does not report it: does an agent run there?"


def _meant(wanted: str, known: Sequence[str]) -> str:
    """Near misses: the same name elsewhere, or one that looks alike."""
    name = wanted.split("/")[1]
    by_name = {each.split("/")[1]: each for each in known}
    same = [each for each in known if each.split("/")[1] == name]
    near = same or [by_name[each] for each in difflib.get_close_matches(name, by_name, n=3)]
    return f"; did you mean {' or '.join(near)}?" if near else ""
