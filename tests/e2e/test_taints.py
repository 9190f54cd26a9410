"""A node that is short of memory is tainted, so that the scheduler places new VMs elsewhere until it is Ample."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.kubevirt import product
from kubeballoon.api.names import TAINT
from tests.e2e.conftest import SECONDS, created
from tests.support.cluster import MIB, get, node_policy
from tests.support.kubevirt import VM
from tests.support.waiting import until

pytestmark = pytest.mark.e2e_all

NODE = "node-1"
"""The node that VMs prefer, as `VMS` has them."""

_TAINTS = "taints.enabled=true"
_LOAD = 1024 * MIB
# An idle VM leaves the node about 75 % of its memory, and one with the load about 50 %. The lowest two are far below.
_THRESHOLDS = {"ample": "65%", "tight": "60%", "scarce": "10%", "critical": "5%"}


@pytest.fixture(scope="module")
def loaded(plane: ControlPlane) -> Iterator[VM]:
    """A VM with a load of a GiB; kubeballoon may taint nodes meanwhile."""
    product.install(plane, _TAINTS)
    vm = VM(plane, "loaded")
    try:
        with created(vm):
            assert vm.node() == NODE
            vm.fill(_LOAD)
            yield vm
    finally:
        product.install(plane)


@pytest.fixture
def tainted(plane: ControlPlane, loaded: VM) -> Iterator[VM]:
    """The VM `loaded`, on a node that is Tight because of it, and tainted; the taint goes with the policy."""
    selector = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}}}
    taint = {"mode": "Enforce", "removeAfter": "5s"}
    plane.apply(node_policy("e2e", selector=selector, thresholds=_THRESHOLDS, taint=taint))
    until(lambda: effects(plane) == ["PreferNoSchedule"], SECONDS, lambda: get(plane, "nodepressure", NODE)["status"])
    yield loaded
    plane.kubectl("delete", "nodepol", "e2e")
    until(lambda: effects(plane) == [], SECONDS, lambda: effects(plane))


def effects(plane: ControlPlane) -> list[str]:
    """The effects of kubeballoon's taint on the node: one, or none without the taint."""
    return [taint["effect"] for taint in get(plane, "node", NODE)["spec"].get("taints", []) if taint["key"] == TAINT]


def test_a_new_vm_goes_to_the_other_node_though_it_prefers_the_one_that_is_short(
    plane: ControlPlane, tainted: VM
) -> None:
    assert get(plane, "nodepressure", NODE)["status"]["state"] == "Tight"
    late = VM(plane, "late")
    with created(late):
        assert late.node() != NODE
        assert tainted.node() == NODE  # what runs there stays


def test_helm_uninstall_removes_the_taint(plane: ControlPlane, tainted: VM) -> None:
    instance = tainted.uid()
    product.uninstall(plane)
    try:
        assert effects(plane) == []
        assert tainted.uid() == instance
    finally:
        product.install(plane, _TAINTS)


def test_a_node_that_is_ample_again_loses_its_taint_and_gets_new_vms(plane: ControlPlane, tainted: VM) -> None:
    tainted.delete()
    until(lambda: effects(plane) == [], SECONDS, lambda: get(plane, "nodepressure", NODE)["status"])
    late = VM(plane, "late")
    with created(late):
        assert late.node() == NODE
