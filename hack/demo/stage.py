"""What the demo plays on: a control plane, a node with guests, the agent and the controller as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
# The node is small, so the thresholds that a real node's kubelet needs would be most of it; and demand falls within
# seconds, and targets turn within seconds, where the defaults are minutes, so that the demo need not take them.
_AGENT_OPTIONS = ("--eviction-threshold=16Mi", "--eviction-margin=16Mi", "--demand-window=4s", "--stats-period=1s")
_STOP_SECONDS = 10.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Stage:
    """All of it, from entering to leaving; everything on it ends with it.

    Attributes:
        serving: Where a part, "agent" or "controller", serves its metrics, as HOST:PORT; nowhere if it is not named.
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
        """Set the stage: API server and guests start side by side."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            # What is built first is built one after the other, so that its progress can be read.
            self.node = self._exits.enter_context(LabNode(NODE, self.node_bytes, say=self.say))
            plane = open_control_plane()
            self.say(f"starting an API server, booting guests: {len(self.guests)}")
            with ThreadPoolExecutor(1) as background:
                booting = background.submit(self.node.boot, self.guests)
                # In this thread: its daemons die with the thread that starts them.
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
        """The guests in their launcher pods, in order."""
        return [self.node.pods[spec.name] for spec in self.guests]

    def start_agent(self) -> None:
        """Start the agent, with the token that it has on its node."""
        cgroup = f"--node-memory-cgroup={self.node.cgroup}"
        pods = f"--pods-dir={self.node.pods_dir}"
        kubeconfig = chart.agent_kubeconfig(self.plane, NODE)
        self._start("agent", kubeconfig, f"--node-name={NODE}", pods, cgroup, *_AGENT_OPTIONS)

    def start_controller(self) -> None:
        """Start the controller, as its ServiceAccount."""
        kubeconfig = self.plane.service_account_kubeconfig(chart.NAMESPACE, f"{chart.RELEASE}-controller")
        self._start("controller", kubeconfig, f"--namespace={chart.NAMESPACE}", "--cool-down=1s")

    def check(self) -> None:
        """Raises RuntimeError if a process has ended."""
        for process in self._processes:
            if process.poll() is not None:
                name = Path(str(process.args[-1])).stem if isinstance(process.args, list) else "a process"
                raise RuntimeError(f"{name} ended with status {process.returncode}; its log is in {self.logs}")

    def pressure(self) -> dict[str, Any] | None:
        """The status of the node's NodePressure; None before there is one."""
        text = self.plane.kubectl("get", "nodepressure", NODE, "--ignore-not-found", "--output=json")
        return json.loads(text).get("status") if text.strip() else None

    def instances(self) -> dict[str, dict[str, str]]:
        """Each VMI's annotations, by name."""
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


class Background(threading.Thread):
    """A function that runs every so many seconds until stopped, such as a load that rises."""

    def __init__(self, seconds: float, function: Callable[[], bool]) -> None:
        """Call ``function`` every ``seconds`` until it returns False or ``stop`` is called."""
        super().__init__(daemon=True)
        self._seconds = seconds
        self._function = function
        self._stopped = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        """See the class."""
        try:
            while self._function() and not self._stopped.wait(self._seconds):
                pass
        except Exception as error:  # noqa: BLE001 - shown by whoever stops it
            self.error = error

    def stop(self) -> None:
        """End it; raises what ended it before."""
        self._stopped.set()
        self.join()
        if self.error is not None:
            raise self.error
