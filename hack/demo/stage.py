"""Stage: a control plane, a node with guests, and the agent and the controller as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hack.demo.record import Memory
from hack.testbed import chart
from hack.testbed.controlplane import ControlPlane, open_control_plane
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod, node_object, vmi_object

ROOT = Path(__file__).resolve().parents[2]
NODE = "node-1"
GUEST_BYTES = 512 * MIB
NODE_BYTES = 1600 * MIB
GUESTS = tuple(
    GuestSpec(name=f"vm-{number}", memory_bytes=GUEST_BYTES, disk_bytes=GUEST_BYTES, swap_bytes=256 * MIB)
    for number in range(1, 5)
)
# The node is small: the thresholds that a real kubelet needs would be most of its memory. To keep the demo short,
# demand falls and targets turn within seconds, not within minutes as by default.
_AGENT_OPTIONS = ("--eviction-threshold=16Mi", "--eviction-margin=16Mi", "--demand-window=4s", "--stats-period=1s")
_STOP_SECONDS = 10.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Stage:
    """A stage to play a scene on; a context manager, which ends everything on it.

    Attributes:
        say: Is called with each line of progress.
        logs: The directory for the logs of agent and controller.
        guests: The guests to boot.
        node_bytes: The memory of the node.
        serving: The address, as HOST:PORT, at which "agent" and "controller" serve metrics; one that is left out
            serves none.
    """

    say: Say
    logs: Path
    guests: tuple[GuestSpec, ...] = GUESTS
    node_bytes: int = NODE_BYTES
    serving: Mapping[str, str] = field(default_factory=dict)
    plane: ControlPlane = field(init=False)
    node: LabNode = field(init=False)
    _exits: ExitStack = field(default_factory=ExitStack)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Start the API server and the guests, both at the same time."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            # One after the other: both may build first, and mixed lines of progress could not be read.
            self.node = self._exits.enter_context(LabNode(NODE, self.node_bytes, say=self.say))
            plane = open_control_plane()
            self.say(f"starting an API server, booting guests: {len(self.guests)}")
            with ThreadPoolExecutor(1) as background:
                booting = background.submit(self.node.boot, self.guests)
                # In this thread: the kernel kills daemons when the thread that started them ends.
                self.plane = self._exits.enter_context(plane)
                self._install()
                booting.result()
            self._create_objects()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        self._exits.close()

    @property
    def pods(self) -> list[LauncherPod]:
        """The guests' launcher pods, in the order of `guests`."""
        return [self.node.pods[spec.name] for spec in self.guests]

    def measure(self) -> Memory:
        """Measure the guests' memory and the node's, by libvirt and the node's cgroup."""
        stats = {pod.spec.name: pod.libvirt.memory_stats(pod.spec.domain_name) for pod in self.pods}
        actual = {name: each["actual"] * 1024 for name, each in stats.items()}
        resident = {name: each["rss"] * 1024 for name, each in stats.items()}
        return Memory(actual, resident, {NODE: min(self.node_bytes, self.node.used_bytes())})

    def start_agent(self) -> None:
        """Start the agent, with a token that is bound to a pod on its node, as the kubelet would issue it."""
        cgroup = f"--node-memory-cgroup={self.node.cgroup}"
        pods = f"--pods-dir={self.node.pods_dir}"
        kubeconfig = chart.agent_kubeconfig(self.plane, NODE)
        self._start("agent", kubeconfig, f"--node-name={NODE}", pods, cgroup, *_AGENT_OPTIONS)

    def start_controller(self) -> None:
        """Start the controller, as its ServiceAccount."""
        kubeconfig = self.plane.service_account_kubeconfig(chart.NAMESPACE, f"{chart.RELEASE}-controller")
        self._start("controller", kubeconfig, f"--namespace={chart.NAMESPACE}", "--cool-down=1s")

    def check(self) -> None:
        """Raise RuntimeError if the agent or the controller has ended."""
        for process in self._processes:
            if process.poll() is not None:
                name = Path(str(process.args[-1])).stem if isinstance(process.args, list) else "a process"
                raise RuntimeError(f"{name} ended with status {process.returncode}; its log is in {self.logs}")

    def pressure(self) -> dict[str, Any] | None:
        """Return the status of the node's NodePressure; None if there is none yet."""
        text = self.plane.kubectl("get", "nodepressure", NODE, "--ignore-not-found", "--output=json")
        return json.loads(text).get("status") if text.strip() else None

    def instances(self) -> dict[str, dict[str, str]]:
        """Return the annotations of each VMI, by its name."""
        items = json.loads(self.plane.kubectl("get", "vmi", "--output=json"))["items"]
        return {item["metadata"]["name"]: item["metadata"].get("annotations", {}) for item in items}

    def _install(self) -> None:
        self.plane.install_kubevirt_crds()
        chart.install(self.plane)

    def _create_objects(self) -> None:
        self.plane.apply(node_object(NODE, self.node_bytes))
        for pod in self.pods:
            self.plane.apply(vmi_object(pod.spec, pod.uid, NODE, labels={"app": "demo"}))

    def _start(self, command: str, kubeconfig: Path, *options: str) -> None:
        serving = (f"--listen={self.serving[command]}",) if command in self.serving else ()
        arguments = [sys.executable, "-m", "kubeballoon", command, *serving, *options, f"--kubeconfig={kubeconfig}"]
        with (self.logs / f"{command}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
