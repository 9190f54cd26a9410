"""What happens to VMs and nodes while memory is reclaimed harms no guest, and reclaiming goes on afterwards."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.kubevirt import cgroups
from hack.testbed.kubevirt import cluster as testbed
from tests.e2e.conftest import LEAST, SECONDS, pods, reclaimed, whole
from tests.support.cluster import MIB, get, node_policy
from tests.support.kubevirt import BOOT_SECONDS, NAMESPACE, VM
from tests.support.waiting import until

pytestmark = pytest.mark.e2e_all


def back_to_normal(plane: ControlPlane, vms: tuple[VM, VM], policy: str) -> None:
    """Wait until both VMs give memory; then, that the end of the policy gives all of it back."""
    until(lambda: reclaimed(vms) > LEAST, SECONDS, lambda: reclaimed(vms))
    until(lambda: [vm.report().get("reason") for vm in vms] == [None, None], SECONDS, lambda: [v.report() for v in vms])
    plane.kubectl("delete", "mempol", policy)
    until(lambda: all(map(whole, vms)), SECONDS, lambda: reclaimed(vms))


def test_a_paused_vm_keeps_what_it_has_and_gets_all_back_once_it_goes_on(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    vm, other = squeezed
    vm.ask("pause")
    try:
        until(lambda: vm.report().get("reason") == "Paused", SECONDS, vm.report)
        held = vm.actual()
        plane.kubectl("delete", "mempol", policy)
        until(lambda: whole(other), SECONDS, other.actual)
        assert vm.actual() == held < vm.memory
    finally:
        vm.ask("unpause")
    until(lambda: whole(vm), SECONDS, vm.actual)


def test_a_vm_that_is_stopped_and_started_gives_memory_again(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    vm, other = squeezed
    vm.ask("stop", "virtualmachines")
    until(lambda: not vm.exists(), SECONDS)
    until(lambda: other.actual() == other.memory, SECONDS, other.actual)  # it is alone now
    vm.ask("start", "virtualmachines")
    vm.wait()
    back_to_normal(plane, squeezed, policy)


def test_a_guest_that_reboots_gives_memory_again(plane: ControlPlane, squeezed: tuple[VM, VM], policy: str) -> None:
    vm = squeezed[0]
    instance, boot = vm.uid(), boot_id(vm)
    # Once, however often it is asked: only in this boot.
    vm.begin(f"sleep 1; grep -q {boot.strip()} /proc/sys/kernel/random/boot_id && reboot -f")

    def is_rebooted() -> bool:
        try:
            return boot_id(vm) != boot
        except ControlPlaneError:  # it was rebooted while it was asked
            return False

    until(is_rebooted, BOOT_SECONDS)
    assert vm.uid() == instance
    back_to_normal(plane, squeezed, policy)


def boot_id(vm: VM) -> str:
    """What tells one boot of a guest from the next."""
    return vm.run("cat /proc/sys/kernel/random/boot_id")


def kill_qemu(vm: VM) -> None:
    """End a VM's process without a word."""
    kill = ("--", "bash", "-c", "kill -9 $(pidof qemu-system-x86_64)")
    vm.plane.kubectl("exec", vm.launcher(), f"--namespace={NAMESPACE}", "--container=compute", *kill)


def kill_launcher(vm: VM) -> None:
    """End a VM's pod without a word."""
    vm.plane.kubectl("delete", "pod", vm.launcher(), f"--namespace={NAMESPACE}", "--grace-period=0", "--force")


@pytest.mark.parametrize("kill", [kill_qemu, kill_launcher])
def test_a_vm_that_is_killed_gives_memory_again_once_it_was_started_anew(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str, kill: Callable[[VM], None]
) -> None:
    vm = squeezed[0]
    killed = vm.uid()
    kill(vm)
    until(lambda: vm.is_started_anew(killed), BOOT_SECONDS)
    vm.wait()
    back_to_normal(plane, squeezed, policy)


def test_balloons_stay_while_virt_handler_is_replaced(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    selector, where = "--selector=kubevirt.io=virt-handler", "--namespace=kubevirt"
    before = {pod["metadata"]["name"] for pod in get(plane, "pod", selector, where)["items"]}
    plane.kubectl("delete", "pod", selector, where, "--wait=false")

    def replaced() -> bool:
        assert reclaimed(squeezed) > LEAST
        now = {
            pod["metadata"]["name"]
            for pod in get(plane, "pod", selector, where)["items"]
            if all(status["ready"] for status in pod["status"].get("containerStatuses", [{"ready": False}]))
        }
        return len(now) == len(before) and not now & before

    until(replaced, SECONDS * 2)
    back_to_normal(plane, squeezed, policy)


def test_balloons_stay_while_the_kubelet_is_started_anew(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    node, agents, launchers = squeezed[0].node(), pods(plane, "agent"), [vm.launcher() for vm in squeezed]
    testbed.kill(f"{node}-system", "kubelet")
    until(lambda: all(succeeds(vm.actual) for vm in squeezed), SECONDS)
    assert reclaimed(squeezed) > LEAST
    back_to_normal(plane, squeezed, policy)
    assert [vm.launcher() for vm in squeezed] == launchers
    until(lambda: pods(plane, "agent") == agents, SECONDS, lambda: pods(plane, "agent"))  # once they are ready again


def test_balloons_stay_while_the_api_server_is_started_anew(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    instances = [vm.uid() for vm in squeezed]
    testbed.kill("control", "kube-apiserver")
    until(lambda: not answers(plane, "/readyz"), SECONDS)
    until(lambda: answers(plane, "/readyz"), SECONDS)
    until(lambda: answers(plane, "/apis/subresources.kubevirt.io/v1"), SECONDS)
    assert reclaimed(squeezed) > LEAST
    back_to_normal(plane, squeezed, policy)
    assert [vm.uid() for vm in squeezed] == instances


_GROW = """
sleep {wait}
mount -t tmpfs -o size=4g load /load || exit 1
for part in $(seq {parts}); do
  while awk '/^MemAvailable/ {{ exit $2 > {spare} }}' /proc/meminfo; do sleep 0.1; done
  dd if=/dev/urandom of=/load/part$part bs=1M count=8 2>/dev/null || exit 1
done
"""
_WAIT = 10  # seconds until the load begins to grow: the API server is stopped within them
_SPARE = 8192  # KiB: so little that the guest is short, as its agent sees it
_GROWTH = 256 * MIB  # beyond what the VM had when the API server stopped
_AT_MOST = 1500 * MIB  # that the VM has then: with the growth the load fits into the VM
_RESERVE = "20%"  # of the node, so that it leaves the VM less than that


@pytest.fixture
def larger_reserve(plane: ControlPlane) -> Iterator[None]:
    """Keep more of each node free than agents are installed to."""
    plane.apply(node_policy("e2e", reserve=_RESERVE))
    yield
    plane.kubectl("delete", "nodepol", "e2e")


@pytest.mark.usefixtures("larger_reserve")
def test_a_load_that_grows_while_the_api_server_hangs_gets_memory_from_its_agent_alone(
    plane: ControlPlane, squeezed: tuple[VM, VM], policy: str
) -> None:
    vm = squeezed[1]
    before = until(lambda: held if (held := vm.actual()) <= _AT_MOST else 0, SECONDS, vm.report)
    vm.run("mkdir -p /load")
    script = vm.begin(_GROW.format(wait=_WAIT, parts=(before + _GROWTH) // (8 * MIB), spare=_SPARE))
    with testbed.stopped("control", "kube-apiserver"):
        assert not answers(plane, "/readyz")
        until(lambda: resident(vm) > before + _GROWTH * 2 // 3, BOOT_SECONDS, lambda: resident(vm))
    until(lambda: answers(plane, "/readyz"), SECONDS)
    ended = until(lambda: vm.result(script), BOOT_SECONDS)
    assert ended is not None
    assert ended.status == 0, ended
    vm.run("umount /load")
    back_to_normal(plane, squeezed, policy)


def resident(vm: VM) -> int:
    """What a VM's QEMU has resident on this machine, bytes, without asking the cluster."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # others end meanwhile
            ours = f"/{cgroups.NAME}/" in (process / "cgroup").read_text()
            if ours and f"guest={NAMESPACE}_{vm.name}," in (process / "cmdline").read_text():
                return int((process / "statm").read_text().split()[1]) * resource.getpagesize()
    raise ControlPlaneError(f"no process is {vm.name}")


def answers(plane: ControlPlane, path: str) -> bool:
    """Whether the API server answers a request, if need be by asking another."""
    return succeeds(lambda: plane.kubectl("get", f"--raw={path}", seconds=10))


def succeeds(ask: Callable[[], object]) -> bool:
    """Whether the cluster, or a guest in it, does what it is asked for."""
    try:
        ask()
    except ControlPlaneError:
        return False
    return True
