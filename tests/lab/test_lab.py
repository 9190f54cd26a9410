"""The lab itself, and what a real guest's real driver does."""

from __future__ import annotations

import pytest

from hack.lab import MIB, GuestSpec, LabNode, LauncherPod, node_object, vmi_object
from tests.support.waiting import until


def test_the_objects_are_those_of_a_running_vm() -> None:
    vmi = vmi_object(GuestSpec(name="vm", memory_bytes=256 * MIB), "pod", "node")
    assert vmi["status"]["activePods"] == {"pod": "node"}
    assert vmi["spec"]["domain"]["memory"]["guest"] == str(256 * MIB)
    assert node_object("node", 1024)["status"]["allocatable"]["memory"] == "1024"


def test_a_guest_s_name_and_size_are_checked() -> None:
    with pytest.raises(ValueError, match="is not a name"):
        GuestSpec(name="No Name")
    with pytest.raises(ValueError, match="whole KiB"):
        GuestSpec(name="vm", memory_bytes=1)


@pytest.mark.guest
def test_a_guest_gives_memory_to_the_host_and_takes_it_back(lab_guest: LauncherPod) -> None:
    size = lab_guest.spec.memory_bytes
    lab_guest.load.set(100)
    lab_guest.load.set(0)
    before = lab_guest.resident_bytes()
    lab_guest.set_memory(size - 100 * MIB)
    until(lambda: lab_guest.actual_bytes() == size - 100 * MIB)
    low = lab_guest.resident_bytes()
    assert low < before
    lab_guest.set_memory(size)
    until(lambda: lab_guest.actual_bytes() == size)
    report = lab_guest.load.set(100)
    assert report.held_mib == 100
    assert lab_guest.resident_bytes() > low + 40 * MIB
    lab_guest.load.set(0)


@pytest.mark.guest
def test_what_one_guest_gives_another_can_use(
    lab_node: LabNode, lab_guest: LauncherPod, wide_guest: LauncherPod
) -> None:
    size = lab_guest.spec.memory_bytes
    lab_guest.load.set(100)
    lab_guest.load.set(0)
    before = lab_node.used_bytes()
    lab_guest.set_memory(size - 100 * MIB)
    until(lambda: lab_guest.actual_bytes() == size - 100 * MIB)
    until(lambda: lab_node.used_bytes() < before)
    freed = lab_node.used_bytes()
    assert wide_guest.load.set(120).held_mib == 120
    assert lab_node.used_bytes() > freed + 40 * MIB, "both live on the one memory"
    wide_guest.load.set(0)
    lab_guest.set_memory(size)
    until(lambda: lab_guest.actual_bytes() == size)


@pytest.mark.guest
def test_a_hung_qemu_hangs_nobody(lab_guest: LauncherPod, lab_node: LabNode) -> None:
    with lab_guest.hung():
        assert lab_guest.resident_bytes() > 0
        assert lab_node.usage_bytes() >= lab_guest.resident_bytes() // 2
    lab_guest.load.info()
