"""The node's memory and stall, from files as the kernel writes them."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from hack.testbed.lab import MIB
from hack.testbed.lab.cgroups import NodeCgroup
from kubeballoon.agent.node.memory import HostError, HostMemoryReader
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
