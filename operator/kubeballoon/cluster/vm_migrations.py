"""This module reads and creates KubeVirt's migrations of VMs, and reads whether a Node can be the target of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from kubeballoon.api.names import (
    EXCLUDE,
    HOSTNAME_LABEL,
    KUBEVIRT_SCHEDULABLE_LABEL,
    MIGRATION_TARGET,
    NODE_NAME_LABEL,
    REASON,
)
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, Object
from kubeballoon.cluster.reflector import Reflector

_FAILED = "Failed"
_ENDED = ("Succeeded", _FAILED)  # the phases in which KubeVirt leaves a migration


@dataclass(frozen=True, slots=True)
class VMMigration:
    """A VMMigration is one of KubeVirt's migrations, whoever made it.

    Attributes:
        vm: the VM's namespace and name.
        begun_at: when it was created.
        ended: whether it has ended.
        failed: whether it ended without success.
        target: the node that the VM goes to; None while that is not known.
        ours: whether kubeballoon made it.
    """

    vm: str
    begun_at: datetime
    ended: bool
    failed: bool
    target: str | None
    ours: bool


def read_migration(item: Object) -> VMMigration | None:
    """Read a VirtualMachineInstanceMigration; None if it is not as KubeVirt writes it."""
    try:
        metadata, status = item["metadata"], item.get("status") or {}
        target = (metadata.get("annotations") or {}).get(MIGRATION_TARGET)
        phase = status.get("phase")
        return VMMigration(
            vm=f"{metadata['namespace']}/{item['spec']['vmiName']}",
            begun_at=datetime.fromisoformat(metadata["creationTimestamp"]),
            ended=phase in _ENDED,
            failed=phase == _FAILED,
            target=(status.get("migrationState") or {}).get("targetNode") or target,
            ours=target is not None,
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


class MigrationWatch(Reflector):
    """A MigrationWatch knows the cluster's migrations that KubeVirt keeps: it deletes old ones."""

    def __init__(self, cluster: ApiClient) -> None:
        """Watch all migrations of ``cluster``."""
        super().__init__(cluster, paths.MIGRATIONS)

    def _kept(self, item: Object) -> Object:
        metadata, status = item["metadata"], item.get("status") or {}
        kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "annotations")
        state = status.get("migrationState") or {}
        return {
            "metadata": {key: metadata[key] for key in kept if key in metadata},
            "spec": {"vmiName": (item.get("spec") or {}).get("vmiName")},
            "status": {"phase": status.get("phase"), "migrationState": {"targetNode": state.get("targetNode")}},
        }

    def migrations(self) -> Iterator[VMMigration]:
        """Iterate over the migrations that can be read."""
        for item in self.objects():
            migration = read_migration(item)
            if migration is not None:
                yield migration

    def add(self, created: Object) -> None:
        """Take in a migration that was just created: the watch may deliver it after the next decision."""
        self._take(self._kept(created))


def why_not_moved(vmi: Object, uid: str, node: str) -> str | None:
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


def why_no_target(node: Object) -> str | None:
    """Say why no VM can be migrated to a Node; None if one can, as far as the Node tells."""
    labels = node["metadata"].get("labels") or {}
    if node.get("spec", {}).get("unschedulable"):
        return "it is cordoned"
    if labels.get(KUBEVIRT_SCHEDULABLE_LABEL) != "true":
        return "KubeVirt places no VMs there"
    return None if labels.get(HOSTNAME_LABEL) else f"it has no label {HOSTNAME_LABEL}"


async def create_migration(cluster: ApiClient, vm: str, target: Object, reason: str) -> Object:
    """Have KubeVirt migrate a VM to a Node, and to no other.

    Args:
        cluster: the API server.
        vm: the VM's namespace and name.
        target: the Node, which ``why_no_target`` has nothing against.
        reason: why, in a sentence.

    Returns:
        The migration.

    Raises:
        ApiError: the API server refuses it, or cannot be reached. A KubeVirt that knows no targets refuses the field
            ``addedNodeSelector``.
    """
    namespace, name = vm.split("/", 1)
    metadata = target["metadata"]
    body = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {
            "generateName": "kubeballoon-",
            "namespace": namespace,
            "annotations": {MIGRATION_TARGET: metadata["name"], REASON: reason},
        },
        "spec": {"vmiName": name, "addedNodeSelector": {HOSTNAME_LABEL: metadata["labels"][HOSTNAME_LABEL]}},
    }
    # Strictly: the field would else be dropped where it is not known, and the VM could go anywhere.
    return await cluster.create(paths.migrations(namespace), body, strict=True)
