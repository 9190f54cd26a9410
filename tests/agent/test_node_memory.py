"""The node's memory and stall, from files as the kernel writes them."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hack.testbed.lab.cgroups import NodeCgroup
from kubeballoon.agent.node.memory import HostError, HostMemory, HostMemoryReader
from kubeballoon.agent.report import NodeObservation, compose
from kubeballoon.agent.settings import NodeSettings
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressureStatus, VirtualMachineReport
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.node_state import MemoryStall, NodeTerms, StallLimits, next_state, node_limits
from kubeballoon.core.units import GIB, MIB
from kubeballoon.governance.core_inputs import memory_node
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.vocabulary import NodeState
from tests.support.cluster import memory_policy
from tests.support.waiting import SLOW

_THRASH = """
import mmap, sys
for group in sys.argv[3:]:
    open(f"{group}/cgroup.procs", "w").write("0")
with open(sys.argv[1], "wb") as file:  # written in here, or its pages would count elsewhere
    for _ in range(int(sys.argv[2]) >> 20):
        file.write(bytes(1 << 20))
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
    while True:
        for page in range(0, int(sys.argv[2]), 4096):
            view[page]
"""


def proc(directory: Path, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "meminfo").write_text(text)
    return directory


def test_a_machine_is_read_from_meminfo(tmp_path: Path) -> None:
    memory = HostMemoryReader(proc(tmp_path, "MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n")).memory()
    assert (memory.total, memory.available) == (2 * MIB, MIB)
    assert (memory.stall.some, memory.stall.full) == (0, 0), "a kernel without pressure stall information"


def test_a_cgroup_of_version_2_stands_for_the_node(tmp_path: Path) -> None:
    machine = proc(tmp_path, "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n")
    group = tmp_path / "kubepods"
    group.mkdir()
    (group / "memory.max").write_text(f"{64 * MIB}\n")
    (group / "memory.current").write_text(f"{40 * MIB}\n")
    (group / "memory.stat").write_text(f"anon {20 * MIB}\nactive_file {5 * MIB}\ninactive_file {10 * MIB}\n")
    (group / "memory.pressure").write_text(
        "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    memory = HostMemoryReader(machine, group).memory()
    assert (memory.total, memory.available) == (64 * MIB, (24 + 15) * MIB)
    assert (memory.stall.some, memory.stall.full) == (12.5, 3.0)
    (group / "memory.max").write_text("max\n")
    assert HostMemoryReader(machine, group).memory().total == 1024 * MIB


SETTINGS = NodeSettings(eviction=100 * MIB, margin=64 * MIB)
CALM = MemoryStall()
TODAY = datetime(2026, 1, 1, tzinfo=UTC)


def meminfo(total: int, *, anon: int = 0, active: int = 0, inactive: int = 0, slab: int = 0, pool: int = 0) -> str:
    """Write a meminfo as the kernel does; amounts are bytes, and 30 MiB of the total are the kernel's own."""
    free = total - anon - active - inactive - slab - pool - 30 * MIB
    low, cache = 60 * MIB, active + inactive
    figures = {
        "MemTotal": total,
        "MemFree": free,
        "MemAvailable": max(0, free - 100 * MIB) + cache - min(cache // 2, low) + slab - min(slab // 2, low),
        "Buffers": 0,
        "Cached": cache,
        "SwapCached": 0,
        "Active(file)": active,
        "Inactive(file)": inactive,
        "AnonPages": anon,
        "Hugetlb": pool,
    }
    return "".join(f"{name}: {size // 1024} kB\n" for name, size in figures.items())


def state(memory: HostMemory) -> NodeState:
    """Find the state of a node that was Ample."""
    return next_state(
        NodeState.AMPLE,
        memory.least_available,
        node_limits(NodeTerms(), SETTINGS.facts(memory)).thresholds,
        CALM,
        StallLimits(),
    )


@pytest.mark.parametrize(
    ("anon", "active", "inactive", "slab", "after"),
    [
        (48 * GIB, 6 * GIB, 2 * GIB, 40 * MIB, NodeState.AMPLE),
        (49.92 * GIB, 14 * GIB, 10 * MIB, 20 * MIB, NodeState.CRITICAL),
        (57.92 * GIB, 6 * GIB, 10 * MIB, 20 * MIB, NodeState.CRITICAL),
        (60.4 * GIB, 3.55 * GIB, 10 * MIB, 10 * MIB, NodeState.CRITICAL),
    ],
)
def test_page_cache_in_use_counts_as_the_kubelet_counts_it(
    tmp_path: Path, anon: float, active: float, inactive: int, slab: int, after: NodeState
) -> None:
    text = meminfo(64 * GIB, anon=int(anon), active=int(active), inactive=inactive, slab=slab)
    reader = HostMemoryReader(proc(tmp_path, text))
    memory = reader.memory()
    assert state(memory) is after
    assert memory.least_available == min(memory.available, memory.kubelet_available or 0)
    if after is not NodeState.AMPLE:
        assert memory.least_available < 100 * MIB < memory.available, "the kubelet evicts"
    reader.old_kubelet = True
    assert (reader.memory().kubelet_available or 0) < (memory.kubelet_available or 0), "and the kernel's own memory"


def test_memory_that_is_shared_or_in_files_of_memory_is_in_use_to_the_kubelet(tmp_path: Path) -> None:
    text = meminfo(4 * GIB, anon=GIB, inactive=GIB).replace(f"Cached: {GIB // 1024}", f"Cached: {2 * GIB // 1024}")
    assert HostMemoryReader(proc(tmp_path, text)).memory().kubelet_available == 2 * GIB


@pytest.mark.parametrize("pool", [720, 735])
def test_pools_of_hugepages_are_no_memory_of_the_node(tmp_path: Path, pool: int) -> None:
    text = meminfo(755 * GIB, anon=(755 - pool) * GIB // 2, pool=pool * GIB)
    memory = HostMemoryReader(proc(tmp_path, text)).memory()
    assert memory.total == (755 - pool) * GIB
    assert state(memory) is NodeState.AMPLE, "half of what ordinary VMs may have is free"
    assert node_limits(NodeTerms(), SETTINGS.facts(memory)).thresholds.ample == memory.total * 6 // 100
    assert memory.capacity == 755 * GIB, "to the kubelet, of whose thresholds it may be a percentage"


@pytest.mark.parametrize(
    ("total", "pool", "available"), [(755, 720, 17), (1536, 1440, 46), (512, 480, 12), (512, 480, 9)]
)
def test_vms_beside_a_large_pool_of_hugepages_have_all_of_what_is_left(
    tmp_path: Path, total: int, pool: int, available: int
) -> None:
    """Four VMs that touch half of their memory fit, with 4 GiB for others, into what the pool leaves."""
    ordinary = (total - pool) * GIB
    text = meminfo(total * GIB, anon=ordinary - available * GIB - 130 * MIB, pool=pool * GIB)
    memory = HostMemoryReader(proc(tmp_path, text)).memory()
    assert memory.available == available * GIB
    assert state(memory) is NodeState.AMPLE
    size = max(1, (total - pool - available - 4) // 4) * GIB
    policy = load_memory_policy(MemoryPolicy.model_validate(memory_policy("p")))
    plan = allocate_memory(memory_node("n", with_vms(memory, [size] * 4, 96 * MIB, size=size), lambda _: policy))
    assert [decision.target for decision in plan.decisions] == [size] * 4
    assert plan.shortfall == 0


def kubepods(root: Path, limit: int | str, used: int, inactive: int, *, version: int = 2) -> Path:
    """Write the cgroup of all pods as the kernel does."""
    group = root / ("kubepods.slice" if version == 2 else "memory/kubepods")
    group.mkdir(parents=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (group / name).write_text(f"{value}\n")
    prefix = "" if version == 2 else "total_"
    (group / "memory.stat").write_text(f"{prefix}active_file {GIB}\n{prefix}inactive_file {inactive}\n")
    return root


@pytest.mark.parametrize("version", [1, 2])
def test_what_pods_may_use_ends_where_the_kubelet_evicts_beyond_the_node_s_allocatable(
    tmp_path: Path, version: int
) -> None:
    machine = proc(tmp_path, meminfo(64 * GIB, anon=40 * GIB))
    root = kubepods(tmp_path / "cgroup", 56 * GIB, used=54 * GIB, inactive=GIB, version=version)
    memory = HostMemoryReader(machine, cgroup_root=root).memory()
    assert (memory.total, memory.least_available) == (56 * GIB, 3 * GIB)
    assert memory.available > 23 * GIB, "though the node has much more"
    assert state(memory) is NodeState.AMPLE
    kubepods(tmp_path / "fuller", 56 * GIB, used=int(56.9 * GIB), inactive=GIB, version=version)
    memory = HostMemoryReader(machine, cgroup_root=tmp_path / "fuller").memory()
    assert memory.least_available < 164 * MIB
    assert state(memory) is NodeState.CRITICAL


@pytest.mark.parametrize(
    ("size", "kept_by_kubelet"),
    [
        *[(64, kept) for kept in (0, 1, 4, 5.48, 6.4, 8)],  # among them what GKE and OpenShift keep, 10 % and 12.5 %
        *[(256, kept) for kept in (0, 1, 4, 8, 11.88, 25.6, 32)],
    ],
)
def test_vms_never_fill_more_than_the_kubelet_lets_pods_use(tmp_path: Path, size: int, kept_by_kubelet: float) -> None:
    """VMs of 8 GiB that work with 5 GiB each share a node with other pods, and with what is outside of all pods."""
    outside, others, overhead = 1536 * MIB, GIB, 200 * MIB
    limit = int((size - kept_by_kubelet) * GIB)
    policy = load_memory_policy(MemoryPolicy.model_validate(memory_policy("p")))
    held: list[int] = [5 * GIB] * (10 * size // 64)
    for turn in range(12):
        pods = others + sum(held) + overhead * len(held)
        directory = tmp_path / str(turn)
        root = kubepods(directory / "cgroup", limit if kept_by_kubelet else "max", used=pods, inactive=0)
        memory = HostMemoryReader(proc(directory, meminfo(size * GIB, anon=pods + outside)), cgroup_root=root).memory()
        plan = allocate_memory(memory_node("n", with_vms(memory, held, overhead), lambda _: policy))
        held = [decision.target or 0 for decision in plan.decisions]
    assert others + sum(held) + overhead * len(held) <= limit - 100 * MIB, "the kubelet evicts nobody"
    assert state(memory) is NodeState.AMPLE


def with_vms(memory: HostMemory, held: list[int], overhead: int, size: int = 8 * GIB) -> NodePressureStatus:
    """Make the report of a node whose VMs hold so much; those of 8 GiB work with 5 GiB each, others with a quarter."""
    status = compose(
        NodeObservation(memory, NodeState.AMPLE, node_limits(NodeTerms(), SETTINGS.facts(memory))), [], [], TODAY
    )
    resident = sum(held) + overhead * len(held)
    other = max(0, memory.total - memory.least_available - resident)  # as the agent computes it with its VMs
    vms = [
        VirtualMachineReport.model_validate(
            {"uid": str(index), "namespace": "n", "name": str(index), "size": size, "actual": actual, "target": actual}
            | {"resident": actual + overhead, "overhead": overhead, "need": 5 * GIB if size == 8 * GIB else size // 4}
        )
        for index, actual in enumerate(held)
    ]
    return status.model_copy(
        update={"virtual_machines": vms, "memory": status.memory.model_copy(update={"other": other})}
    )


@pytest.mark.parametrize("limit", ["max", 1 << 62])
def test_pods_that_are_not_limited_may_use_what_the_node_has(tmp_path: Path, limit: int | str) -> None:
    machine = proc(tmp_path, meminfo(64 * GIB, anon=40 * GIB))
    root = kubepods(tmp_path / "cgroup", limit, used=54 * GIB, inactive=GIB)
    assert HostMemoryReader(machine, cgroup_root=root).memory() == HostMemoryReader(machine).memory()
    assert HostMemoryReader(machine, cgroup_root=tmp_path / "none").memory() == HostMemoryReader(machine).memory()


def test_an_eviction_threshold_may_be_a_percentage_of_all_that_the_node_has() -> None:
    memory = HostMemory(32 * GIB, 8 * GIB, CALM, capacity=64 * GIB)
    settings = NodeSettings(100 * MIB, 64 * MIB, eviction_percent=5)
    assert node_limits(NodeTerms(), settings.facts(memory)).thresholds.critical == 64 * GIB * 5 // 100 + 64 * MIB
    small = NodeSettings(4 * GIB, 64 * MIB, eviction_percent=5)
    assert node_limits(NodeTerms(), small.facts(memory)).thresholds.critical == 4 * GIB + 64 * MIB


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="the node's memory cannot be read"):
        HostMemoryReader(tmp_path).memory()


@pytest.mark.guest
def test_tasks_that_stall_raise_the_alarm_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    group = NodeCgroup.create(f"kubeballoon-test-{uuid.uuid4().hex[:8]}", 32 * MIB)
    raised = threading.Event()
    host = HostMemoryReader(cgroup=group.memory)
    try:
        host.alarm(raised.set)
        command = [sys.executable, "-c", _THRASH, str(file), str(96 * MIB), *map(str, group.directories)]
        with subprocess.Popen(command) as process:
            try:
                assert raised.wait(SLOW)
                assert host.memory().stall.full >= 10
            finally:
                process.kill()
    finally:
        group.remove()
