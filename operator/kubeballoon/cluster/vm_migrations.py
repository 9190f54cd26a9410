"""This module reads, makes and cancels KubeVirt's migrations of VMs, and reads when kubeballoon last cancelled one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from kubeballoon.api.names import (
    HOSTNAME_LABEL,
    MEMORY_TARGET,
    MIGRATION_CANCELLED,
    MIGRATION_TARGET,
    REASON,
)
from kubeballoon.api.quantity import format_quantity, parse_quantity
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, Object
from kubeballoon.cluster.reflector import Reflector

_FAILED = "Failed"
_ENDED = ("Succeeded", _FAILED)  # the phases in which KubeVirt leaves a migration


@dataclass(frozen=True, slots=True)
class KubeVirtMigration:
    """A KubeVirtMigration is one of KubeVirt's migrations, whoever made it.

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


def read_migration(item: Object) -> KubeVirtMigration | None:
    """Read a VirtualMachineInstanceMigration; None if it is not as KubeVirt writes it."""
    try:
        metadata, status = item["metadata"], item.get("status") or {}
        annotations, state = metadata.get("annotations") or {}, status.get("migrationState") or {}
        chosen, goes_to = annotations.get(MIGRATION_TARGET), state.get("targetNode")
        phase = status.get("phase")
        return KubeVirtMigration(
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

    def migrations(self) -> Iterator[KubeVirtMigration]:
        """Iterate over the migrations that can be read."""
        for item in self.objects():
            migration = read_migration(item)
            if migration is not None:
                yield migration

    def add(self, created: Object) -> None:
        """Take in a migration that was just created: the watch may deliver it after the next decision."""
        self._take(self._kept(created))


def last_cancelled(vmi: Object) -> datetime | None:
    """Read when kubeballoon last cancelled a migration of a VM, by its VMI's metadata; None if that says nothing."""
    written = (vmi["metadata"].get("annotations") or {}).get(MIGRATION_CANCELLED)
    try:
        moment = datetime.fromisoformat(str(written))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


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


async def cancel_migration(cluster: ApiClient, migration: KubeVirtMigration) -> None:
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
        target: the Node, which ``target_hindrance`` has nothing against.
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
