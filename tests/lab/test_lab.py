"""The lab with real guests: their balloons give memory to the host, and other guests can use it."""

from __future__ import annotations

import pytest

from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod, node_object, vmi_object
from tests.support.guests import ballooned, loaded
from tests.support.waiting import eventually


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


@pytest.mark.parametrize("mergeable", [True, False])
def test_ksm_may_merge_the_pages_of_mergeable_guests_only(*, mergeable: bool) -> None:
    for discardable in (True, False):
        xml = GuestSpec(name="vm", discardable=discardable, mergeable=mergeable).domain_xml(kvm=False)
        assert ("<nosharepages/>" in xml) is not mergeable


@pytest.mark.guest
def test_a_guest_gives_memory_to_the_host_and_gets_it_back(lab_guest: LauncherPod) -> None:
    size = lab_guest.spec.memory_bytes
    with loaded(lab_guest, 120):
        before = lab_guest.resident_bytes()
    with ballooned(lab_guest, size - 100 * MIB):
        eventually(lambda: lab_guest.actual_bytes() == size - 100 * MIB)
        low = lab_guest.resident_bytes()
        assert low < before - 40 * MIB
    eventually(lambda: lab_guest.actual_bytes() == size)
    with loaded(lab_guest, 120) as report:
        assert report.held_mib == 120
        assert lab_guest.resident_bytes() > low + 40 * MIB


@pytest.mark.guest
def test_another_guest_can_use_the_memory_that_a_guest_gives(
    lab_node: LabNode, lab_guest: LauncherPod, wide_guest: LauncherPod
) -> None:
    size = lab_guest.spec.memory_bytes
    with loaded(lab_guest, 120), loaded(wide_guest, 140):
        before, wide = lab_node.used_bytes(), wide_guest.resident_bytes()
    with ballooned(lab_guest, size - 100 * MIB):
        eventually(lambda: lab_guest.actual_bytes() == size - 100 * MIB)
        eventually(lambda: wide_guest.resident_bytes() < wide - 90 * MIB)  # free page reporting
        eventually(lambda: lab_node.used_bytes() < before - (90 + 60) * MIB)
        freed = lab_node.used_bytes()
        with loaded(wide_guest, 140) as report:
            assert report.held_mib == 140
            assert lab_node.used_bytes() > freed + 40 * MIB, "both guests use the memory of the node"
    eventually(lambda: lab_guest.actual_bytes() == size)


@pytest.mark.guest
def test_a_hung_qemu_does_not_hang_the_lab(lab_guest: LauncherPod, lab_node: LabNode) -> None:
    with lab_guest.hung():
        assert lab_guest.resident_bytes() > 0
        assert lab_node.usage_bytes() >= lab_guest.resident_bytes() // 2
    lab_guest.load.info()
