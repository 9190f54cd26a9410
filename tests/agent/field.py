"""A node with real guests, the real controller and the real agent, for tests to do harm on."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hack.chart import agent_kubeconfig
from hack.controlplane import ControlPlane
from hack.lab import MIB, GuestSpec, LabNode, LauncherPod, node_object, vmi_object
from kubeballoon.api.quantity import parse_quantity
from tests.support.cluster import AS_CONTROLLER, memory_policy
from tests.support.processes import Command
from tests.support.waiting import until

SYSTEM = "kubeballoon-system"
SIZE = 192 * MIB
MINIMUM = SIZE // 2
_AGENT = ("--stats-period=1s", "--demand-window=3s", "--eviction-threshold=16Mi", "--eviction-margin=16Mi")


class Field:
    """All of it, from entering to leaving."""

    def __init__(self, plane: ControlPlane, name: str, memory: int, logs: Path) -> None:
        """Be a node of ``memory`` bytes with the guests steady, busy and faulty, governed by one policy."""
        self.plane = plane
        self.lab = LabNode(name, memory)
        self._logs = logs
        self._exits = ExitStack()
        self.controller: Command | None = None

    def __enter__(self) -> Self:
        self._exits.callback(self._remove)
        self._exits.enter_context(self.lab)
        self.plane.apply(node_object(self.lab.name, self.lab.memory_bytes))
        # Without free page reporting, which would return what a test has just had a guest use.
        specs = [
            GuestSpec(name=name, memory_bytes=SIZE, swap_bytes=SIZE, free_page_reporting=False)
            for name in ("steady", "busy", "faulty")
        ]
        for pod in self.lab.boot(specs):
            self.plane.apply(vmi_object(pod.spec, pod.uid, self.lab.name, labels={"field": self.lab.name}))
        self._start_agent()
        self._start_controller()
        selector = {"virtualMachineSelector": {"matchLabels": {"field": self.lab.name}}}
        self.plane.apply(memory_policy(self.lab.name, selector=selector, priority=10))
        until(lambda: all(vm.get("target") for vm in self.reports().values()) and len(self.reports()) == len(specs), 60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.close()

    @property
    def running(self) -> Command:
        """The controller that runs now."""
        assert self.controller is not None
        return self.controller

    def guest(self, name: str) -> LauncherPod:
        """One of the guests."""
        return self.lab.pods[name]

    def status(self) -> dict[str, Any]:
        """What the agent reports of the node; empty before it does."""
        found = self.plane.kubectl("get", "nodepressure", self.lab.name, "--ignore-not-found", "--output=json")
        status: dict[str, Any] = json.loads(found).get("status", {}) if found.strip() else {}
        return status

    def reports(self) -> dict[str, dict[str, Any]]:
        """What it reports of the guests, by name."""
        return {vm["name"]: vm for vm in self.status().get("virtualMachines", [])}

    def reason(self, name: str) -> str | None:
        """Why a guest does not do what it should, as reported."""
        found: str | None = self.reports().get(name, {}).get("reason")
        return found

    def annotate(self, name: str, **asked: str | None) -> None:
        """Annotate a VMI as the controller would, or somebody who forges."""
        keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in asked.items()}
        patch = json.dumps({"metadata": {"annotations": keys}})
        self.plane.kubectl("patch", "vmi", name, "--type=merge", f"--patch={patch}", *AS_CONTROLLER)

    def settled(self) -> bool:
        """Whether the node is High, and every guest is well and has what was asked of it."""
        status = self.status()
        return status.get("state") == "High" and all(
            "reason" not in vm and "target" in vm and _near(vm["actual"], vm["target"])
            for vm in status["virtualMachines"]
        )

    def unharmed(self) -> bool:
        """Whether no guest was taken below its minimum, and nothing was killed."""
        return not self.lab.oom_kills() and all(
            pod.actual_bytes() >= MINIMUM - MIB and not pod.load.info().kills for pod in self.lab.pods.values()
        )

    @contextmanager
    def without_controller(self) -> Iterator[None]:
        """There is no controller meanwhile."""
        status = self.running.stop()
        assert status == 0, f"the controller ended with status {status}"
        try:
            yield
        finally:
            self._start_controller()

    def restart_agent(self) -> None:
        """The agent is killed, and another started."""
        self.agent.stop(signal.SIGKILL)
        self._start_agent()

    def _start_agent(self) -> None:
        options = (f"--node-name={self.lab.name}", f"--pods-dir={self.lab.pods_dir}")
        cgroup = f"--node-memory-cgroup={self.lab.cgroup}"
        self.agent = self._command("agent", agent_kubeconfig(self.plane, self.lab.name), *options, cgroup, *_AGENT)

    def _start_controller(self) -> None:
        led = 0 if self.controller is None else self.controller.said().count("leading")
        account = self.plane.service_account_kubeconfig(SYSTEM, "kubeballoon-controller")
        self.controller = self._command("controller", account, f"--namespace={SYSTEM}", "--cool-down=1s")
        until(lambda: self.running.said().count("leading") > led)

    def _command(self, command: str, kubeconfig: Path, *options: str) -> Command:
        log = self._logs / f"{command}.log"
        return self._exits.enter_context(Command(log, command, f"--kubeconfig={kubeconfig}", *options))

    def _remove(self) -> None:
        for kind in ("mempol", "nodepressure", "node"):
            self.plane.kubectl("delete", kind, self.lab.name, "--ignore-not-found")
        self.plane.kubectl("delete", "vmi", f"--selector=field={self.lab.name}")


def _near(actual: str, target: str) -> bool:
    return abs(parse_quantity(actual) - parse_quantity(target)) <= 2 * MIB
