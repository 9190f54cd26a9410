"""This module finds the node that a VM really runs on where two nodes' agents report it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, TypeVar

from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ApiError
from kubeballoon.cluster.reader import ApiReader

MOST_READ = 50  # VMs that are read: a migration shows one in two reports for a moment, a forged report could show all


class ReportedOnNode(Protocol):
    """A ReportedOnNode is a VM as the report of one node has it."""

    @property
    def namespace(self) -> str:
        """The VM's namespace."""

    @property
    def name(self) -> str:
        """The VM's name."""

    @property
    def node(self) -> str:
        """The name of the node whose agent reports the VM."""


V = TypeVar("V", bound=ReportedOnNode)


def without_false_reports(reader: ApiReader, vms: Iterable[V]) -> tuple[list[V], list[str]]:
    """Drop what other nodes than its own report of a VM that several nodes report.

    Where the VM cannot be read, and beyond MOST_READ such VMs, all that is reported of it stays.

    Returns:
        The VMs in their order, and a line for each report that was dropped.
    """
    reports = list(vms)
    nodes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for vm in reports:
        nodes[vm.namespace, vm.name].add(vm.node)
    several = sorted(key for key, found in nodes.items() if len(found) > 1)
    true = {key: node for key in several[:MOST_READ] if (node := _node_of(reader, *key)) in nodes[key]}
    kept = [vm for vm in reports if true.get((vm.namespace, vm.name), vm.node) == vm.node]
    false = (
        f"the agent of node {other} reports the VM {namespace}/{name}, which runs on node {node}"
        for (namespace, name), node in true.items()
        for other in sorted(nodes[namespace, name] - {node})
    )
    return kept, list(false)


def _node_of(reader: ApiReader, namespace: str, name: str) -> str | None:
    """Read which node a VM runs on; None if that cannot be read."""
    try:
        node = reader.get(paths.instance(namespace, name)).get("status", {}).get("nodeName")
    except ApiError:
        return None
    return node if isinstance(node, str) else None
