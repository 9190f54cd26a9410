"""KubeVirt's migrations: how they are made on the real API server, and read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, NotFoundError, Object
from kubeballoon.cluster.vm_migrations import (
    KubeVirtMigration,
    MigrationLimits,
    cancel_migration,
    create_migration,
    read_limits,
    read_migration,
)
from tests.support.cluster import migration_rights

TODAY = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = {"kubernetes.io/hostname": "b.example.com", "kubevirt.io/schedulable": "true"}
TARGET: Object = {"metadata": {"name": "b", "labels": LABELS}, "spec": {}}


def migration(phase: str | None = None, **metadata: Any) -> Object:
    head = {"namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    return {"metadata": head, "spec": {"vmiName": "vm"}, "status": {} if phase is None else {"phase": phase}}


@pytest.mark.parametrize(
    ("phase", "ended", "failed"),
    [(None, False, False), ("Running", False, False), ("Succeeded", True, False), ("Failed", True, True)],
)
def test_a_migration_is_read_with_how_it_ended(phase: str | None, *, ended: bool, failed: bool) -> None:
    expected = KubeVirtMigration("shop/vm", TODAY, ended, failed, target=None, ours=False)
    assert read_migration(migration(phase)) == expected
    assert read_migration(migration(phase, deletionTimestamp="2026-01-01T00:00:09Z")) == replace(expected, ending=True)


def test_where_a_vm_goes_kubevirt_says_and_until_then_we_do() -> None:
    ours = migration(annotations={"kubeballoon.io/target-node": "b"})
    found = read_migration(ours)
    assert found is not None
    assert (found.target, found.ours) == ("b", True)
    ours["status"]["migrationState"] = {"targetNode": "c"}
    found = read_migration(ours)
    assert found is not None
    assert found.target == "c"


def test_whether_a_vm_goes_elsewhere_than_it_was_told_is_read_and_where_from() -> None:
    for told, strayed in (("c", False), ("b", True)):
        ours = migration("Running", annotations={"kubeballoon.io/target-node": told})
        ours["status"]["migrationState"] = {"sourceNode": "a", "targetNode": "c"}
        found = read_migration(ours)
        assert found is not None
        assert (found.source, found.target, found.strayed) == ("a", "c", strayed)
    del ours["metadata"]["annotations"]
    found = read_migration(ours)
    assert found is not None
    assert found.strayed is False, "nobody told it"


@pytest.mark.parametrize(("written", "memory"), [("3Gi", 3 << 30), ("lots", None), (None, None)])
def test_what_a_vm_is_to_use_on_its_new_node_is_read_of_our_own_migrations(
    written: str | None, memory: int | None
) -> None:
    said = {} if written is None else {"kubeballoon.io/memory-target": written}
    found = read_migration(migration(annotations={"kubeballoon.io/target-node": "b", **said}))
    assert found is not None
    assert found.memory == memory
    others = read_migration(migration(annotations=said))
    assert others is not None
    assert others.memory is None


@pytest.mark.parametrize(
    ("migrations", "limits"),
    [
        ({"parallelMigrationsPerCluster": 9, "parallelOutboundMigrationsPerNode": 4}, (9, 4)),
        ({"parallelMigrationsPerCluster": 1}, (1, 2)),
        ({"parallelMigrationsPerCluster": 0, "parallelOutboundMigrationsPerNode": "x"}, (5, 2)),
        (None, (5, 2)),
    ],
)
def test_kubevirt_s_limits_are_read_and_what_it_does_not_say_is_its_default(
    migrations: Object | None, limits: tuple[int, int]
) -> None:
    found = read_limits([{"spec": {"configuration": {"migrations": migrations}}}])
    assert (found.in_cluster, found.from_node) == limits
    assert read_limits([]) == read_limits([{}]) == MigrationLimits(5, 2)


@pytest.mark.parametrize("broken", [{}, {"metadata": {"namespace": "shop"}}, migration(creationTimestamp="yesterday")])
def test_what_is_no_migration_is_left_out(broken: Object) -> None:
    assert read_migration(broken) is None


@pytest.mark.cluster
async def test_a_migration_is_made_to_one_node_and_a_field_that_kubevirt_does_not_know_is_refused(
    installed: ControlPlane, namespace: str
) -> None:
    with migration_rights(installed, namespace) as kubeconfig:
        async with await ApiClient.connect("test", kubeconfig) as cluster:
            created = await create_migration(cluster, f"{namespace}/vm", TARGET, "because", 3 << 30)
            spec = {"vmiName": "vm", "addedNodeSelector": {"kubernetes.io/hostname": "b.example.com"}}
            assert created["spec"] == spec
            found = read_migration(created)
            assert found is not None
            assert (found.vm, found.target, found.ended, found.ours) == (f"{namespace}/vm", "b", False, True)
            assert found.memory == 3 << 30
            await cancel_migration(cluster, found)
            with pytest.raises(NotFoundError):
                await cancel_migration(cluster, found)
            unknown = {**created, "metadata": {"generateName": "x-"}, "spec": {"vmiName": "vm", "fromTomorrow": {}}}
            with pytest.raises(ApiError, match="fromTomorrow"):
                await cluster.create(paths.migrations(namespace), unknown, strict=True)
