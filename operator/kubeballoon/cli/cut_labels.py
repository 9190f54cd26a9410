"""This module reads labels of VMs that their nodes' reports leave out, where new policies select by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from kubeballoon.api.v1alpha1 import NodePressure, Policy, VirtualMachineReport
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.output import warn
from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ApiError, NotFoundError
from kubeballoon.cluster.reader import ApiReader


def complete_labels(reader: ApiReader, view: ClusterView, policies: Iterable[Policy]) -> ClusterView:
    """Complete the labels that policies select by, and that reports leave out because their VMs have too many.

    A VM that cannot be read keeps the labels that were reported, and is named in a warning.
    """
    keys = {key for policy in policies for key in policy.spec.selector.virtual_machine_selector.keys}

    def read(vm: VirtualMachineReport) -> Mapping[str, str] | None:
        try:
            found = reader.get(paths.instance(vm.namespace, vm.name))
        except NotFoundError:
            return None
        except ApiError as error:
            warn(f"warning: not all labels of VM {vm.namespace}/{vm.name} are reported, and it cannot be read: {error}")
            return None
        labels: Mapping[str, str] = found["metadata"].get("labels", {})
        return (
            {key: value for key, value in labels.items() if key in keys} if found["metadata"]["uid"] == vm.uid else None
        )

    cut = [each.report for each in view.reported_vms() if each.report.labels_cut and keys - each.report.labels.keys()]
    labels = dict(zip([vm.uid for vm in cut], map(read, cut), strict=True))
    return replace(view, nodes=tuple(_with_labels(node, labels) for node in view.nodes)) if cut else view


def _with_labels(node: NodePressure, labels: Mapping[str, Mapping[str, str] | None]) -> NodePressure:
    """Add labels to the VMs of a node's report; ``labels`` has them by the VMs' uids."""
    if node.status is None:
        return node
    vms = [
        vm.model_copy(update={"labels": {**vm.labels, **(labels.get(vm.uid) or {})}})
        for vm in node.status.virtual_machines
    ]
    return node.model_copy(update={"status": node.status.model_copy(update={"virtual_machines": vms})})
