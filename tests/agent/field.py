"""A node with real guests, a real controller and a real agent, on which tests inflict faults."""

from __future__ import annotations

import json
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from hack.testbed.chart import agent_kubeconfig
from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod, node_object, vmi_object
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.governance.translation import memory_node
from tests.support.cluster import AS_CONTROLLER, memory_policy
from tests.support.patience import eventually
from tests.support.processes import Command, await_leadership

SYSTEM = "kubeballoon-system"
SIZE = 256 * MIB
MINIMUM = 96 * MIB
CAPACITY = 605 * MIB  # of the node for the guests below: all of one, a loaded one and a minimum fit
GUESTS = ("steady", "busy", "faulty")
HOPELESS = 96 * MIB  # the size of the guest without a driver
_AGENT = ("--stats-period=1s", "--demand-window=3s", "--eviction-threshold=16Mi", "--eviction-margin=16Mi")


class Field:
    """A Field is the node, its guests, the controller and the agent, from entering to leaving."""

    def __init__(self, plane: ControlPlane, name: str, memory: int, logs: Path) -> None:
        """Be a node of ``memory`` bytes with ``GUESTS`` and one guest without a driver, governed by one policy.

        What others than VMs need differs between machines and over time. ``trim`` makes up for that, so that ``GUESTS``
        share ``CAPACITY``.
        """
        self.plane = plane
        self.lab = LabNode(name, memory)
        self._logs = logs
        self._exits = ExitStack()
        self._ballast = ExitStack()
        self._ballast_bytes = 0
        self._resize: Callable[[int], None]
        self._port: int
        self.controller: Command | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undone:
            undone.callback(self._exits.close)
            self._set_up()
            undone.pop_all()
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
        """Find one of the guests."""
        return self.lab.pods[name]

    def held(self) -> int:
        """Sum up what their balloons leave ``GUESTS``, bytes."""
        return sum(self.guest(name).actual_bytes() for name in GUESTS)

    def status(self) -> dict[str, Any]:
        """Read what the agent reports of the node; empty before it does."""
        found = self.plane.kubectl("get", "nodepressure", self.lab.name, "--ignore-not-found", "--output=json")
        status: dict[str, Any] = json.loads(found).get("status", {}) if found.strip() else {}
        return status

    def reports(self) -> dict[str, dict[str, Any]]:
        """Read what the agent reports of the guests, by name."""
        return {vm["name"]: vm for vm in self.status().get("virtualMachines", [])}

    def reason(self, name: str) -> str | None:
        """Read the reason with which a guest is reported; None where there is none."""
        found: str | None = self.reports().get(name, {}).get("reason")
        return found

    def capacity(self) -> int:
        """Compute what the node has for ``GUESTS``, bytes, by the agent's metrics: a report may be a percent off."""
        node = memory_node(self.lab.name, NodePressureStatus.model_validate(self.status()), lambda _: None, {})
        other = round(self._metric("kubeballoon_node_memory_bytes", kind="other"))
        return replace(node, other=other).capacity - HOPELESS

    def samples(self) -> float:
        """Read how often the agent has sampled guests since its start."""
        return self._metric("kubeballoon_agent_sample_duration_seconds_count")

    def sample_times(self) -> dict[str, float]:
        """Read when the agent last sampled each guest, Unix seconds, by name."""
        name = "kubeballoon_vm_sample_timestamp_seconds"
        return {sample.labels["name"]: sample.value for sample in self._samples() if sample.name == name}

    def annotate(self, name: str, **annotations: str | None) -> None:
        """Annotate a VMI as the controller would, or somebody who forges."""
        keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
        self.patch(name, {"metadata": {"annotations": keys}}, *AS_CONTROLLER)

    def patch(self, name: str, body: dict[str, Any], *options: str) -> None:
        """Change a VMI, as KubeVirt or its owner would; its status is not a subresource."""
        self.plane.kubectl("patch", "vmi", name, "--type=merge", f"--patch={json.dumps(body)}", *options)

    def present(self, pod: LauncherPod) -> None:
        """Create the VMI that KubeVirt would have created."""
        self.plane.apply(vmi_object(pod.spec, pod.uid, self.lab.name, labels={"field": self.lab.name}))

    def rest(self) -> None:
        """Wait until the node is Ample, and ``GUESTS`` are well and have exactly what is requested of them."""

        def restless() -> list[Any]:
            status, reports = self.status(), self.reports()
            state = [] if status.get("state") == "Ample" else [status]
            return state + [reports.get(name) for name in GUESTS if not _at_rest(reports.get(name, {}))]

        eventually(lambda: not restless(), tell=restless)

    def trim(self) -> None:
        """Have ``GUESTS`` share ``CAPACITY`` again, whatever others than VMs use by now; the node must be at rest."""
        last = (0.0, 0)  # samples and capacity

        def settled() -> int:
            """Read the capacity; 0 unless it is the same as two samples of each guest before."""
            nonlocal last
            samples = self.samples()
            if samples < last[0] + 2 * len(GUESTS):
                return 0
            before, last = last[1], (samples, self.capacity())
            return last[1] if abs(last[1] - before) <= MIB else 0

        self._ballast_bytes += eventually(settled, tell=lambda: last) - CAPACITY
        self._resize(self._ballast_bytes)

    def unharmed(self) -> bool:
        """Whether no guest has less than its minimum, and nothing was killed."""
        return not self.lab.oom_kills() and all(
            pod.actual_bytes() >= MINIMUM - MIB and not pod.load.info().kills for pod in self.lab.pods.values()
        )

    @contextmanager
    def beside(self, spec: GuestSpec) -> Iterator[LauncherPod]:
        """Run one more guest meanwhile, and make room for it."""
        self._ballast.close()
        try:
            (pod,) = self.lab.boot([spec])
            self.present(pod)
            yield pod
        finally:
            self.plane.kubectl("delete", "vmi", spec.name, "--ignore-not-found")
            self.lab.stop(spec.name)
            self._hold()

    @contextmanager
    def resized(self, name: str) -> Iterator[None]:
        """Pretend meanwhile that KubeVirt is about to give the guest more memory, which it does not do in the end."""
        self._order(name, 2 * SIZE)
        try:
            yield
        finally:
            self._order(name, SIZE)

    @contextmanager
    def migrating(self, name: str) -> Iterator[None]:
        """Pretend meanwhile that KubeVirt migrates the guest away, which fails in the end."""
        status = {"migrationUid": f"to-nowhere-{self.guest(name).uid}", "sourceNode": self.lab.name, "failed": False}
        self.patch(name, {"status": {"migrationState": status}})
        try:
            yield
        finally:
            self.patch(name, {"status": {"migrationState": {"failed": True}}})

    @contextmanager
    def without_controller(self) -> Iterator[None]:
        """Run no controller meanwhile."""
        status = self.running.stop()
        assert status == 0, f"the controller ended with status {status}"
        try:
            yield
        finally:
            self._start_controller()

    @contextmanager
    def short(self) -> Iterator[None]:
        """Use up nearly all that is left of the node meanwhile; wait until it is reported Ample after that."""
        with self.lab.holding(self.lab.memory_bytes - self.lab.used_bytes() - 24 * MIB):
            yield
        eventually(lambda: self.status()["state"] == "Ample")

    def restart_agent(self) -> None:
        """Kill the agent, and start another."""
        self.agent.stop(signal.SIGKILL)
        self._start_agent()

    def _set_up(self) -> None:
        self._exits.callback(self._remove)
        self._exits.enter_context(self.lab)
        self.plane.apply(node_object(self.lab.name, self.lab.memory_bytes))
        # Without free page reporting, which would return what a test has just had a guest use.
        specs = [
            *(GuestSpec(name=name, memory_bytes=SIZE, swap_bytes=SIZE, free_page_reporting=False) for name in GUESTS),
            GuestSpec(name="driverless", memory_bytes=HOPELESS, balloon_driver=False, guest_agent=False),
        ]
        for pod in self.lab.boot(specs):
            self.present(pod)
        self._start_agent()
        eventually(lambda: all(self.reports()[name].get("need") for name in GUESTS), tell=self.reports)
        self._ballast_bytes = self.capacity() - CAPACITY
        self._exits.callback(self._ballast.close)
        self._hold()
        self._start_controller()
        selector = {"virtualMachineSelector": {"matchLabels": {"field": self.lab.name}}}
        memory = {"min": str(MINIMUM)}
        self.plane.apply(memory_policy(self.lab.name, selector=selector, priority=10, memory=memory))

    def _order(self, name: str, size: int) -> None:
        self.patch(name, {"spec": {"domain": {"memory": {"guest": str(size)}}}})

    def _hold(self) -> None:
        self._resize = self._ballast.enter_context(self.lab.holding(self._ballast_bytes))

    def _metric(self, name: str, **labels: str) -> float:
        """Read a metric of the agent's that has at least these labels."""
        found = {sample.name: sample.value for sample in self._samples() if labels.items() <= sample.labels.items()}
        return float(found[name])

    def _samples(self) -> list[Sample]:
        """Read all metrics of the agent."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return [sample for family in families for sample in family.samples]

    def _start_agent(self) -> None:
        self._port = _free_port()
        options = (f"--node-name={self.lab.name}", f"--pods-dir={self.lab.pods_dir}")
        node = (f"--node-memory-cgroup={self.lab.cgroup}", f"--listen=127.0.0.1:{self._port}")
        self.agent = self._command("agent", agent_kubeconfig(self.plane, self.lab.name), *options, *node, *_AGENT)

    def _start_controller(self) -> None:
        led = 0 if self.controller is None else self.controller.said().count("leading")
        account = self.plane.service_account_kubeconfig(SYSTEM, "kubeballoon-controller")
        self.controller = self._command("controller", account, f"--namespace={SYSTEM}", "--cool-down=1s")
        await_leadership(self.running, led)

    def _command(self, command: str, kubeconfig: Path, *options: str) -> Command:
        log = self._logs / f"{command}.log"
        return self._exits.enter_context(Command(log, command, f"--kubeconfig={kubeconfig}", *options))

    def _remove(self) -> None:
        for kind in ("mempol", "nodepressure", "node"):
            self.plane.kubectl("delete", kind, self.lab.name, "--ignore-not-found")
        self.plane.kubectl("delete", "vmi", f"--selector=field={self.lab.name}")


def _at_rest(vm: dict[str, Any]) -> bool:
    if {"reason", "emergencyTarget"} & vm.keys() or "target" not in vm:
        return False
    return abs(parse_quantity(vm["actual"]) - parse_quantity(vm["target"])) <= 2 * MIB


def _free_port() -> int:
    """Find a port that is free at this moment, to be used at once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
