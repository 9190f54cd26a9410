"""NodeUnderTest: a lab node with real guests, an agent and a controller, on which tests cause faults."""

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
from kubeballoon.governance.core_inputs import memory_node
from tests.support.cluster import AS_CONTROLLER, memory_policy
from tests.support.processes import Command, await_leadership
from tests.support.waiting import eventually

SYSTEM = "kubeballoon-system"
SIZE = 256 * MIB
MINIMUM = 96 * MIB
# The memory that `GUESTS` share: enough for one whole guest, one loaded guest and one minimum, but for no more.
CAPACITY = 605 * MIB
GUESTS = ("steady", "busy", "faulty")
DRIVERLESS_SIZE = 96 * MIB  # the size of the guest without a balloon driver: nothing can be reclaimed from it
_LABEL = "node-under-test"  # of the VMIs on the node: the policy selects them by it
_AGENT_OPTIONS = ("--stats-period=1s", "--demand-window=3s", "--eviction-threshold=16Mi", "--eviction-margin=16Mi")


class NodeUnderTest:
    """A node that runs `GUESTS`, one guest without a balloon driver, an agent and a controller; a context manager.

    One MemoryPolicy governs all of its guests.
    """

    def __init__(self, plane: ControlPlane, name: str, memory: int, logs: Path) -> None:
        """Prepare a node of ``memory`` bytes; nothing runs before the context is entered.

        What processes other than VMs use differs between machines and over time. `restore_capacity` makes up for it,
        so that ``GUESTS`` always share ``CAPACITY``.
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
    def running_controller(self) -> Command:
        """The controller process that runs now."""
        assert self.controller is not None
        return self.controller

    def guest(self, name: str) -> LauncherPod:
        """Return one of the node's guests."""
        return self.lab.pods[name]

    def guest_memory(self) -> int:
        """Return how much memory the balloons leave ``GUESTS`` together, in bytes."""
        return sum(self.guest(name).actual_bytes() for name in GUESTS)

    def status(self) -> dict[str, Any]:
        """Return the status of the node's NodePressure; empty before the agent's first report."""
        found = self.plane.kubectl("get", "nodepressure", self.lab.name, "--ignore-not-found", "--output=json")
        status: dict[str, Any] = json.loads(found).get("status", {}) if found.strip() else {}
        return status

    def reports(self) -> dict[str, dict[str, Any]]:
        """Return the agent's report of each VM, by the VM's name."""
        return {vm["name"]: vm for vm in self.status().get("virtualMachines", [])}

    def reason(self, name: str) -> str | None:
        """Return the reported reason why a guest does not follow its request; None if it does."""
        found: str | None = self.reports().get(name, {}).get("reason")
        return found

    def capacity(self) -> int:
        """Return the memory that the node has for ``GUESTS``, in bytes.

        What others use is read from the agent's metrics: the report may be a percent off.
        """
        node = memory_node(self.lab.name, NodePressureStatus.model_validate(self.status()), lambda _: None, {})
        other = round(self._metric("kubeballoon_node_memory_bytes", kind="other"))
        return replace(node, other=other).capacity - DRIVERLESS_SIZE

    def sample_count(self) -> float:
        """Return how many samples of guests the agent has taken since it started."""
        return self._metric("kubeballoon_agent_sample_duration_seconds_count")

    def sampled_at(self) -> dict[str, float]:
        """Return when the agent last sampled each guest, in Unix seconds, by the guest's name."""
        name = "kubeballoon_vm_sample_timestamp_seconds"
        return {sample.labels["name"]: sample.value for sample in self._samples() if sample.name == name}

    def annotate(self, name: str, **annotations: str | None) -> None:
        """Annotate a VMI as the controller does, or as somebody who forges a request; None removes an annotation."""
        keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
        self.patch(name, {"metadata": {"annotations": keys}}, *AS_CONTROLLER)

    def patch(self, name: str, body: dict[str, Any], *options: str) -> None:
        """Patch a VMI, status included, as KubeVirt or the VM's owner would: its CRD has no status subresource."""
        self.plane.kubectl("patch", "vmi", name, "--type=merge", f"--patch={json.dumps(body)}", *options)

    def create_vmi(self, pod: LauncherPod) -> None:
        """Create the VMI of a guest, as KubeVirt would have done."""
        self.plane.apply(vmi_object(pod.spec, pod.uid, self.lab.name, labels={_LABEL: self.lab.name}))

    def await_rest(self) -> None:
        """Wait until the node is Ample and each of ``GUESTS`` holds its target, without a reason or an own decision."""

        def restless() -> list[Any]:
            status, reports = self.status(), self.reports()
            state = [] if status.get("state") == "Ample" else [status]
            return state + [reports.get(name) for name in GUESTS if not _at_rest(reports.get(name, {}))]

        eventually(lambda: not restless(), tell=restless)

    def restore_capacity(self) -> None:
        """Resize the ballast until ``GUESTS`` share ``CAPACITY`` again; the node must be at rest."""
        count, capacity = 0.0, 0

        def settled() -> int:
            """Return the capacity once two more samples of each guest have not changed it, else 0."""
            nonlocal count, capacity
            samples = self.sample_count()
            if samples < count + 2 * len(GUESTS):
                return 0
            before = capacity
            count, capacity = samples, self.capacity()
            return capacity if abs(capacity - before) <= MIB else 0

        self._ballast_bytes += eventually(settled, tell=lambda: (count, capacity)) - CAPACITY
        self._resize(self._ballast_bytes)

    def is_unharmed(self) -> bool:
        """Whether every guest holds at least its minimum, and no process was killed because the node lacked memory."""
        return not self.lab.oom_kills() and all(
            pod.actual_bytes() >= MINIMUM - MIB and not pod.load.info().kills for pod in self.lab.pods.values()
        )

    @contextmanager
    def extra_guest(self, spec: GuestSpec) -> Iterator[LauncherPod]:
        """Run one more guest inside the context, in the memory that the ballast holds otherwise."""
        self._ballast.close()
        try:
            (pod,) = self.lab.boot([spec])
            self.create_vmi(pod)
            yield pod
        finally:
            self.plane.kubectl("delete", "vmi", spec.name, "--ignore-not-found")
            self.lab.stop(spec.name)
            self._hold_ballast()

    @contextmanager
    def resized(self, name: str) -> Iterator[None]:
        """Order a memory hotplug for a guest inside the context, and cancel it at the end."""
        self._order_memory(name, 2 * SIZE)
        try:
            yield
        finally:
            self._order_memory(name, SIZE)

    @contextmanager
    def migrating(self, name: str) -> Iterator[None]:
        """Report a migration of a guest inside the context, as KubeVirt would, and its failure at the end."""
        status = {
            "migrationUid": f"to-nowhere-{self.guest(name).uid}",
            "sourceNode": self.lab.name,
            "startTimestamp": "2026-01-01T00:00:00Z",
            "failed": False,
        }
        self.patch(name, {"status": {"migrationState": status}})
        try:
            yield
        finally:
            self.patch(name, {"status": {"migrationState": {"failed": True}}})

    @contextmanager
    def without_controller(self) -> Iterator[None]:
        """Stop the controller inside the context, and start another at the end."""
        status = self.running_controller.stop()
        assert status == 0, f"the controller ended with status {status}"
        try:
            yield
        finally:
            self._start_controller()

    @contextmanager
    def short(self) -> Iterator[None]:
        """Let another process hold all but 24 MiB of the node's free memory inside the context.

        The node is reported Ample again before the context ends.
        """
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
        # Without free page reporting: it would return the memory that a test has just made a guest use.
        specs = [
            *(GuestSpec(name=name, memory_bytes=SIZE, swap_bytes=SIZE, free_page_reporting=False) for name in GUESTS),
            GuestSpec(name="driverless", memory_bytes=DRIVERLESS_SIZE, balloon_driver=False, guest_agent=False),
        ]
        for pod in self.lab.boot(specs):
            self.create_vmi(pod)
        self._start_agent()
        eventually(lambda: all(self.reports()[name].get("need") for name in GUESTS), tell=self.reports)
        self._ballast_bytes = self.capacity() - CAPACITY
        self._exits.callback(self._ballast.close)
        self._hold_ballast()
        self._start_controller()
        selector = {"virtualMachineSelector": {"matchLabels": {_LABEL: self.lab.name}}}
        memory = {"min": str(MINIMUM)}
        self.plane.apply(memory_policy(self.lab.name, selector=selector, priority=10, memory=memory))

    def _order_memory(self, name: str, size: int) -> None:
        self.patch(name, {"spec": {"domain": {"memory": {"guest": str(size)}}}})

    def _hold_ballast(self) -> None:
        self._resize = self._ballast.enter_context(self.lab.holding(self._ballast_bytes))

    def _metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric that the agent exports with at least these labels."""
        found = {sample.name: sample.value for sample in self._samples() if labels.items() <= sample.labels.items()}
        return float(found[name])

    def _samples(self) -> list[Sample]:
        """Return everything that the agent exports."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return [sample for family in families for sample in family.samples]

    def _start_agent(self) -> None:
        self._port = _free_port()
        options = (
            f"--node-name={self.lab.name}",
            f"--pods-dir={self.lab.pods_dir}",
            f"--node-memory-cgroup={self.lab.cgroup}",
            f"--listen=127.0.0.1:{self._port}",
            *_AGENT_OPTIONS,
        )
        self.agent = self._command("agent", agent_kubeconfig(self.plane, self.lab.name), *options)

    def _start_controller(self) -> None:
        terms = 0 if self.controller is None else self.controller.output().count("leading")
        account = self.plane.service_account_kubeconfig(SYSTEM, "kubeballoon-controller")
        self.controller = self._command("controller", account, f"--namespace={SYSTEM}", "--cool-down=1s")
        await_leadership(self.running_controller, terms)

    def _command(self, command: str, kubeconfig: Path, *options: str) -> Command:
        log = self._logs / f"{command}.log"
        return self._exits.enter_context(Command(log, command, f"--kubeconfig={kubeconfig}", *options))

    def _remove(self) -> None:
        for kind in ("mempol", "nodepressure", "node"):
            self.plane.kubectl("delete", kind, self.lab.name, "--ignore-not-found")
        self.plane.kubectl("delete", "vmi", f"--selector={_LABEL}={self.lab.name}")


def _at_rest(vm: dict[str, Any]) -> bool:
    if {"reason", "emergencyTarget"} & vm.keys() or "target" not in vm:
        return False
    return abs(parse_quantity(vm["actual"]) - parse_quantity(vm["target"])) <= 2 * MIB


def _free_port() -> int:
    """Return a port that is free now; the caller must use it at once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
