"""This module says why VMs must not be migrated, and why Nodes cannot be their targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, assert_never

from kubeballoon.api.names import EXCLUDE, HOSTNAME_LABEL, KUBEVIRT_SCHEDULABLE_LABEL, NODE_NAME_LABEL
from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.vocabulary import Migratability


def migration_hindrances(reports: Iterable[VirtualMachineReport]) -> dict[str, str]:
    """Say by their node's reports why VMs must not be migrated, by uid; those that may be are left out."""
    found = ((report.uid, _hindrance(report)) for report in reports)
    return {uid: why for uid, why in found if why is not None}


def _hindrance(report: VirtualMachineReport) -> str | None:
    if report.owner_excluded:
        return "its owner excluded it"
    match report.migratability:
        case Migratability.MIGRATABLE:
            return None
        case Migratability.NOT_MIGRATABLE:
            return "KubeVirt cannot migrate it"
        case Migratability.EXTERNAL:
            return "its evictionStrategy leaves that to another program"
        case None:
            return "its node's agent does not say whether it may be migrated"
    assert_never(report.migratability)


def vm_hindrance(vmi: Mapping[str, Any], uid: str, node: str) -> str | None:
    """Say why a VM must not be migrated from a node, by its VMI's metadata; None if it may be.

    Args:
        vmi: the metadata of the VMI that has the VM's name.
        uid: the uid of the VM that is meant.
        node: the node whose agent reports that it runs the VM.
    """
    metadata = vmi["metadata"]
    on_node = (metadata.get("labels") or {}).get(NODE_NAME_LABEL) == node
    if metadata["uid"] != uid or not on_node:
        return f"{node} does not run it, although its agent reports it"
    excluded = (metadata.get("annotations") or {}).get(EXCLUDE) == "true"
    return "its owner excluded it" if excluded else None


def target_hindrance(node: Mapping[str, Any]) -> str | None:
    """Say why no VM can be migrated to a Node; None if one can, as far as the Node tells."""
    labels = node["metadata"].get("labels") or {}
    if node.get("spec", {}).get("unschedulable"):
        return "it is cordoned"
    if labels.get(KUBEVIRT_SCHEDULABLE_LABEL) != "true":
        return "KubeVirt places no VMs there"
    return None if labels.get(HOSTNAME_LABEL) else f"it has no label {HOSTNAME_LABEL}"
