"""What kubeballoon is for: VMs that are larger than their node fill it up, and the kubelet evicts none of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab.ksm import not_merging
from tests.e2e.conftest import LEAST, created, reclaimed
from tests.support.cluster import MIB, get
from tests.support.kubevirt import NAMESPACE, VM, Script
from tests.support.waiting import until

pytestmark = pytest.mark.e2e_all

_DISK = {"name": "data", "emptyDisk": {"capacity": "4Gi"}}  # sparse, so that it takes no room on the node
_WITH_DISK = {"domain": {"devices": {"disks": [{"name": "data", "disk": {"bus": "virtio"}}]}}, "volumes": [_DISK]}
_AT_FIRST = 600 * MIB  # that the node has left when guests begin to read slowly
_SLOWLY = 450 * MIB  # of each guest: half as much again as the node has left
_STEP = 3 * MIB  # a second of each: the kubelet, which looks every ten seconds, sees its threshold passed in time
_READ_SECONDS = 600.0  # on a busy machine
_READ = """
exec </dev/vda  # while it is open: the kernel forgets a disk's cache when the last reader has closed it
dd of=/dev/null bs=1M count={at_once}
for second in $(seq {seconds}); do
  dd of=/dev/null bs=1M count={step}
  sleep 1
done
"""


@pytest.fixture(autouse=True)
def unmerged() -> Iterator[None]:
    """Keep KSM off: it would merge the guests' caches, which are of zeros, and they would fill no node."""
    with not_merging():
        yield


@pytest.fixture
def readers(plane: ControlPlane) -> Iterator[tuple[VM, VM]]:
    """Two VMs of 2 GiB, with a disk each, on one node of 4 GiB."""
    vms = (VM(plane, "reader-a", _WITH_DISK), VM(plane, "reader-b", _WITH_DISK))
    with created(*vms):
        assert vms[0].node() == vms[1].node()
        yield vms


def evicted(plane: ControlPlane, before: frozenset[str] = frozenset()) -> frozenset[str]:
    """The uids of the pods of VMs that a kubelet has evicted, but for those that it had evicted before."""
    events = get(plane, "events", f"--namespace={NAMESPACE}", "--field-selector=reason=Evicted")["items"]
    return frozenset(event["involvedObject"]["uid"] for event in events) - before


def available(plane: ControlPlane, node: str) -> int:
    """What the kubelet says that the pods of a node can still use, bytes: it evicts below 100 MiB."""
    summary = json.loads(plane.kubectl("get", f"--raw=/api/v1/nodes/{node}/proxy/stats/summary"))
    (of_pods,) = (each["memory"] for each in summary["node"]["systemContainers"] if each["name"] == "pods")
    return int(of_pods["availableBytes"])


def read(plane: ControlPlane, vms: tuple[VM, VM]) -> list[tuple[VM, Script]]:
    """Have guests fill their page caches from their disks: memory that they do not need, and keep if they are let.

    Returns each with the script that does, which ends when together they have read more than the node had left.
    """
    at_once = (available(plane, vms[0].node()) - _AT_FIRST) // len(vms)
    script = _READ.format(at_once=at_once // MIB, seconds=_SLOWLY // _STEP, step=_STEP // MIB)
    return [(vm, vm.begin(script)) for vm in vms]


def test_with_kubeballoon_guests_fill_a_node_with_their_caches_and_nothing_is_evicted(
    plane: ControlPlane, readers: tuple[VM, VM], policy: str
) -> None:
    assert policy
    before, instances = evicted(plane), [vm.uid() for vm in readers]
    for vm, script in read(plane, readers):
        ended = until(lambda vm=vm, script=script: vm.result(script), _READ_SECONDS)  # type: ignore[misc]
        assert ended.status == 0
    assert evicted(plane, before) == frozenset()
    assert [vm.uid() for vm in readers] == instances
    assert reclaimed(readers) > LEAST


@pytest.mark.usefixtures("uninstalled")
def test_without_it_the_same_caches_get_a_vm_evicted(plane: ControlPlane, readers: tuple[VM, VM]) -> None:
    before = evicted(plane)
    read(plane, readers)
    until(lambda: evicted(plane, before), _READ_SECONDS, lambda: available(plane, "node-1"))
