"""What the agent reads of a VMI, a node's files, and a pod's directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.lab import GuestSpec, vmi_object
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher, find_launcher
from kubeballoon.agent.node.memory import HostError, HostMemoryReader
from kubeballoon.agent.vm.vmi import ineligibility, read_instance, read_overcommit

MIB = 1 << 20


def vmi(**annotations: str) -> dict[str, Any]:
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    made = vmi_object(GuestSpec(name="vm"), "pod-1", "here", annotations=keys)
    made["metadata"]["uid"] = "uid-1"
    return made


def test_a_vm_is_read_with_its_requests() -> None:
    instance = read_instance(vmi(memory_target="128Mi", memory_min="100Mi", policy="default"), "here")
    assert instance is not None
    assert (instance.target, instance.minimum, instance.policy) == (128 * MIB, 100 * MIB, "default")
    assert (instance.size, instance.pods, instance.domain) == (256 * MIB, ("pod-1",), "default_vm")
    assert instance.ineligibility is None
    assert instance.hold is None


def test_a_vm_elsewhere_or_not_running_is_not_ours() -> None:
    assert read_instance(vmi(), "there") is None
    stopped = vmi()
    stopped["status"]["phase"] = "Succeeded"
    assert read_instance(stopped, "here") is None


def test_an_annotation_that_cannot_be_read_is_a_fault_and_not_a_request() -> None:
    instance = read_instance(vmi(memory_target="lots"), "here")
    assert instance is not None
    assert instance.target is None
    assert "memory-target" in (instance.fault or "")


@pytest.mark.parametrize(
    ("resources", "pod_request"),
    [
        ({"requests": {"memory": "192Mi", "cpu": "50m"}}, 192 * MIB),
        ({"requests": {"memory": "100Mi"}, "limits": {"memory": "200Mi"}}, 100 * MIB),
        ({"requests": {"memory": "0"}, "limits": {"memory": "200Mi"}}, 200 * MIB),
        ({"requests": {"memory": "201326592000m"}}, 192 * MIB),
        ({"requests": {"cpu": "50m"}}, None),
        ({}, None),
    ],
)
def test_a_pod_requests_for_its_guest_what_the_vm_says_or_else_its_limit(
    resources: dict[str, Any], pod_request: int | None
) -> None:
    made = vmi()
    made["spec"]["domain"]["resources"] = resources
    instance = read_instance(made, "here")
    assert instance is not None
    assert (instance.pod_request, instance.size) == (pod_request, 256 * MIB)


@pytest.mark.parametrize(
    ("overcommit", "pod_request"), [(200, 128 * MIB), (100, None), (80, 320 * MIB), (None, None), (0, None)]
)
def test_kubevirt_s_overcommit_divides_what_pods_request(overcommit: int | None, pod_request: int | None) -> None:
    made = vmi()
    made["spec"]["domain"]["resources"] = {}
    developer = {} if overcommit is None else {"memoryOvercommit": overcommit}
    percent = read_overcommit([{"spec": {}}, {"spec": {"configuration": {"developerConfiguration": developer}}}])
    instance = read_instance(made, "here", percent)
    assert instance is not None
    assert (instance.pod_request, instance.size) == (pod_request, 256 * MIB)
    made["spec"]["domain"]["resources"] = {"requests": {"memory": "192Mi"}}
    instance = read_instance(made, "here", percent)
    assert instance is not None
    assert instance.pod_request == 192 * MIB, "what the VM itself requests stays as it is"


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        ({"memory": {"hugepages": {"pageSize": "2Mi"}}}, "Hugepages"),
        ({"cpu": {"dedicatedCpuPlacement": True}}, "DedicatedCPU"),
        ({"cpu": {"realtime": {}}}, "Realtime"),
        ({"cpu": {"numa": {"guestMappingPassthrough": {}}}}, "NUMAPassthrough"),
        ({"devices": {"hostDevices": [{"name": "x"}]}}, "VFIO"),
        ({"devices": {"gpus": [{"name": "x"}]}}, "VFIO"),
        ({"devices": {"interfaces": [{"name": "x", "sriov": {}}]}}, "VFIO"),
        ({"memory": {"reservedOverhead": {"memLock": "Required"}}}, "MemoryLocked"),
        ({"launchSecurity": {"sev": {}}}, "LaunchSecurity"),
        ({"launchSecurity": {}}, "LaunchSecurity"),
        ({"launchSecurity": None}, None),
        ({"devices": {"interfaces": [{"name": "x", "masquerade": {}}]}}, None),
    ],
)
def test_vms_that_must_not_be_ballooned_are_known(domain: dict[str, object], reason: str | None) -> None:
    found = ineligibility({"spec": {"domain": domain}})
    assert (found and found[0]) == reason


def test_a_network_device_by_resource_claim_is_a_passed_through_device() -> None:
    found = ineligibility({"spec": {"domain": {}, "networks": [{"name": "x", "resourceClaim": {"name": "nic"}}]}})
    assert found is not None
    assert found[0] == "VFIO"


def test_guaranteed_pods_keep_their_promise() -> None:
    found = ineligibility({"status": {"qosClass": "Guaranteed"}})
    assert found is not None
    assert found[0] == "Guaranteed"


@pytest.mark.parametrize(
    ("migratable", "strategy", "found"),
    [
        ("True", None, "Migratable"),
        ("True", "LiveMigrate", "Migratable"),
        ("True", "LiveMigrateIfPossible", "Migratable"),
        ("True", "None", "Migratable"),
        ("True", "External", "External"),
        ("False", "LiveMigrate", "NotMigratable"),
        (None, None, "NotMigratable"),
    ],
)
def test_whether_a_vm_may_be_migrated_is_said_by_kubevirt_and_by_its_own_eviction_strategy(
    migratable: str | None, strategy: str | None, found: str
) -> None:
    made = vmi()
    conditions = [] if migratable is None else [{"type": "LiveMigratable", "status": migratable}]
    made["status"]["conditions"] = conditions
    made["spec"] |= {} if strategy is None else {"evictionStrategy": strategy}
    instance = read_instance(made, "here")
    assert instance is not None
    assert instance.migratability == found


def test_a_vm_is_held_from_the_start_of_a_migration_to_its_end() -> None:
    migrating = vmi()
    migrating["status"]["migrationState"] = {"migrationUid": "m", "startTimestamp": "2026-01-01T00:00:00Z"}
    instance = read_instance(migrating, "here")
    assert instance is not None
    assert instance.hold is not None
    migrating["status"]["migrationState"]["completed"] = True
    instance = read_instance(migrating, "here")
    assert instance is not None
    assert instance.hold is None


def test_the_target_of_a_migration_takes_over_when_it_has_completed() -> None:
    moving = vmi()
    moving["status"]["activePods"] = {"pod-1": "here", "pod-2": "there"}
    moving["status"]["migrationState"] = {"migrationUid": "m", "sourceNode": "here", "targetNode": "there"}
    assert read_instance(moving, "there") is None
    moving["status"]["nodeName"] = "there"
    arriving = read_instance(moving, "there")
    assert arriving is not None
    assert (arriving.pods, arriving.hold and arriving.hold[0]) == (("pod-2",), "Migrating")
    moving["status"]["migrationState"]["completed"] = True
    arrived = read_instance(moving, "there")
    assert arrived is not None
    assert arrived.hold is None
    assert read_instance(moving, "here") is None


def test_a_migration_that_failed_leaves_the_vm_with_its_node() -> None:
    staying = vmi()
    staying["status"]["migrationState"] = {"migrationUid": "m", "failed": True}
    instance = read_instance(staying, "here")
    assert instance is not None
    assert instance.hold is None


@pytest.mark.parametrize(
    "state",
    [
        {"migrationUid": "m", "sourceNode": "here", "targetNode": "there"},
        {"migrationUid": "m", "startTimestamp": "2026-01-01T00:00:00Z", "endTimestamp": "2026-01-01T00:00:09Z"},
        None,
    ],
    ids=["never began", "ended, and does not say how", "none"],
)
def test_a_migration_that_is_none_to_kubevirt_holds_no_vm(state: dict[str, str] | None) -> None:
    staying = vmi()
    staying["status"]["migrationState"] = state
    instance = read_instance(staying, "here")
    assert instance is not None
    assert instance.hold is None


@pytest.mark.parametrize(("condition", "resizes"), [(None, True), ("True", True), ("False", False)])
def test_a_vm_has_all_of_its_memory_until_a_hotplug_is_done_or_has_failed(
    condition: str | None, *, resizes: bool
) -> None:
    growing = vmi()
    growing["spec"]["domain"]["memory"]["guest"] = "512Mi"
    if condition is not None:
        growing["status"]["conditions"].append({"type": "HotMemoryChange", "status": condition})
    instance = read_instance(growing, "here")
    assert instance is not None
    assert (instance.return_all is not None) is resizes
    growing["status"]["memory"]["guestRequested"] = "512Mi"
    instance = read_instance(growing, "here")
    assert instance is not None
    assert (instance.return_all is not None) is (condition == "True")


@contextmanager
def listening(directory: Path, name: str) -> Iterator[None]:
    """Listen behind a path of any length."""
    descriptor = os.open(directory, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{descriptor}/{name}")
        os.close(descriptor)
        yield


def test_a_launcher_is_found_by_its_socket(tmp_path: Path) -> None:
    below = "uid/volumes/kubernetes.io~empty-dir/libvirt-runtime"
    path = tmp_path / below
    assert find_launcher(tmp_path, ["uid"]) is None
    path.mkdir(parents=True)
    (path / "virtqemud-sock").touch()
    assert find_launcher(tmp_path, ["uid"]) is None, "a file is no socket"
    (path / "virtqemud-sock").unlink()
    with listening(path, "virtqemud-sock"):
        assert find_launcher(tmp_path, ["other", "uid"]) == Launcher("uid", tmp_path, f"{below}/virtqemud-sock")
        assert find_launcher(tmp_path, ["../uid"]) is None


MEMINFO = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     400 kB\n"
STALL = "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n"


def test_the_node_s_memory_is_the_machine_s(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/memory").write_text(STALL)
    memory = HostMemoryReader(proc=tmp_path).memory()
    assert (memory.total, memory.available) == (1000 * 1024, 400 * 1024)
    assert (memory.stall.some, memory.stall.full) == (12.5, 3.0)


def test_a_cgroup_of_version_2_can_stand_for_the_node(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    for name, text in {
        "memory.max": "500000\n",
        "memory.current": "300000\n",
        "memory.stat": "anon 100000\nfile 150000\nactive_file 20000\ninactive_file 80000\n",
        "memory.pressure": STALL,
    }.items():
        (tmp_path / name).write_text(text)
    memory = HostMemoryReader(proc=tmp_path, cgroup=tmp_path).memory()
    assert (memory.total, memory.available) == (500000, 300000)
    assert memory.stall.some == 12.5


def test_a_cgroup_of_version_1_has_its_stall_in_the_unified_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    group, unified = tmp_path / "memory/node", tmp_path / "unified/node"
    group.mkdir(parents=True)
    unified.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("500000")
    (group / "memory.usage_in_bytes").write_text("300000")
    (group / "memory.stat").write_text("active_file 0\ntotal_active_file 30000\ntotal_inactive_file 70000\n")
    (unified / "memory.pressure").write_text(STALL)
    memory = HostMemoryReader(proc=tmp_path, cgroup=group).memory()
    assert (memory.total, memory.available, memory.stall.full) == (500000, 300000, 3.0)


def test_a_node_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot be read"):
        HostMemoryReader(proc=tmp_path).memory()


def test_requests_for_processors_are_read_apart_from_those_for_memory() -> None:
    instance = read_instance(vmi(processor_target="2", processor_method="Driver", processor_policy="narrow"), "here")
    assert instance is not None
    request = instance.processors
    assert (request.target, request.method, request.policy, request.size) == (2, "Driver", "narrow", 1)
    broken = read_instance(vmi(processor_target="two", memory_target="128Mi"), "here")
    assert broken is not None
    assert "processor-target" in (broken.processors.fault or "")
    assert broken.fault is None, "the request for memory can be read"


def test_a_vm_has_as_many_processors_as_kubevirt_reports() -> None:
    made = vmi()
    made["spec"]["domain"]["cpu"] = {"sockets": 2, "cores": 2}
    assert (first := read_instance(made, "here")) is not None
    made["status"]["currentCPUTopology"] = {"sockets": 3, "cores": 2, "threads": 2}
    assert (second := read_instance(made, "here")) is not None
    assert (first.processors.size, second.processors.size) == (4, 12)


@pytest.mark.parametrize(
    ("cpu", "reason"),
    [
        ({"dedicatedCpuPlacement": True}, "DedicatedCPU"),
        ({"realtime": {}}, "Realtime"),
        ({"numa": {"guestMappingPassthrough": {}}}, "NUMAPassthrough"),
    ],
)
def test_vms_whose_processors_must_stay_have_a_reason(cpu: dict[str, Any], reason: str) -> None:
    made = vmi()
    made["spec"]["domain"]["cpu"] = cpu
    instance = read_instance(made, "here")
    assert instance is not None
    assert instance.processors.ineligibility is not None
    assert instance.processors.ineligibility[0] == reason
