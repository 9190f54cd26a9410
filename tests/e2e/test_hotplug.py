"""VMs that are given more memory or processors while kubeballoon reclaims some, and processors that are reclaimed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.api.quantity import parse_quantity
from tests.e2e.conftest import SECONDS, created
from tests.support.cluster import MIB, Object, controller_annotations, memory_policy, processor_policy
from tests.support.kubevirt import BOOT_SECONDS, NAMESPACE, VM
from tests.support.waiting import until

pytestmark = pytest.mark.e2e_all

_SELECTOR = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}


@pytest.fixture(scope="module")
def wide(plane: ControlPlane) -> Iterator[VM]:
    """A VM with two processors, of which one can be reclaimed."""
    vm = VM(plane, "wide", {"domain": {"cpu": {"sockets": 2}, "memory": {"guest": "512Mi"}}})
    with created(vm):
        yield vm


@pytest.fixture
def one_processor(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave every VM one processor, by the method that is the fixture's parameter."""
    settings = {"processors": {"min": 1, "max": 1}, "method": request.param, "coolDown": "5s"}
    plane.apply(processor_policy("e2e", selector=_SELECTOR, **settings))
    yield
    plane.kubectl("delete", "cpupol", "e2e", "--ignore-not-found")


def online(vm: VM) -> int:
    """How many processors a guest uses, by its own account."""
    return int(vm.run("grep -c ^processor /proc/cpuinfo"))


def processors(vm: VM) -> Object:
    """What its node's agent reports of a VM's processors; empty before the first report."""
    found: Object = vm.report().get("processors", {})
    return found


@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize("one_processor", ["GuestAgent"], indirect=True)
def test_a_processor_is_taken_offline_by_the_guest_agent_and_given_back(plane: ControlPlane, wide: VM) -> None:
    until(lambda: online(wide) == 1, SECONDS, wide.report)
    until(lambda: processors(wide).get("online") == 1, SECONDS, wide.report)
    plane.kubectl("delete", "cpupol", "e2e")
    until(lambda: online(wide) == 2, SECONDS, wide.report)
    until(lambda: "processor-target" not in controller_annotations(plane, NAMESPACE, wide.name), SECONDS)


@pytest.mark.usefixtures("one_processor")
@pytest.mark.parametrize("one_processor", ["Driver"], indirect=True)
def test_a_processor_is_unplugged_and_there_again_at_the_latest_when_the_vm_is_restarted(
    plane: ControlPlane, wide: VM
) -> None:
    until(lambda: online(wide) == 1, SECONDS, wide.report)
    plane.kubectl("delete", "cpupol", "e2e")
    # Emulated, QEMU does not tell libvirt of it, which then has no processor to plug in again.
    until(lambda: online(wide) == 2 or processors(wide).get("reason") == "UnplugLost", SECONDS, wide.report)
    before = wide.uid()
    wide.ask("restart", "virtualmachines")
    until(lambda: wide.is_started_anew(before), BOOT_SECONDS)
    wide.wait()
    assert online(wide) == 2
    until(lambda: processors(wide).get("online") == 2, SECONDS, wide.report)


def change(vm: VM, domain: dict[str, object]) -> None:
    """Change a running VM's template, as its owner does."""
    patch = json.dumps({"spec": {"template": {"spec": {"domain": domain}}}})
    vm.plane.kubectl("patch", "vm", vm.name, f"--namespace={NAMESPACE}", "--type=merge", f"--patch={patch}")


def test_a_vm_that_is_given_a_processor_is_reported_with_it(wide: VM) -> None:
    instance = wide.uid()
    until(lambda: processors(wide).get("size") == 2, SECONDS, wide.report)
    change(wide, {"cpu": {"sockets": 3}})
    until(lambda: processors(wide).get("size") == 3, BOOT_SECONDS, wide.report)
    assert wide.uid() == instance


@pytest.fixture
def growing(plane: ControlPlane) -> Iterator[VM]:
    """A VM of 1 GiB, of which a policy leaves it half."""
    vm = VM(plane, "growing", {"domain": {"memory": {"guest": "1Gi"}, "resources": {"requests": {"memory": "1Gi"}}}})
    plane.apply(memory_policy("e2e", selector=_SELECTOR, memory={"min": "25%", "max": "50%"}))
    with created(vm):
        until(lambda: vm.actual() <= 513 * MIB, SECONDS, vm.report)
        yield vm
    plane.kubectl("delete", "mempol", "e2e", "--ignore-not-found")


def test_a_vm_that_is_excluded_while_it_is_given_memory_requests_no_more_than_it_has_and_gives_memory_again(
    plane: ControlPlane, growing: VM
) -> None:
    instance = growing.uid()
    annotate = ("annotate", "vmi", growing.name, f"--namespace={NAMESPACE}")
    plane.kubectl(*annotate, "kubeballoon.io/exclude=true")
    until(lambda: current(growing) == "1Gi", SECONDS, growing.report)
    change(growing, {"memory": {"guest": "1280Mi"}})
    until(lambda: current(growing) == "1280Mi", BOOT_SECONDS * 2, growing.report)
    requests = growing.instance()["spec"]["domain"]["resources"]["requests"]
    assert (growing.uid(), requests["memory"]) == (instance, "1280Mi")
    until(lambda: usable(growing) == 1280 * MIB, SECONDS, growing.report)
    plane.kubectl(*annotate, "kubeballoon.io/exclude-")
    until(lambda: 0 < usable(growing) <= 641 * MIB, SECONDS, growing.report)
    plane.kubectl("delete", "mempol", "e2e")
    until(lambda: usable(growing) == 1280 * MIB, SECONDS, growing.report)


def usable(vm: VM) -> int:
    """What a VM may use by its agent's report, hotplugged memory included, which libvirt's word leaves out; bytes."""
    return parse_quantity(vm.report().get("actual", "0"))


def current(vm: VM) -> str | None:
    """The memory that KubeVirt takes a VM's guest to have now."""
    found: str | None = vm.instance()["status"].get("memory", {}).get("guestCurrent")
    return found
