"""VMs that must be left alone are, as KubeVirt's own webhooks write them; others give memory, however they are run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from kubeballoon.agent.vm.vmi import ineligibility
from tests.e2e.conftest import LEAST, SECONDS, created, reclaimed, whole
from tests.support.cluster import Object, controller_annotations, get
from tests.support.kubevirt import NAMESPACE, VM, merged
from tests.support.waiting import throughout, until

pytestmark = pytest.mark.e2e_all

_GPU = "example.com/gpu"
_PASSED_THROUGH = {
    "pciHostDevices": [{"pciVendorSelector": "1234:5678", "resourceName": _GPU, "externalResourceProvider": True}]
}
_HUGEPAGES = {"guest": "64Mi", "hugepages": {"pageSize": "2Mi"}}
_PINNED = {"cores": 2, "dedicatedCpuPlacement": True}
_PASSTHROUGH = {**_PINNED, "numa": {"guestMappingPassthrough": {}}}
LEFT_ALONE: dict[str, Object] = {
    "Hugepages": {"domain": {"memory": _HUGEPAGES}},
    "DedicatedCPU": {"domain": {"cpu": _PINNED}},
    "VFIO": {"domain": {"devices": {"gpus": [{"name": "gpu", "deviceName": _GPU}]}}},
    "VFIO (host device)": {"domain": {"devices": {"hostDevices": [{"name": "device", "deviceName": _GPU}]}}},
    "VFIO (SR-IOV)": {
        "domain": {"devices": {"interfaces": [{"name": "fast", "sriov": {}}]}},
        "networks": [{"name": "fast", "multus": {"networkName": "fast"}}],
    },
    "LaunchSecurity": {
        "domain": {"launchSecurity": {"sev": {}}, "firmware": {"bootloader": {"efi": {"secureBoot": False}}}}
    },
    # Each of these has hugepages too: that is the first reason.
    "Hugepages (realtime)": {"domain": {"cpu": {**_PASSTHROUGH, "realtime": {}}, "memory": _HUGEPAGES}},
    "Hugepages (NUMA)": {"domain": {"cpu": _PASSTHROUGH, "memory": _HUGEPAGES}},
}


@contextmanager
def configured(plane: ControlPlane, configuration: Object) -> Iterator[None]:
    """KubeVirt with another configuration; it has its old one again in the end."""
    where = ("kubevirt/kubevirt", "--namespace=kubevirt")
    before = get(plane, *where)["spec"]["configuration"]

    def patch(wanted: Object) -> None:
        plane.kubectl("patch", *where, "--type=merge", f"--patch={json.dumps({'spec': {'configuration': wanted}})}")

    patch(configuration)
    try:
        yield
    finally:
        patch({**dict.fromkeys(configuration), **before})


@pytest.fixture(scope="module")
def permissive(plane: ControlPlane) -> Iterator[None]:
    """KubeVirt admits every VM in `LEFT_ALONE`."""
    gates = {"useEmulation": True, "featureGates": ["WorkloadEncryptionSEV", "HostDevices", "CPUManager", "GPU"]}
    with configured(plane, {"developerConfiguration": gates, "permittedHostDevices": _PASSED_THROUGH}):
        yield


@pytest.mark.usefixtures("permissive")
@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_a_vm_that_must_be_left_alone_is_known_by_what_kubevirt_s_webhooks_make_of_it(
    plane: ControlPlane, kind: str
) -> None:
    instance: Object = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "left-alone", "namespace": NAMESPACE},
        "spec": merged({"domain": {"memory": {"guest": "64Mi"}, "devices": {}}}, LEFT_ALONE[kind]),
    }
    answers: list[Any] = []

    def admitted() -> bool:
        try:
            written = plane.kubectl(
                "create", "--dry-run=server", "--output=json", "--filename=-", stdin=json.dumps(instance)
            )
        except ControlPlaneError as error:  # its configuration takes effect a moment later
            answers.append(str(error))
            return False
        answers.append(json.loads(written))
        return True

    until(admitted, SECONDS, lambda: answers[-1])
    reason = ineligibility(answers[-1])
    assert reason is not None
    assert reason.reason == kind.partition(" ")[0]


def test_a_vm_without_a_balloon_is_left_alone_and_the_others_give_what_they_can(
    plane: ControlPlane, squeezed: tuple[VM, VM]
) -> None:
    vm = VM(plane, "plain", {"domain": {"memory": {"guest": "512Mi"}, "devices": {"autoattachMemBalloon": False}}})
    with created(vm):
        until(lambda: vm.report().get("reason") == "NoBalloon", SECONDS, vm.report)
        assert controller_annotations(plane, NAMESPACE, vm.name) == {}
        throughout(lambda: reclaimed(squeezed) > LEAST, 10.0)
        assert "up" in vm.run("uptime")


def test_a_vm_whose_launcher_is_root_gives_memory_and_gets_it_back(plane: ControlPlane, policy: str) -> None:
    gates = {"useEmulation": True, "featureGates": ["Root"]}
    vms = (VM(plane, "root-a", root=True), VM(plane, "root-b", root=True))
    with configured(plane, {"developerConfiguration": gates}), created(*vms):
        until(lambda: reclaimed(vms) > LEAST, SECONDS, lambda: reclaimed(vms))
        plane.kubectl("delete", "mempol", policy)
        until(lambda: all(map(whole, vms)), SECONDS, lambda: reclaimed(vms))
