"""What an agent costs when nothing changes, and how soon a node that runs short has memory again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.testbed.chart import NAMESPACE, agent_environment, agent_kubeconfig, install
from hack.testbed.controlplane import ControlPlane, open_control_plane
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod, node_object, vmi_object
from kubeballoon.core.memory.node_state import StateThresholds, state_thresholds

_REAL, _FAKE = 4, 50  # VMs: as many real guests as any machine holds; and with fakes, what a full node has
_WATCHED = 30.0  # seconds for which the cost is measured
_DEADLINE = 120.0
_POLL = 0.02
_GUEST = 256 * MIB
_AGENT = ("--eviction-threshold=16Mi", "--eviction-margin=16Mi", "--stats-period=1s", "--demand-window=3s")
_POLICY = {
    "apiVersion": "kubeballoon.io/v1alpha1",
    "kind": "MemoryPolicy",
    "metadata": {"name": "bench"},
    "spec": {"selector": {}, "memory": {"min": "30%"}, "reclaim": {"when": "UnderPressure"}},
}

Row = dict[str, object]


def cost() -> list[Row]:
    """What an agent uses while nothing changes."""
    with _installed() as plane:
        return [_cost_real(plane), _cost_fake(plane)]


def reaction() -> list[Row]:
    """How long a node is not Ample, against the same final sizes set through libvirt at once."""
    with _installed() as plane:
        return [_reaction(plane)]


@contextmanager
def _installed() -> Iterator[ControlPlane]:
    with open_control_plane() as plane:
        plane.install_kubevirt_crds()
        install(plane)
        yield plane


@dataclass(frozen=True, slots=True)
class _Use:
    """What a process has used: processor seconds, resident bytes."""

    seconds: float
    resident: int

    @classmethod
    def of(cls, pid: int) -> _Use:
        """As of now."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls(ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def _cost_real(plane: ControlPlane) -> Row:
    specs = [GuestSpec(name=f"idle-{number}", memory_bytes=128 * MIB) for number in range(_REAL)]
    with LabNode("bench-idle", _REAL * 256 * MIB) as lab:
        plane.apply(node_object(lab.name, lab.memory_bytes))
        for pod in lab.boot(specs):
            plane.apply(vmi_object(pod.spec, pod.uid, lab.name))
        options = (f"--node-name={lab.name}", f"--pods-dir={lab.pods_dir}", f"--node-memory-cgroup={lab.cgroup}")
        account = agent_kubeconfig(plane, lab.name)
        with _running("kubeballoon", "agent", f"--kubeconfig={account}", *options) as pid:
            row = _watch(plane, lab.name, pid, _REAL, "real guests, real daemons")
    plane.kubectl("delete", "vmi", "--all")
    return row


def _cost_fake(plane: ControlPlane) -> Row:
    node = "bench-full"
    plane.apply(node_object(node, 64 << 30))
    specs = [GuestSpec(name=f"fake-{number}", memory_bytes=1024 * MIB) for number in range(_FAKE)]
    plane.apply([vmi_object(spec, f"pod-{spec.name}", node) for spec in specs])
    with tempfile.TemporaryDirectory() as pods:
        account = agent_kubeconfig(plane, node)
        with _running("hack.bench.fake_agent", str(account), node, pods, *(spec.domain_name for spec in specs)) as pid:
            row = _watch(plane, node, pid, _FAKE, "fake guests in place of libvirt, two threads each")
    plane.kubectl("delete", "vmi", "--all")
    return row


def _watch(plane: ControlPlane, node: str, pid: int, vms: int, on: str) -> Row:
    def known() -> bool:
        reports = _status(plane, node).get("virtualMachines", [])
        return len(reports) == vms and all(report.get("need") for report in reports)

    _until(known, "every VM to be reported")
    time.sleep(5)  # what the first reports lead to is over
    before, version, began = _Use.of(pid), _version(plane, node), time.monotonic()
    versions = {version}
    while time.monotonic() - began < _WATCHED:
        time.sleep(1)
        versions.add(_version(plane, node))
    used = _Use.of(pid)
    return {
        "vms": vms,
        "on": on,
        "core_percent": round((used.seconds - before.seconds) / (time.monotonic() - began) * 100, 2),
        "resident_mib": round(used.resident / MIB, 1),
        "writes_per_minute": round((len(versions) - 1) / _WATCHED * 60, 1),
    }


def _reaction(plane: ControlPlane) -> Row:
    """A node leaves Ample because its guests fill their page caches; how soon is it Ample again, by whom?"""
    specs = [
        GuestSpec(name=f"busy-{number}", memory_bytes=_GUEST, disk_bytes=_GUEST, free_page_reporting=False)
        for number in range(3)
    ]
    with LabNode("bench-short", 950 * MIB) as lab:
        plane.apply(node_object(lab.name, lab.memory_bytes))
        pods = lab.boot(specs)
        for pod in pods:
            plane.apply(vmi_object(pod.spec, pod.uid, lab.name))
        limits = state_thresholds(lab.memory_bytes, 16 * MIB, 16 * MIB)
        ours, sizes = _by_kubeballoon(plane, lab, pods, limits)
        direct = _by_libvirt(lab, pods, sizes, limits)
    return {"kubeballoon_seconds": ours, "libvirt_seconds": direct, "allowed_seconds": 1.5 * direct + 1}


def _by_kubeballoon(
    plane: ControlPlane, lab: LabNode, pods: list[LauncherPod], limits: StateThresholds
) -> tuple[float, list[int]]:
    agent, controller = (
        agent_kubeconfig(plane, lab.name),
        plane.service_account_kubeconfig(NAMESPACE, "kubeballoon-controller"),
    )
    options = (f"--node-name={lab.name}", f"--pods-dir={lab.pods_dir}", f"--node-memory-cgroup={lab.cgroup}")
    with (
        _running("kubeballoon", "agent", f"--kubeconfig={agent}", *options, *_AGENT),
        _running("kubeballoon", "controller", f"--kubeconfig={controller}", f"--namespace={NAMESPACE}"),
    ):
        plane.apply(_POLICY)
        _until(lambda: all("target" in vm for vm in _status(plane, lab.name).get("virtualMachines", [{}])), "requests")
        left = _leave_high(lab, pods, limits)
        _until(lambda: _free(lab) >= limits.ample, "the node to be Ample again")
        took = time.monotonic() - left
        _until(lambda: _state(plane, lab.name) == "Ample", "the agent to say so")
        sizes = [pod.actual_bytes() for pod in pods]
    plane.kubectl("delete", "mempol", "bench")
    return took, sizes


def _by_libvirt(lab: LabNode, pods: list[LauncherPod], sizes: list[int], limits: StateThresholds) -> float:
    for pod in pods:
        pod.set_memory(_GUEST)
    _until(lambda: all(pod.actual_bytes() == _GUEST for pod in pods), "the balloons to be empty")
    left = _leave_high(lab, pods, limits)
    for pod, size in zip(pods, sizes, strict=True):
        pod.set_memory(size)
    _until(lambda: _free(lab) >= limits.ample, "the node to be Ample again")
    return time.monotonic() - left


def _leave_high(lab: LabNode, pods: list[LauncherPod], limits: StateThresholds) -> float:
    """Guests read files they do not need until the node has left Ample; when that was."""
    for cached in range(8, _GUEST // MIB, 8):
        for pod in pods:
            pod.load.cache(cached)
            if _free(lab) < limits.tight:
                return time.monotonic()
    raise RuntimeError(f"the guests' caches do not fill {lab.name}")


def _free(lab: LabNode) -> int:
    return lab.memory_bytes - lab.used_bytes()


@contextmanager
def _running(module: str, *arguments: str) -> Iterator[int]:
    """A Python module as a process, with the environment that the chart gives an agent; its pid."""
    command, environment = [sys.executable, "-m", module, *arguments], {**os.environ, **agent_environment()}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_DEADLINE:.0f} s for {what}")
        time.sleep(_POLL)


def _status(plane: ControlPlane, node: str) -> dict[str, list[dict[str, str]]]:
    text = plane.kubectl("get", "nodepressure", node, "--ignore-not-found", "--output=json")
    status: dict[str, list[dict[str, str]]] = json.loads(text).get("status", {}) if text.strip() else {}
    return status


def _state(plane: ControlPlane, node: str) -> str:
    return plane.kubectl("get", "nodepressure", node, "--output=jsonpath={.status.state}")


def _version(plane: ControlPlane, node: str) -> str:
    return plane.kubectl("get", "nodepressure", node, "--output=jsonpath={.metadata.resourceVersion}")
