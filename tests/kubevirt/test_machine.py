"""What the cluster asks of a machine, and what it says when that is not there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.kubevirt import __main__ as command
from hack.testbed.kubevirt import build, cgroups, checks, cluster, network
from tests.support.waiting import until

V1 = """\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
33 30 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
35 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "30 23 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_cgroups_of_version_1_are_one_hierarchy_for_each_controller() -> None:
    roots = cgroups.hierarchies(V1)
    assert [root.name for root in roots] == ["cpu,cpuacct", "cpuset", "memory", "pids", "unified"]
    assert cgroups.missing_controllers(roots) == set()
    assert cgroups.missing_controllers(roots[:2]) == {"memory", "pids"}
    assert cgroups.memory_hierarchy(roots) == roots[2]


def test_a_cgroup_of_version_2_gets_its_controllers_from_its_parents(tmp_path: Path) -> None:
    (root,) = cgroups.hierarchies(V2.format(root=tmp_path))
    assert cgroups.memory_hierarchy([root]) == root
    for directory in (root, root / cgroups.NAME):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    assert cgroups.missing_controllers([root]) == set()
    assert cgroups.create("node-1", [root]) == [root / cgroups.NAME / "node-1"]
    for directory in (root, root / cgroups.NAME):
        assert (directory / "cgroup.subtree_control").read_text() == "+cpuset +cpu +memory +pids"
    assert not (root / cgroups.NAME / "node-1/cgroup.subtree_control").exists()  # a kubelet's, or of processes


def test_a_new_cgroup_of_version_1_has_processors_and_memory_to_run_on(tmp_path: Path) -> None:
    (tmp_path / "cgroup.clone_children").write_text("0\n")
    (tmp_path / "cpuset.cpus").write_text("0-1\n")
    (tmp_path / "cpuset.mems").write_text("0\n")
    directory = tmp_path / cgroups.NAME / "node-1"
    directory.mkdir(parents=True)
    for name in ("cgroup.clone_children", "cpuset.cpus", "cpuset.mems"):
        (directory.parent / name).touch()
    assert cgroups.create("node-1", [tmp_path]) == [directory]
    assert [(directory / f"cpuset.{what}").read_text() for what in ("cpus", "mems")] == ["0-1\n", "0\n"]


@pytest.mark.parametrize(("file", "one"), [("cpu.shares", 1024), ("cpu.weight", 100)])
def test_the_cluster_has_the_weight_of_ten_processes(tmp_path: Path, file: str, one: int) -> None:
    (tmp_path / cgroups.NAME).mkdir()
    (tmp_path / cgroups.NAME / file).write_text(f"{one}\n")
    cgroups.create("node-1", [tmp_path])
    assert (tmp_path / cgroups.NAME / file).read_text() == str(10 * one)
    assert not (tmp_path / cgroups.NAME / "node-1" / file).exists()


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind((network.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ControlPlaneError) as caught:
            network.listen(port)
    assert str(caught.value) == f"port {port} of 127.0.0.1 is not free: Address already in use"


@pytest.mark.parametrize("wanted", ["", "0", "http", "65536", "-1"])
def test_what_is_no_port_is_one_line(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.PORT_VARIABLE, wanted)
    with pytest.raises(ControlPlaneError, match=f"KUBEBALLOON_CLUSTER_PORT is no port: {wanted}$"):
        cluster.port()


def test_a_cluster_with_a_name_of_its_own_takes_any_port_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cluster.PORT_VARIABLE, raising=False)
    monkeypatch.setattr(cgroups, "NAME", "mine")
    with network.listen(cluster.port()) as one, network.listen(cluster.port()) as other:
        assert one.getsockname() != other.getsockname()


@pytest.mark.parametrize("name", ["", "../lib", "My cluster", "-x", "x" * 41])
def test_what_is_no_name_of_a_cluster_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cgroups, "NAME", name)
    assert command.main(["down"]) == 1
    said = capsys.readouterr().err
    assert said == f"cluster: KUBEBALLOON_CLUSTER is no name of small letters and digits: {name}\n"


def test_archives_that_another_checkout_may_read_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    old, recent, mine = (build.only("images", mark, Path.touch) for mark in ("old", "recent", "mine"))
    os.utime(old, (0, 0))
    assert build.only("images", "mine", Path.touch) == mine
    assert (old.exists(), recent.exists(), mine.exists()) == (False, True, True)


def test_too_little_memory_and_disk_are_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal: 2048000 kB\nMemAvailable: 1024000 kB\n")
    monkeypatch.setattr(checks, "MEMINFO", memory)
    monkeypatch.setattr(checks, "DISK_BYTES", 1 << 60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ControlPlaneError) as caught:
        checks.check(tmp_path / "not" / "there")
    said = str(caught.value).splitlines()
    assert f"1000 MiB of memory are free, and the cluster takes {checks.MEMORY_BYTES >> 20}" in said
    both = (1 << 60) + checks.BUILD_BYTES  # on one disk
    assert [line for line in said if line.endswith(f"free in {tmp_path}, and the cluster takes {both >> 20}")]


def test_whoever_is_not_root_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.main(["up"]) == 1
    assert capsys.readouterr().err == "cluster: the cluster needs root, for namespaces, mounts and cgroups\n"


def test_a_program_in_a_cgroup_of_the_cluster_is_killed_by_its_name_and_no_other(tmp_path: Path) -> None:
    group = tmp_path / cgroups.NAME / "control"
    group.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as one, subprocess.Popen(["tail", "-f", os.devnull]) as other:
        try:
            gone = 1 << 22  # more than any process's number
            (group / "cgroup.procs").write_text(f"{one.pid}\n{other.pid}\n{gone}\n")
            until(
                lambda: cgroups.send_signal("control", "sleep", [tmp_path])
            )  # once it is no copy of this process any more
            assert one.wait(timeout=60) == -signal.SIGKILL
            assert cgroups.send_signal("control", "kubelet", [tmp_path]) == 0
            assert other.poll() is None
        finally:
            one.kill()
            other.kill()


def test_a_program_that_does_not_run_cannot_be_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = tmp_path / cgroups.NAME / "control"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path])
    with pytest.raises(ControlPlaneError, match="there is no etcd in"):
        cluster.kill("control", "etcd")
