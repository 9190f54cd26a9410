"""What the agent reads of VMs as KubeVirt 1.9 describes them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import libvirt
import pytest

from hack.testbed.lab.unix_sockets import listen
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.vm.vmi import OVERHEAD, Instance, ineligibility, read_instance
from tests.support.cluster import Object
from tests.support.stored import stored_domain, stored_vmi

MIB = 1 << 20
LAUNCHER = 190 * MIB  # what KubeVirt reckons for the processes beside QEMU in a VM's pod


def read(vmi: Object) -> Instance:
    """Read a VM on the node that it runs on."""
    instance = read_instance(vmi, vmi["status"]["nodeName"])
    assert instance is not None
    return instance


def test_a_running_vm_is_read() -> None:
    instance = read(stored_vmi("running"))
    assert instance.size == 512 * MIB
    assert instance.pods == ("0c8f0d63-c53b-4a2f-a9a6-a7c811cd8af0",)
    assert instance.processors.size == 2
    assert instance.obstacle is None
    assert instance.migratability == "Migratable"


def test_a_vm_that_has_migrated_follows_its_request_on_its_new_node_alone() -> None:
    vmi = stored_vmi("after-migration")
    instance = read(vmi)
    assert instance.pods == ("8c6f9a5c-a5cd-42b6-9d74-eab82871ec86",), "the pod that it left is still active"
    assert (instance.target, instance.minimum, instance.obstacle) == (256 * MIB, 128 * MIB, None)
    assert read_instance(vmi, vmi["status"]["migrationState"]["sourceNode"]) is None


def test_a_vm_whose_memory_was_hotplugged_follows_its_request_again() -> None:
    instance = read(stored_vmi("after-hotplug"))
    assert (instance.size, instance.target, instance.return_all) == (1536 * MIB, 768 * MIB, None)


def test_a_vm_whose_memory_is_being_hotplugged_has_all_of_it_until_that_is_done() -> None:
    vmi = stored_vmi("after-hotplug")
    vmi["status"]["memory"]["guestRequested"] = "1Gi"
    problem = read(vmi).return_all
    assert problem is not None
    assert problem.reason == "MemoryHotplug"
    assert "its pod requests" not in problem.message


def test_a_pod_that_requests_too_much_after_a_hotplug_beside_a_balloon_is_told() -> None:
    """KubeVirt adds the new size less what the guest has: of 1 GiB it had 512 MiB when it was to have 1.5 GiB."""
    vmi = stored_vmi("after-hotplug")
    vmi["status"]["memory"]["guestRequested"] = "1Gi"
    vmi["spec"]["domain"]["resources"]["requests"]["memory"] = "2Gi"
    problem = read(vmi).return_all
    assert problem is not None
    assert "its pod requests 512 MiB more than that" in problem.message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dedicated-cpu", "DedicatedCPU"),
        ("gpu", "VFIO"),
        ("hugepages", "Hugepages"),
        ("launch-security", "LaunchSecurity"),
        ("numa", "Hugepages"),
        ("realtime", "Hugepages"),
        ("sriov", "VFIO"),
    ],
)
def test_a_vm_that_must_not_be_ballooned_is_left_alone(name: str, reason: str) -> None:
    problem = ineligibility(stored_vmi(name))
    assert problem is not None
    assert problem.reason == reason


@pytest.mark.parametrize("name", ["numa", "realtime"])
def test_what_forbids_ballooning_holds_without_hugepages_too(name: str) -> None:
    vmi = stored_vmi(name)
    del vmi["spec"]["domain"]["memory"]["hugepages"]
    problem = ineligibility(vmi)
    assert problem is not None
    assert problem.reason == "DedicatedCPU"


@pytest.mark.parametrize("name", ["running", "after-migration", "after-hotplug"])
def test_the_processes_beside_qemu_are_no_overhead_of_a_vm(name: str) -> None:
    """KubeVirt reports 244 to 247 MiB, of which 190 are of processes that count with the node's other memory."""
    assert read(stored_vmi(name)).overhead == OVERHEAD


def large(reported: int) -> Object:
    """A VM of 64 GiB with 16 processors and a screen, for which QEMU needs 326 MiB by KubeVirt's reckoning."""
    vmi = deepcopy(stored_vmi("running"))
    domain = vmi["spec"]["domain"]
    domain["memory"]["guest"] = domain["resources"]["requests"]["memory"] = "64Gi"
    domain["devices"].pop("autoattachGraphicsDevice")
    domain["cpu"]["sockets"] = vmi["status"]["currentCPUTopology"]["sockets"] = 16
    vmi["status"]["memory"]["memoryOverhead"] = str(reported)
    return vmi


@pytest.mark.parametrize(
    "reported", [326 * MIB, 326 * MIB + LAUNCHER, 300 * MIB, 420 * MIB], ids=["QEMU's", "the pod's", "less", "more"]
)
def test_whether_a_report_contains_those_processes_is_seen_by_its_size(reported: int) -> None:
    contained = LAUNCHER if reported > 500 * MIB else 0
    assert read(large(reported)).overhead == reported - contained


def test_what_an_administrator_adds_to_the_overhead_is_kept() -> None:
    """KubeVirt multiplies the overhead of all pods by the ratio that an administrator sets."""
    pod = 326 * MIB + LAUNCHER
    assert read(large(2 * pod)).overhead == 2 * pod - LAUNCHER


def test_a_vm_of_an_older_kubevirt_has_the_overhead_that_was_measured() -> None:
    vmi = stored_vmi("running")
    del vmi["status"]["memory"]["memoryOverhead"]
    assert read(vmi).overhead == OVERHEAD


class Domain:
    """A domain of libvirt's, with the XML of the VM after the hotplug of half a GiB, and a balloon of 768 MiB."""

    def __init__(self) -> None:
        self.set: list[int] = []

    def XMLDesc(self) -> str:  # noqa: N802 - libvirt's name
        """Return the XML."""
        return stored_domain()

    def info(self) -> list[int]:
        """Return state, most memory and memory in KiB, processors, and their nanoseconds."""
        return [libvirt.VIR_DOMAIN_RUNNING, 4 << 20, 768 << 10, 2, 1_000_000_000]

    def memoryStats(self) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Return what QEMU and the guest say, in KiB."""
        return {"actual": 256 << 10, "rss": 900 << 10}

    def vcpusFlags(self, _: int) -> int:  # noqa: N802 - libvirt's name
        """Return how many processors there are."""
        return 2

    def setMemoryFlags(self, size: int, _: int) -> None:  # noqa: N802 - libvirt's name
        """Take a request, in KiB."""
        self.set.append(size)


class Connection:
    """A connection of libvirt's that finds this domain."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def lookupByName(self, _: str) -> Domain:  # noqa: N802 - libvirt's name
        """Find it."""
        return self.domain

    def close(self) -> None:
        """Do nothing."""


async def test_a_domain_with_plugged_memory_and_removable_processors_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    domain = Domain()
    monkeypatch.setattr(libvirt, "open", lambda _: Connection(domain))
    hypervisor, launcher = LibvirtHypervisor(), Launcher("pod", tmp_path, "virtqemud-sock")
    with listen(tmp_path / "virtqemud-sock"):
        memory = await hypervisor.connect_memory(launcher, "default_vm-2")
        sample = await memory.sample()
        assert (sample.size, sample.statistics.actual, sample.balloon) == (1536 * MIB, 768 * MIB, True)
        await memory.set_memory(1024 * MIB)
        assert domain.set == [512 << 10], "the balloon takes of the boot memory alone"
        guest = await hypervisor.connect_guest(launcher, "default_vm-2")
        assert guest.emulated
        assert (await guest.plugged()).removable == ("vcpu1",)
        hypervisor.forget("pod")
