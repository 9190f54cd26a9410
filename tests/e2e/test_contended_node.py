"""A node whose VMs need more memory than it has: one live migration, which kubeballoon chose, mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.kubevirt import product
from kubeballoon.api.names import MIGRATION_TARGET
from tests.e2e.conftest import SECONDS, created
from tests.support.cluster import MIB, get, node_policy
from tests.support.kubevirt import BOOT_SECONDS, NAMESPACE, VM
from tests.support.waiting import throughout, until

pytestmark = pytest.mark.e2e_all

SHORT, OTHER = "node-1", "node-2"
"""The node that VMs prefer, as `VMS` has them, and the one that has room."""

_MIGRATIONS = "migrations.enabled=true"
_LOAD = 896 * MIB
# With its load a VM needs about 30 % of a node, and the rest of the node uses 10 %. Beside this reserve there is room
# for one of them, not for both; and far more is left than the lowest two thresholds.
_RESERVE = "40%"
_THRESHOLDS = {"ample": "45%", "tight": "40%", "scarce": "10%", "critical": "5%"}

_HARM = """
cat /proc/sys/kernel/random/boot_id
ls /load | wc -l
awk '$1 == "oom_kill" { print $2 }' /proc/vmstat
"""


@pytest.fixture(scope="module")
def vms(plane: ControlPlane) -> Iterator[tuple[VM, VM]]:
    """Two VMs on one node, each with a load; kubeballoon may migrate them meanwhile."""
    product.install(plane, _MIGRATIONS)
    made = (VM(plane, "loaded-a"), VM(plane, "loaded-b"))
    try:
        with created(*made):
            assert [vm.node() for vm in made] == [SHORT, SHORT]
            for vm in made:
                vm.fill(_LOAD)
            yield made
    finally:
        product.install(plane)


@pytest.fixture
def contended(plane: ControlPlane, vms: tuple[VM, VM], policy: str) -> Iterator[Callable[[str], tuple[VM, VM]]]:
    """A function that makes their node too small for both, and says what its NodePolicy does about that."""
    assert policy

    def contend(mode: str) -> tuple[VM, VM]:
        migration = {"mode": mode, "after": "10s"}
        plane.apply(node_policy("e2e", thresholds=_THRESHOLDS, reserve=_RESERVE, migration=migration))
        return vms

    yield contend
    plane.kubectl("delete", "nodepol", "e2e", "--ignore-not-found")


def state(plane: ControlPlane, node: str) -> str:
    """The state of a node, as its agent reports it."""
    return str(get(plane, "nodepressure", node)["status"]["state"])


def migrations(plane: ControlPlane) -> list[dict[str, Any]]:
    """KubeVirt's migrations of the tests' VMs, whoever made them."""
    return list(get(plane, "vmim", f"--namespace={NAMESPACE}")["items"])


def notes(plane: ControlPlane, reason: str, vms: tuple[VM, VM]) -> list[str]:
    """What events with a reason say about VMs."""
    events = get(plane, "events", f"--namespace={NAMESPACE}", f"--field-selector=reason={reason}")["items"]
    uids = [vm.uid() for vm in vms]
    return [event["message"] for event in events if event["involvedObject"]["uid"] in uids]


def test_observe_tells_which_vm_it_would_migrate_and_migrates_none(
    plane: ControlPlane, contended: Callable[[str], tuple[VM, VM]]
) -> None:
    vms = contended("Observe")
    until(lambda: notes(plane, "WouldMigrate", vms), SECONDS, lambda: get(plane, "nodepol", "e2e").get("status"))
    assert state(plane, SHORT) == "Tight"
    throughout(lambda: migrations(plane) == [], 10.0)
    assert [vm.node() for vm in vms] == [SHORT, SHORT]


def test_enforce_migrates_one_vm_after_which_both_nodes_are_ample_and_both_guests_as_before(
    plane: ControlPlane, contended: Callable[[str], tuple[VM, VM]]
) -> None:
    vms = contended("Observe")
    instances, guests = [vm.uid() for vm in vms], [vm.run(_HARM) for vm in vms]
    until(lambda: state(plane, SHORT) == "Tight", SECONDS, lambda: get(plane, "nodepressure", SHORT)["status"])
    contended("Enforce")

    until(lambda: sorted(vm.node() for vm in vms) == [SHORT, OTHER], BOOT_SECONDS, lambda: migrations(plane))
    ample = ["Ample", "Ample"]
    nodes = (SHORT, OTHER)
    until(lambda: [state(plane, node) for node in nodes] == ample, SECONDS, lambda: get(plane, "nodepressure"))
    throughout(lambda: [state(plane, node) for node in nodes] == ample, 15.0)  # longer than a node must be contended

    (migration,) = migrations(plane)
    assert migration["metadata"]["annotations"][MIGRATION_TARGET] == OTHER
    assert migration["status"]["phase"] == "Succeeded"
    assert len(until(lambda: notes(plane, "Migrates", vms), SECONDS)) == 1
    assert ([vm.uid() for vm in vms], [vm.run(_HARM) for vm in vms]) == (instances, guests)
