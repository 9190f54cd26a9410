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
from kubeballoon.cli.kind_words import VM_WORDS
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, BusyError, ForbiddenError, NotFoundError, Object
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.core.processors.model import ProcessorNode
from kubeballoon.governance.governing import Governance, govern
from kubeballoon.governance.loaded_policy import (
    LoadedMemoryPolicy,
    LoadedProcessorPolicy,
    load_memory_policy,
    load_processor_policy,
)
from kubeballoon.governance.reports import SILENT_AFTER
from kubeballoon.governance.translation import memory_node, processor_node

Kind = TypeVar("Kind", bound=Resource)


@dataclass(frozen=True, slots=True)
class ReportedVM:
    """A VM, and the node whose agent reports it."""

    pressure: NodePressure
    status: NodePressureStatus
    report: VirtualMachineReport


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The cluster as of ``now``."""

    policies: tuple[LoadedMemoryPolicy, ...]
    processor_policies: tuple[LoadedProcessorPolicy, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    nodes: tuple[NodePressure, ...]
    now: datetime

    @property
    def every_policy(self) -> tuple[Policy, ...]:
        """The policies of both kinds."""
        return *(each.resource for each in self.policies), *(each.resource for each in self.processor_policies)

    def governance(self, report: VirtualMachineReport) -> Governance[LoadedMemoryPolicy]:
        """Which policies select a VM's memory."""
        return govern(self.policies, report.labels, self.namespaces.get(report.namespace, {}))

    def processor_governance(self, report: VirtualMachineReport) -> Governance[LoadedProcessorPolicy]:
        """Which policies select a VM's processors."""
        return govern(self.processor_policies, report.labels, self.namespaces.get(report.namespace, {}))

    def reported(self) -> Iterator[tuple[NodePressure, NodePressureStatus]]:
        """The nodes whose agents have reported."""
        for pressure in self.nodes:
            if pressure.status is not None:
                yield pressure, pressure.status

    def places(self) -> Iterator[ReportedVM]:
        """Every VM that is reported."""
        for pressure, status in self.reported():
            for report in status.virtual_machines:
                yield ReportedVM(pressure, status, report)

    def core(self, pressure: NodePressure, status: NodePressureStatus) -> MemoryNode:
        """A node as the core sees it."""
        return memory_node(
            pressure.metadata.name,
            status,
            lambda report: self.governance(report).governing,
            released=pressure.metadata.released,
        )

    def processors(self, pressure: NodePressure, status: NodePressureStatus) -> ProcessorNode | None:
        """A node's processors as the core sees them; None where its agent does not report them.

        When a VM's number last changed is only the controller's to know, so no cool-down holds here.
        """
        return processor_node(
            pressure.metadata.name,
            status,
            lambda report: self.processor_governance(report).governing,
            released=pressure.metadata.released,
        )

    def age(self, status: NodePressureStatus) -> float:
        """Seconds since the agent looked and wrote."""
        return max(0.0, (self.now - status.observed_at).total_seconds())

    def silent(self, status: NodePressureStatus) -> bool:
        """Whether the agent is silent for so long that nothing is decided for its node."""
        return self.age(status) > SILENT_AFTER


async def read_cluster(cluster: ApiClient) -> ClusterView:
    """Read everything.

    Raises:
        ClusterError: that is not possible; in particular where kubeballoon is not installed.
    """
    policies, processor_policies, nodes, namespaces = await asyncio.gather(
        _all(cluster, MemoryPolicy), _all(cluster, ProcessorPolicy), nodes_of(cluster), cluster.get(paths.NAMESPACES)
    )
    labels = {item["metadata"]["name"]: item["metadata"].get("labels", {}) for item in namespaces["items"]}
    return ClusterView(
        tuple(map(load_memory_policy, policies)),
        tuple(map(load_processor_policy, processor_policies)),
        labels,
        nodes,
        datetime.now(UTC),
    )


async def nodes_of(cluster: ApiClient) -> tuple[NodePressure, ...]:
    """All NodePressures."""
    return await _all(cluster, NodePressure)


async def _all(cluster: ApiClient, kind: type[Kind]) -> tuple[Kind, ...]:
    return tuple(_read(kind, item) for item in await items(cluster, kind))


_TRIES = 5  # for a kind whose CRD has just been installed or upgraded
_PAUSE = 1.0  # seconds between them, as the API server asks for


async def items(cluster: ApiClient, kind: type[Resource]) -> list[Object]:
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
            raise ApiError(
                f"kubeballoon is not installed: the API server has no {kind.plural}.kubeballoon.io"
            ) from error
    return answer


def _read(kind: type[Kind], item: Object) -> Kind:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        name = item.get("metadata", {}).get("name")
        raise ApiError(f"{kind.__name__} {name} cannot be read: {fault(error)}") from error


def split(text: str, namespace: str) -> tuple[str, str]:
    """The namespace and name of a VM written NAME, vm/NAME or NAMESPACE/NAME."""
    before, slash, name = text.rpartition("/")
    return (before, name) if slash and before not in VM_WORDS else (namespace, name)


async def find_vm(cluster: ApiClient, sight: ClusterView, namespace: str, name: str) -> ReportedVM:
    """A VM by its name.

    Raises:
        ClusterError: no agent reports it; the text says why, and what may have been meant.
    """
    for place in sight.places():
        if (place.report.namespace, place.report.name) == (namespace, name):
            return place
    raise ApiError(await _absent(cluster, sight, namespace, name))


async def _absent(cluster: ApiClient, sight: ClusterView, namespace: str, name: str) -> str:
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
