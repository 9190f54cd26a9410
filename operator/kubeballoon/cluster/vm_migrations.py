"""This module reads, makes and cancels KubeVirt's migrations of VMs, and reads whether a Node can be their target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from kubeballoon.api.names import (
    EXCLUDE,
    HOSTNAME_LABEL,
    KUBEVIRT_SCHEDULABLE_LABEL,
    MEMORY_TARGET,
    MIGRATION_CANCELLED,
    MIGRATION_TARGET,
    NODE_NAME_LABEL,
    REASON,
)
from kubeballoon.api.quantity import format_quantity, parse_quantity
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
        name: its own name, in the VM's namespace.
        uid, version: its uid and resourceVersion.
        source: the node that the VM leaves; None while KubeVirt does not say.
        strayed: whether kubeballoon made it to another node than the VM goes to.
        memory: what kubeballoon has the VM use on its new node, bytes; None if all, or if somebody else made it.
        ending: whether it is being deleted, by which KubeVirt cancels it.
    """

    vm: str
    begun_at: datetime
    ended: bool
    failed: bool
    target: str | None
    ours: bool
    name: str = ""
    uid: str = ""
    version: str = ""
    source: str | None = None
    strayed: bool = False
    memory: int | None = None
    ending: bool = False


def read_migration(item: Object) -> VMMigration | None:
    """Read a VirtualMachineInstanceMigration; None if it is not as KubeVirt writes it."""
    try:
        metadata, status = item["metadata"], item.get("status") or {}
        annotations, state = metadata.get("annotations") or {}, status.get("migrationState") or {}
        chosen, goes_to = annotations.get(MIGRATION_TARGET), state.get("targetNode")
        phase = status.get("phase")
        return VMMigration(
            vm=f"{metadata['namespace']}/{item['spec']['vmiName']}",
            begun_at=datetime.fromisoformat(metadata["creationTimestamp"]),
            ended=phase in _ENDED,
            failed=phase == _FAILED,
            target=goes_to or chosen,
            ours=chosen is not None,
            name=metadata.get("name", ""),
            uid=metadata.get("uid", ""),
            version=metadata.get("resourceVersion", ""),
            source=state.get("sourceNode"),
            strayed=bool(chosen and goes_to and goes_to != chosen),
            memory=None if chosen is None else _read_memory(annotations),
            ending="deletionTimestamp" in metadata,
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return None


def _read_memory(annotations: Object) -> int | None:
    """Read what a migration has its VM use on its new node, bytes; None if that is not said, or cannot be read."""
    try:
        return parse_quantity(annotations[MEMORY_TARGET])
    except (LookupError, ValueError):
        return None


class MigrationWatch(Reflector):
    """A MigrationWatch knows the cluster's migrations that KubeVirt keeps: it deletes old ones."""

    def __init__(self, cluster: ApiClient) -> None:
        """Watch all migrations of ``cluster``."""
        super().__init__(cluster, paths.MIGRATIONS)

    def _kept(self, item: Object) -> Object:
        metadata, status = item["metadata"], item.get("status") or {}
        kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "annotations")
        state = status.get("migrationState") or {}
        return {
            "metadata": {key: metadata[key] for key in kept if key in metadata},
            "spec": {"vmiName": (item.get("spec") or {}).get("vmiName")},
            "status": {
                "phase": status.get("phase"),
                "migrationState": {key: state[key] for key in ("sourceNode", "targetNode") if key in state},
            },
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


def last_cancelled(vmi: Object) -> datetime | None:
    """Read when kubeballoon last cancelled a migration of a VM, by its VMI's metadata; None if that says nothing."""
    written = (vmi["metadata"].get("annotations") or {}).get(MIGRATION_CANCELLED)
    try:
        moment = datetime.fromisoformat(str(written))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def why_no_target(node: Object) -> str | None:
    """Say why no VM can be migrated to a Node; None if one can, as far as the Node tells."""
    labels = node["metadata"].get("labels") or {}
    if node.get("spec", {}).get("unschedulable"):
        return "it is cordoned"
    if labels.get(KUBEVIRT_SCHEDULABLE_LABEL) != "true":
        return "KubeVirt places no VMs there"
    return None if labels.get(HOSTNAME_LABEL) else f"it has no label {HOSTNAME_LABEL}"


@dataclass(frozen=True, slots=True)
class MigrationLimits:
    """MigrationLimits are KubeVirt's own; the defaults are KubeVirt's.

    Attributes:
        in_cluster: how many migrations run in the cluster at one time.
        from_node: how many of them leave one node.
    """

    in_cluster: int = 5
    from_node: int = 2


def read_limits(kubevirts: Iterable[Object]) -> MigrationLimits:
    """Read the limits from KubeVirt's own object; what it does not say, or says without sense, is as by default."""
    for kubevirt in kubevirts:
        configuration = (kubevirt.get("spec") or {}).get("configuration") or {}
        migrations = configuration.get("migrations") or {}
        in_cluster, from_node = (
            migrations.get(key) for key in ("parallelMigrationsPerCluster", "parallelOutboundMigrationsPerNode")
        )
        default = MigrationLimits()
        return MigrationLimits(
            in_cluster if isinstance(in_cluster, int) and in_cluster > 0 else default.in_cluster,
            from_node if isinstance(from_node, int) and from_node > 0 else default.from_node,
        )
    return MigrationLimits()


async def cancel_migration(cluster: ApiClient, migration: VMMigration) -> None:
    """Have KubeVirt cancel a migration, which it does when the migration is deleted.

    Raises:
        ApiError: the API server refuses that, or cannot be reached; or the migration has changed since it was read.
    """
    namespace, _ = migration.vm.split("/", 1)
    await cluster.delete(paths.migration(namespace, migration.name), migration.uid, migration.version)


async def create_migration(
    cluster: ApiClient, vm: str, target: Object, reason: str, memory: int | None = None
) -> Object:
    """Have KubeVirt migrate a VM to a Node, and to no other.

    Args:
        cluster: the API server.
        vm: the VM's namespace and name.
        target: the Node, which ``why_no_target`` has nothing against.
        reason: why, in a sentence.
        memory: what the VM may use there, bytes; None if all of its memory.

    Returns:
        The migration.

    Raises:
        ApiError: the API server refuses it, or cannot be reached. A KubeVirt that knows no targets refuses the field
            ``addedNodeSelector``.
    """
    namespace, name = vm.split("/", 1)
    metadata = target["metadata"]
    annotations = {MIGRATION_TARGET: metadata["name"], REASON: reason}
    if memory is not None:
        annotations[MEMORY_TARGET] = format_quantity(memory)
    body = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {
            "generateName": "kubeballoon-",
            "namespace": namespace,
            "annotations": annotations,
        },
        "spec": {"vmiName": name, "addedNodeSelector": {HOSTNAME_LABEL: metadata["labels"][HOSTNAME_LABEL]}},
    }
    # Strictly: the field would else be dropped where it is not known, and the VM could go anywhere.
    return await cluster.create(paths.migrations(namespace), body, strict=True)
