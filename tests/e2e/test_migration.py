"""VMs move between nodes while memory is reclaimed from them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.testbed.controlplane import ControlPlane
from tests.e2e.conftest import LEAST, SECONDS, created, reclaimed, whole
from tests.support.cluster import Object, get
from tests.support.kubevirt import BOOT_SECONDS, NAMESPACE, VM, begin_migration, migrate
from tests.support.waiting import until

pytestmark = pytest.mark.e2e_all


# KubeVirt migrates a VM without a CPU limit by eight threads, which pass any limit of bandwidth. The limit is what the
# node has, so that it slows nothing; the request is what KubeVirt would choose without a limit.
_ONE_THREAD = {"domain": {"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "100m"}}}}


@pytest.fixture(scope="module")
def vms(plane: ControlPlane) -> Iterator[tuple[VM, VM]]:
    """Two VMs of 2 GiB on one node of 4 GiB, whose migrations can be slowed."""
    made = (VM(plane, "calm", _ONE_THREAD), VM(plane, "busy", _ONE_THREAD))
    with created(*made):
        yield made


@pytest.fixture
def crawling(plane: ControlPlane) -> Iterator[None]:
    """Migrations take minutes: at a MiB a second, the least that KubeVirt asks for."""
    plane.apply(
        {
            "apiVersion": "migrations.kubevirt.io/v1alpha1",
            "kind": "MigrationPolicy",
            "metadata": {"name": "crawling"},
            "spec": {
                "bandwidthPerMigration": "1Mi",
                "selectors": {"namespaceSelector": {"kubernetes.io/metadata.name": NAMESPACE}},
            },
        }
    )
    yield
    plane.kubectl("delete", "migrationpolicy", "crawling")


@pytest.mark.usefixtures("crawling")
def test_a_migration_that_is_aborted_leaves_the_vm_where_it_was_and_its_balloon_moves_again(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    vm = squeezed[0]
    before = vm.node()
    migration = begin_migration(vm)
    until(lambda: vm.report().get("reason") == "Migrating", BOOT_SECONDS, vm.report)
    phase = "--output=jsonpath={.status.phase}"
    until(lambda: plane.kubectl("get", migration, phase, f"--namespace={NAMESPACE}") == "Running", BOOT_SECONDS)
    held = vm.actual()
    plane.kubectl("delete", "mempol", policy)
    until(lambda: whole(squeezed[1]), SECONDS, lambda: reclaimed(squeezed))
    assert vm.actual() == held < vm.memory
    plane.kubectl("delete", migration, f"--namespace={NAMESPACE}", seconds=SECONDS)
    until(lambda: whole(vm), SECONDS, vm.report)

    def ended() -> tuple[str, bool | None, str | None]:
        state = vm.instance()["status"]["migrationState"]
        return vm.node(), state.get("failed"), state.get("abortStatus")

    until(lambda: ended() == (before, True, "Succeeded"), SECONDS, ended)


def test_a_node_is_drained_and_its_vms_give_memory_on_the_other(plane: ControlPlane, squeezed: tuple[VM, VM]) -> None:
    before, instances = squeezed[0].node(), [vm.uid() for vm in squeezed]
    drain = ("drain", before, "--pod-selector=kubevirt.io=virt-launcher", "--delete-emptydir-data")
    try:
        plane.kubectl(*drain, f"--timeout={BOOT_SECONDS:g}s", seconds=BOOT_SECONDS + 10)
        until(lambda: before not in [vm.node() for vm in squeezed], BOOT_SECONDS)
        assert [vm.uid() for vm in squeezed] == instances
        until(lambda: reclaimed(squeezed) > LEAST, SECONDS, lambda: reclaimed(squeezed))
        until(lambda: [vm.report().get("reason") for vm in squeezed] == [None, None], SECONDS)

        def left() -> list[Object]:
            listed: list[Object] = get(plane, "nodepressure", before)["status"].get("virtualMachines", [])
            return listed

        until(lambda: left() == [], SECONDS, left)
    finally:
        plane.kubectl("uncordon", before)
    for vm in squeezed:
        migrate(vm)
    until(lambda: reclaimed(squeezed) > LEAST, SECONDS, lambda: reclaimed(squeezed))
