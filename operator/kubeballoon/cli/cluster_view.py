"""This module reads the cluster once for a command: the policies, namespaces and agents' reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from kubeballoon.api.meta import fault
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    NodePolicy,
    NodePressure,
    NodePressureStatus,
    Policy,
    ProcessorPolicy,
    Resource,
    VirtualMachineReport,
)
from kubeballoon.cli.output import warn
from kubeballoon.cli.resource_aliases import VM_ALIASES
from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ApiError, ForbiddenError, NotFoundError, Object
from kubeballoon.cluster.heartbeat import SELECTOR, heartbeat_dates
from kubeballoon.cluster.reader import ApiReader
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.core.migration import MigrationNode, migration_node
from kubeballoon.core.processors.model import ProcessorNode
from kubeballoon.governance.core_inputs import memory_node, processor_node
from kubeballoon.governance.loaded_policy import (
    LoadedMemoryPolicy,
    LoadedProcessorPolicy,
    load_memory_policy,
    load_processor_policy,
)
from kubeballoon.governance.migration_hindrance import migration_hindrances
from kubeballoon.governance.node_policies import LoadedNodePolicy, load_node_policy
from kubeballoon.governance.policy_selection import Governance, govern
from kubeballoon.governance.report_bounds import SILENT_AFTER, as_last_held, clamp_memory, lease_namespaces

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True, slots=True)
class ReportedVM:
    """A ReportedVM is one VM in the report of its node's agent.

    Attributes:
        node: the object that holds the report.
        node_status: the report.
        report: what the report says of the VM.
    """

    node: NodePressure
    node_status: NodePressureStatus
    report: VirtualMachineReport

    @property
    def full_name(self) -> str:
        """The VM's name with its namespace, as NAMESPACE/NAME."""
        return f"{self.report.namespace}/{self.report.name}"


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A ClusterView is what was read of a cluster at the time ``now``.

    Attributes:
        namespace_labels: the labels of each namespace, by its name.
        nodes: the NodePressures, also those whose agents have not reported yet.
        node_policies: the NodePolicies, where they were read.
    """

    memory_policies: tuple[LoadedMemoryPolicy, ...]
    processor_policies: tuple[LoadedProcessorPolicy, ...]
    namespace_labels: Mapping[str, Mapping[str, str]]
    nodes: tuple[NodePressure, ...]
    now: datetime
    node_policies: tuple[LoadedNodePolicy, ...] = ()

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The cluster's policies for VMs, of both kinds."""
        return *(each.resource for each in self.memory_policies), *(each.resource for each in self.processor_policies)

    def memory_governance(self, report: VirtualMachineReport) -> Governance[LoadedMemoryPolicy]:
        """Find the MemoryPolicies that select a VM."""
        return govern(self.memory_policies, report.labels, self.namespace_labels.get(report.namespace, {}))

    def processor_governance(self, report: VirtualMachineReport) -> Governance[LoadedProcessorPolicy]:
        """Find the ProcessorPolicies that select a VM."""
        return govern(self.processor_policies, report.labels, self.namespace_labels.get(report.namespace, {}))

    def reporting_nodes(self) -> Iterator[tuple[NodePressure, NodePressureStatus]]:
        """Iterate over the nodes whose agents have reported, each with the report."""
        for node in self.nodes:
            if node.status is not None:
                yield node, node.status

    def reported_vms(self) -> Iterator[ReportedVM]:
        """Iterate over the VMs of all reports."""
        for node, status in self.reporting_nodes():
            for report in status.virtual_machines:
                yield ReportedVM(node, status, report)

    def memory_node(self, node: NodePressure, status: NodePressureStatus) -> MemoryNode:
        """Translate a node's memory for the core."""
        return memory_node(
            node.metadata.name,
            status,
            lambda report: self.memory_governance(report).governing,
            released=node.metadata.released,
        )

    def migration_node(self, node: NodePressure, status: NodePressureStatus) -> MigrationNode:
        """Translate a node for the choice of migrations, as it is once it has made room for VMs."""
        hindrances, memory = migration_hindrances(status.virtual_machines), self.memory_node(node, status)
        allocatable = None if status.limits is None else clamp_memory(status.limits.capacity)
        accepts = not node.metadata.released
        described = migration_node(memory, hindrances=hindrances, accepts=accepts, allocatable=allocatable)
        return replace(described, spare=memory.spare).with_room_made()

    def processor_node(self, node: NodePressure, status: NodePressureStatus) -> ProcessorNode | None:
        """Translate a node's processors for the core; None if its agent does not report them.

        Only the controller knows when a VM's number of processors last changed, so no cool-down applies here.
        """
        return processor_node(
            node.metadata.name,
            status,
            lambda report: self.processor_governance(report).governing,
            released=node.metadata.released,
        )

    def report_age(self, status: NodePressureStatus) -> float:
        """Compute the age of a node's report, seconds."""
        return max(0.0, (self.now - status.observed_at).total_seconds())

    def is_silent(self, status: NodePressureStatus) -> bool:
        """Whether a node's report is so old that the controller decides nothing for the node."""
        return self.report_age(status) > SILENT_AFTER


def read_cluster(reader: ApiReader, new: Iterable[Policy] = ()) -> ClusterView:
    """Read the policies, the agents' reports and the namespaces' labels.

    Args:
        reader: reads the cluster.
        new: policies that are not in the cluster, and whose selectors need labels too.

    Raises:
        ApiError: the API server cannot be reached or refuses, kubeballoon is not installed, or an object is invalid.
    """
    policies = read_policies(reader, new)
    return replace(policies, nodes=tuple(read_nodes(reader)))


def read_policies(reader: ApiReader, new: Iterable[Policy] = ()) -> ClusterView:
    """Read the policies and the namespaces' labels, all that a view has besides the agents' reports.

    Namespaces are read only where a policy selects by their labels. The arguments are those of ``read_cluster``.

    Raises:
        ApiError: as for ``read_cluster``.
    """
    memory_policies = tuple(map(load_memory_policy, _read_all(reader, MemoryPolicy)))
    processor_policies = tuple(map(load_processor_policy, _read_all(reader, ProcessorPolicy)))
    present = ClusterView(memory_policies, processor_policies, {}, (), datetime.now(UTC))
    policies = (*present.policies, *new)
    by_namespace = any(not policy.spec.selector.any_namespace for policy in policies)
    namespaces = reader.metadata(paths.NAMESPACES) if by_namespace else []
    labels = {each["name"]: each.get("labels", {}) for each in namespaces}
    return replace(present, namespace_labels=labels)


def read_node_policies(reader: ApiReader) -> tuple[LoadedNodePolicy, ...]:
    """Read the NodePolicies; none where the installation, or the user's role, is older than they are.

    Raises:
        ApiError: the API server cannot be reached, or an object is invalid.
    """
    try:
        items = list(reader.items(paths.NODE_POLICIES))
    except NotFoundError:
        return ()
    except ForbiddenError as error:
        warn(f"warning: without NodePolicies: {error}")
        return ()
    return tuple(load_node_policy(_validate(NodePolicy, item)) for item in items)


def read_nodes(reader: ApiReader) -> Iterator[NodePressure]:
    """Read the NodePressures, a page at a time, each dated by when its report last held.

    One that cannot be read costs its own node only, and a warning.

    Raises:
        ApiError: the API server cannot be reached or refuses, or kubeballoon is not installed.
    """
    heartbeats: dict[str, Mapping[str, datetime]] = {}  # by the namespace of the Leases
    for item in list_objects(reader, NodePressure):
        try:
            yield _as_last_held(reader, _validate(NodePressure, item), heartbeats)
        except ApiError as error:
            warn(f"warning: {error}")


def _as_last_held(reader: ApiReader, node: NodePressure, known: dict[str, Mapping[str, datetime]]) -> NodePressure:
    """Date a node's report by when it last held; the Leases of a namespace are read once, and kept in ``known``."""
    namespaces = lease_namespaces([node])
    for namespace in namespaces - known.keys():
        try:
            known[namespace] = heartbeat_dates(reader.items(paths.leases(namespace), page=500, labelSelector=SELECTOR))
        except ForbiddenError as error:
            warn(f"warning: agents may seem to be silent: {error}")
            known[namespace] = {}
    # A forged report names any namespace: the Leases there must not speak for other nodes.
    return as_last_held(node, {name: date for each in namespaces for name, date in known[each].items()})


def read_node(reader: ApiReader, name: str) -> NodePressure:
    """Read one node's NodePressure; from the list of all where the user may list them only.

    Raises:
        ApiError: no agent reports such a node, or the report cannot be read.
    """
    try:
        return _validate(NodePressure, reader.get(paths.node_pressure(name)))
    except NotFoundError as error:
        raise ApiError(f"no agent reports a node {name}") from error
    except ForbiddenError:
        for node in read_nodes(reader):
            if node.metadata.name == name:
                return node
        raise ApiError(f"no agent reports a node {name}") from None


def _read_all(reader: ApiReader, kind: type[R]) -> Iterator[R]:
    return (_validate(kind, item) for item in list_objects(reader, kind))


def list_objects(reader: ApiReader, kind: type[Resource]) -> Iterator[Object]:
    """List the objects of one of kubeballoon's kinds, as JSON, a page at a time.

    Raises:
        ApiError: the API server cannot be reached or refuses, or kubeballoon is not installed.
    """
    try:
        yield from reader.items(paths.ours(kind.plural))
    except NotFoundError as error:
        raise ApiError(f"kubeballoon is not installed: the API server has no {kind.plural}.kubeballoon.io") from error


def _validate(kind: type[R], item: Object) -> R:
    try:
        return kind.model_validate(item)
    except ValidationError as error:
        name = item.get("metadata", {}).get("name")
        raise ApiError(f"{kind.__name__} {name} cannot be read: {fault(error)}") from error


def parse_vm_name(text: str, namespace: str) -> tuple[str, str]:
    """Split NAME, vm/NAME or NAMESPACE/NAME into namespace and name; ``namespace`` is the one of the first two."""
    before_slash, slash, name = text.rpartition("/")
    return (before_slash, name) if slash and before_slash not in VM_ALIASES else (namespace, name)


def find_vm(reader: ApiReader, view: ClusterView, namespace: str, name: str) -> ReportedVM:
    """Find a VM in the agents' reports.

    Raises:
        ApiError: no agent reports such a VM; the message says why, or suggests VMs with similar names.
    """
    for vm in view.reported_vms():
        if (vm.report.namespace, vm.report.name) == (namespace, name):
            return vm
    raise ApiError(_explain_missing_vm(reader, view, namespace, name))


def _explain_missing_vm(reader: ApiReader, view: ClusterView, namespace: str, name: str) -> str:
    """Say why no agent reports a VM: it does not exist, does not run, or runs on a node without an agent."""
    full_name = f"{namespace}/{name}"
    try:
        status = reader.get(paths.instance(namespace, name)).get("status", {})
    except (NotFoundError, ForbiddenError):
        reported = [vm.full_name for vm in view.reported_vms()]
        return f"no VM {full_name} runs on a node with an agent{_suggest_names(full_name, reported)}"
    node = status.get("nodeName")
    if node is None:
        return f"the VM {full_name} runs nowhere yet (phase {status.get('phase', 'unknown')})"
    return f"the VM {full_name} runs on node {node}, whose agent does not report it: does an agent run there?"


def _suggest_names(full_name: str, reported: Sequence[str]) -> str:
    """Suggest the VMs of the same name in other namespaces, or else VMs whose names look alike."""
    import difflib  # noqa: PLC0415 - only for a name that is not found

    name = full_name.split("/")[1]
    by_name = {each.split("/")[1]: each for each in reported}
    namesakes = [each for each in reported if each.split("/")[1] == name]
    suggestions = namesakes or [by_name[each] for each in difflib.get_close_matches(name, by_name, n=3)]
    return f"; did you mean {' or '.join(suggestions)}?" if suggestions else ""
