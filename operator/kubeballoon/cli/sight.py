"""What the commands see of a cluster: policies, namespaces and reports, read once."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from kubeballoon.api.meta import fault
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    NodePressure,
    NodePressureStatus,
    Policy,
    ProcessorPolicy,
    Resource,
    VirtualMachineReport,
)
from kubeballoon.cli.words import VM_WORDS
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import BusyError, Cluster, ClusterError, ForbiddenError, NotFoundError, Object
from kubeballoon.cluster.snapshot import SILENT, Governance, Requested, core_node, core_processor_node, govern
from kubeballoon.core.model import Node
from kubeballoon.core.processors import Node as ProcessorNode

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
    processor_policies: tuple[ProcessorPolicy, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    nodes: tuple[NodePressure, ...]
    now: datetime

    @property
    def every_policy(self) -> tuple[Policy, ...]:
        """The policies of both kinds."""
        return *self.policies, *self.processor_policies

    def governance(self, report: VirtualMachineReport) -> Governance[MemoryPolicy]:
        """Which policies select a VM's memory."""
        return govern(self.policies, report.labels, self.namespaces.get(report.namespace, {}))

    def processor_governance(self, report: VirtualMachineReport) -> Governance[ProcessorPolicy]:
        """Which policies select a VM's processors."""
        return govern(self.processor_policies, report.labels, self.namespaces.get(report.namespace, {}))

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

    def processors(self, pressure: NodePressure, status: NodePressureStatus) -> ProcessorNode | None:
        """A node's processors as the core sees them; None where its agent does not report them.

        When a VM's number last changed is only the controller's to know, so no cool-down holds here.
        """
        return core_processor_node(
            pressure.metadata.name,
            status,
            lambda report: self.processor_governance(report).governing,
            {
                report.uid: Requested(None if report.processors is None else report.processors.target)
                for report in status.virtual_machines
            },
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
    policies, processor_policies, nodes, namespaces = await asyncio.gather(
        _all(cluster, MemoryPolicy), _all(cluster, ProcessorPolicy), nodes_of(cluster), cluster.get(paths.NAMESPACES)
    )
    labels = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in namespaces["items"]}
    return Sight(policies, processor_policies, labels, nodes, datetime.now(UTC))


async def nodes_of(cluster: Cluster) -> tuple[NodePressure, ...]:
    """All NodePressures."""
    return await _all(cluster, NodePressure)


async def _all(cluster: Cluster, kind: type[Kind]) -> tuple[Kind, ...]:
    return tuple(_read(kind, item) for item in await items(cluster, kind))


_TRIES = 5  # for a kind whose CRD has just been installed or upgraded
_PAUSE = 1.0  # seconds between them, as the API server asks for


async def items(cluster: Cluster, kind: type[Resource]) -> list[Object]:
    """All objects of a kind of ours."""
    for tries in range(1, _TRIES + 1):
        try:
            answer: list[Object] = (await cluster.get(paths.ours(kind.plural)))["items"]
            break
        except BusyError:
            if tries == _TRIES:
                raise
            await asyncio.sleep(_PAUSE)
        except NotFoundError as error:
            raise ClusterError(
                f"kubeballoon is not installed: the API server has no {kind.plural}.kubeballoon.io"
            ) from error
    return answer


def _read(kind: type[Kind], item: Object) -> Kind:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        name = item.get("metadata", {}).get("name")
        raise ClusterError(f"{kind.__name__} {name} cannot be read: {fault(error)}") from error


def split(text: str, namespace: str) -> tuple[str, str]:
    """The namespace and name of a VM written NAME, vm/NAME or NAMESPACE/NAME."""
    before, slash, name = text.rpartition("/")
    return (before, name) if slash and before not in VM_WORDS else (namespace, name)


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
