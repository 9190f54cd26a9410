"""The cost of an agent while nothing changes, and the time until a node that runs short has memory again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hack.bench.processes import ProcessUsage
from hack.testbed.chart import NAMESPACE, agent_environment, agent_kubeconfig, install
from hack.testbed.controlplane import ControlPlane, open_control_plane
from hack.testbed.hostile.launchers import daemons, running
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod, node_object, vmi_object
from kubeballoon.agent.hypervisor.launcher_sockets import RUNTIME
from kubeballoon.core.memory.node_state import StateThresholds, state_thresholds

_REAL_VMS = 4  # as many as any developer's machine can hold
_FAKE_VMS = 50  # as many as a full node has
_CROWD = 200  # as many as a very large node has
_MEASURED_SECONDS = 30.0
_DEADLINE = 120.0
_POLL_SECONDS = 0.02
_GUEST_MEMORY = 256 * MIB
_AGENT_OPTIONS = ("--eviction-threshold=16Mi", "--eviction-margin=16Mi", "--stats-period=1s", "--demand-window=3s")
_POLICY = {
    "apiVersion": "kubeballoon.io/v1alpha1",
    "kind": "MemoryPolicy",
    "metadata": {"name": "bench"},
    "spec": {"selector": {}, "memory": {"min": "30%"}, "reclaim": {"when": "UnderPressure"}},
}

Row = dict[str, object]


def measure_cost() -> list[Row]:
    """Measure what an agent uses while nothing changes."""
    with _installed() as plane:
        return [_measure_with_real_guests(plane), _measure_with_fake_guests(plane)]


def measure_crowded() -> list[Row]:
    """Measure what an agent with very many VMs uses while nothing changes, by real calls to fake daemons."""
    names = [f"vm-{number}" for number in range(_CROWD)]
    with tempfile.TemporaryDirectory() as directory, ExitStack() as started:
        pods = Path(directory, "pods")
        sockets = {name: pods / f"pod-{name}" / RUNTIME / "virtqemud-sock" for name in names}
        for socket in sockets.values():
            socket.parent.mkdir(parents=True)
        started.enter_context(_processes_like_qemu(Path(directory), names))
        honest = daemons(pods / "daemons.json", {str(socket): {} for socket in sockets.values()})
        for process in started.enter_context(running(honest)):
            _read_line(process)
        (agent,) = started.enter_context(running(["hack.bench.crowded_agent", str(pods), *names]))
        _read_line(agent)
        time.sleep(_MEASURED_SECONDS)  # until the threads that the start took have ended
        before = _ask(agent)
        time.sleep(_MEASURED_SECONDS)
        after = _ask(agent)
    used = (after["cpu_seconds"] - before["cpu_seconds"]) / (after["at"] - before["at"])
    return [
        {
            "vms": _CROWD,
            "core_percent": round(used * 100, 2),
            "resident_mib": round(after["resident"] / MIB, 1),
            "threads": after["threads"],
            "descriptors": after["descriptors"],
        }
    ]


@contextmanager
def _processes_like_qemu(directory: Path, names: list[str]) -> Iterator[None]:
    """Run a process for each VM that looks like its QEMU in /proc, and waits for input."""
    program = directory / "qemu-system-x86"
    shutil.copy("/bin/cat", program)
    with ExitStack() as started:
        for name in names:
            arguments = [str(program), "-", f"guest=default_{name},"]
            # At the end of its input it complains that there is no such file.
            process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
            started.callback(process.communicate)
        yield


def _ask(agent: subprocess.Popen[str]) -> dict[str, float]:
    """Ask a crowded agent what it has used so far."""
    assert agent.stdin is not None  # noqa: S101 - for mypy: it is piped
    agent.stdin.write("\n")
    agent.stdin.flush()
    found: dict[str, float] = json.loads(_read_line(agent))
    return found


def _read_line(process: subprocess.Popen[str]) -> str:
    line = "" if process.stdout is None else process.stdout.readline()
    if not line:
        raise EOFError("the process has ended")
    return line


def measure_reaction() -> list[Row]:
    """Measure how long a node is not Ample, and how long if libvirt sets the same final sizes at once."""
    with _installed() as plane:
        return [_compare_with_libvirt(plane)]


@contextmanager
def _installed() -> Iterator[ControlPlane]:
    with open_control_plane() as plane:
        plane.install_kubevirt_crds()
        install(plane)
        yield plane


def _measure_with_real_guests(plane: ControlPlane) -> Row:
    specs = [GuestSpec(name=f"idle-{number}", memory_bytes=128 * MIB) for number in range(_REAL_VMS)]
    with LabNode("bench-idle", _REAL_VMS * 256 * MIB) as lab:
        plane.apply(node_object(lab.name, lab.memory_bytes))
        for pod in lab.boot(specs):
            plane.apply(vmi_object(pod.spec, pod.uid, lab.name))
        options = (f"--node-name={lab.name}", f"--pods-dir={lab.pods_dir}", f"--node-memory-cgroup={lab.cgroup}")
        account = agent_kubeconfig(plane, lab.name)
        with _running("kubeballoon", "agent", f"--kubeconfig={account}", *options) as pid:
            row = _measure_usage(plane, lab.name, pid, _REAL_VMS, "real guests, real daemons")
    plane.kubectl("delete", "vmi", "--all")
    return row


def _measure_with_fake_guests(plane: ControlPlane) -> Row:
    node = "bench-full"
    plane.apply(node_object(node, 64 << 30))
    specs = [GuestSpec(name=f"fake-{number}", memory_bytes=1024 * MIB) for number in range(_FAKE_VMS)]
    plane.apply([vmi_object(spec, f"pod-{spec.name}", node) for spec in specs])
    with tempfile.TemporaryDirectory() as pods:
        account = agent_kubeconfig(plane, node)
        with _running("hack.bench.fake_agent", str(account), node, pods, *(spec.domain_name for spec in specs)) as pid:
            row = _measure_usage(plane, node, pid, _FAKE_VMS, "fake guests in place of libvirt, two threads each")
    plane.kubectl("delete", "vmi", "--all")
    return row


def _measure_usage(plane: ControlPlane, node: str, pid: int, vms: int, setting: str) -> Row:
    """Measure an agent once it has reported all its VMs; ``setting`` says what it runs on."""

    def all_reported() -> bool:
        reports = _status(plane, node).get("virtualMachines", [])
        return len(reports) == vms and all(report.get("need") for report in reports)

    _until(all_reported, "every VM to be reported")
    time.sleep(5)  # until everything that follows the first reports is over
    before, version, started = ProcessUsage.read(pid), _version(plane, node), time.monotonic()
    versions = {version}
    while time.monotonic() - started < _MEASURED_SECONDS:
        time.sleep(1)
        versions.add(_version(plane, node))
    after = ProcessUsage.read(pid)
    return {
        "vms": vms,
        "on": setting,
        "core_percent": round((after.seconds - before.seconds) / (time.monotonic() - started) * 100, 2),
        "resident_mib": round(after.resident / MIB, 1),
        "writes_per_minute": round((len(versions) - 1) / _MEASURED_SECONDS * 60, 1),
    }


def _compare_with_libvirt(plane: ControlPlane) -> Row:
    """Let guests fill their page caches until the node leaves Ample; measure the seconds until it is Ample again."""
    specs = [
        GuestSpec(
            name=f"busy-{number}", memory_bytes=_GUEST_MEMORY, disk_bytes=_GUEST_MEMORY, free_page_reporting=False
        )
        for number in range(3)
    ]
    with LabNode("bench-short", 950 * MIB) as lab:
        plane.apply(node_object(lab.name, lab.memory_bytes))
        pods = lab.boot(specs)
        for pod in pods:
            plane.apply(vmi_object(pod.spec, pod.uid, lab.name))
        thresholds = state_thresholds(lab.memory_bytes, 16 * MIB, 16 * MIB)
        kubeballoon_seconds, sizes = _react_by_kubeballoon(plane, lab, pods, thresholds)
        libvirt_seconds = _react_by_libvirt(lab, pods, sizes, thresholds)
    return {
        "kubeballoon_seconds": kubeballoon_seconds,
        "libvirt_seconds": libvirt_seconds,
        "allowed_seconds": 1.5 * libvirt_seconds + 1,
    }


def _react_by_kubeballoon(
    plane: ControlPlane, lab: LabNode, pods: list[LauncherPod], thresholds: StateThresholds
) -> tuple[float, list[int]]:
    agent, controller = (
        agent_kubeconfig(plane, lab.name),
        plane.service_account_kubeconfig(NAMESPACE, "kubeballoon-controller"),
    )
    options = (f"--node-name={lab.name}", f"--pods-dir={lab.pods_dir}", f"--node-memory-cgroup={lab.cgroup}")
    with (
        _running("kubeballoon", "agent", f"--kubeconfig={agent}", *options, *_AGENT_OPTIONS),
        _running("kubeballoon", "controller", f"--kubeconfig={controller}", f"--namespace={NAMESPACE}"),
    ):
        plane.apply(_POLICY)
        _until(lambda: all("target" in vm for vm in _status(plane, lab.name).get("virtualMachines", [{}])), "requests")
        started = _leave_ample(lab, pods, thresholds)
        _until(lambda: _free(lab) >= thresholds.ample, "the node to be Ample again")
        seconds = time.monotonic() - started
        _until(lambda: _state(plane, lab.name) == "Ample", "the agent to say so")
        sizes = [pod.actual_bytes() for pod in pods]
    plane.kubectl("delete", "mempol", "bench")
    return seconds, sizes


def _react_by_libvirt(lab: LabNode, pods: list[LauncherPod], sizes: list[int], thresholds: StateThresholds) -> float:
    for pod in pods:
        pod.set_memory(_GUEST_MEMORY)
    _until(lambda: all(pod.actual_bytes() == _GUEST_MEMORY for pod in pods), "the balloons to be empty")
    started = _leave_ample(lab, pods, thresholds)
    for pod, size in zip(pods, sizes, strict=True):
        pod.set_memory(size)
    _until(lambda: _free(lab) >= thresholds.ample, "the node to be Ample again")
    return time.monotonic() - started


def _leave_ample(lab: LabNode, pods: list[LauncherPod], thresholds: StateThresholds) -> float:
    """Let guests read files that they do not need until the node leaves Ample, and return when that was, seconds."""
    for cached in range(8, _GUEST_MEMORY // MIB, 8):
        for pod in pods:
            pod.load.cache(cached)
            if _free(lab) < thresholds.tight:
                return time.monotonic()
    raise RuntimeError(f"the guests' caches do not fill {lab.name}")


def _free(lab: LabNode) -> int:
    return lab.memory_bytes - lab.used_bytes()


@contextmanager
def _running(module: str, *arguments: str) -> Iterator[int]:
    """Run a Python module as a process, with the environment that the chart gives an agent, and yield its pid."""
    command, environment = [sys.executable, "-m", module, *arguments], {**os.environ, **agent_environment()}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def _until(condition: Callable[[], bool], description: str) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_DEADLINE:.0f} s for {description}")
        time.sleep(_POLL_SECONDS)


def _status(plane: ControlPlane, node: str) -> dict[str, list[dict[str, str]]]:
    text = plane.kubectl("get", "nodepressure", node, "--ignore-not-found", "--output=json")
    status: dict[str, list[dict[str, str]]] = json.loads(text).get("status", {}) if text.strip() else {}
    return status


def _state(plane: ControlPlane, node: str) -> str:
    return plane.kubectl("get", "nodepressure", node, "--output=jsonpath={.status.state}")


def _version(plane: ControlPlane, node: str) -> str:
    return plane.kubectl("get", "nodepressure", node, "--output=jsonpath={.metadata.resourceVersion}")
