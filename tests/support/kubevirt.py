"""VMs of a real KubeVirt cluster, made as users make them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from kubeballoon.api.quantity import parse_quantity
from tests.support.cluster import MIB, Object, get
from tests.support.waiting import until

VMS = Path(__file__).resolve().parents[2] / "hack/testbed/kubevirt/vms.yaml"
NAMESPACE = "e2e"
BOOT_SECONDS = 240.0  # until a guest's agent answers, emulated, on a busy machine
_PART = 8 * MIB
_SPARE = 64 * MIB  # what a load leaves the rest of its guest
_WAITS = ("not responding", "not connected", "timed out", "state change lock")  # said while others ask the same agent
_SOCKET = "socket=/var/run/libvirt/virtqemud-sock"
_SUBRESOURCES = "/apis/subresources.kubevirt.io/v1"


@dataclass(frozen=True, slots=True)
class VM:
    """A VirtualMachine like those in `VMS`, which go to one node if it has room.

    Attributes:
        plane: The cluster that it is in.
        name: Its name, in the namespace of the tests.
        changes: What its VMI's spec has in place of what is written there, or in addition.
        root: Whether KubeVirt runs its launcher as root.
    """

    plane: ControlPlane
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    root: bool = False

    def create(self) -> None:
        """Creates and starts it."""
        written = {**self._written, "metadata": {"name": self.name, "namespace": NAMESPACE}}
        self.plane.apply(merged(written, {"spec": {"template": {"spec": self.changes}}}))

    def delete(self) -> None:
        """Deletes it, and waits until it is gone."""
        self.plane.kubectl("delete", "vm", self.name, f"--namespace={NAMESPACE}", "--ignore-not-found", seconds=180)
        until(lambda: not self.exists(), BOOT_SECONDS)

    def ask(self, verb: str, kind: str = "virtualmachineinstances") -> None:
        """Has KubeVirt do what a subresource stands for, such as "pause", as virtctl would."""
        path = f"{_SUBRESOURCES}/namespaces/{NAMESPACE}/{kind}/{self.name}/{verb}"
        self.plane.kubectl("replace", f"--raw={path}", "--filename=-", stdin="{}")

    def wait(self) -> None:
        """Waits until it runs and its guest's agent answers."""
        for condition in ("Ready", "AgentConnected"):
            wait = ("wait", f"vmi/{self.name}", f"--namespace={NAMESPACE}", f"--for=condition={condition}")
            until(self.exists, BOOT_SECONDS)
            self.plane.kubectl(*wait, f"--timeout={BOOT_SECONDS:g}s", seconds=BOOT_SECONDS + 10)

    def exists(self) -> bool:
        """Whether there is an instance of it."""
        return self.name in self.plane.kubectl("get", "vmi", "--output=name", f"--namespace={NAMESPACE}")

    @property
    def memory(self) -> int:
        """Its size, bytes."""
        written = merged(self._written["spec"]["template"]["spec"], self.changes)
        return parse_quantity(written["domain"]["memory"]["guest"])

    @property
    def _written(self) -> Object:
        return dict(yaml.safe_load(VMS.read_text())["items"][0])  # they differ in their names alone

    def instance(self) -> Object:
        """Its VirtualMachineInstance."""
        return get(self.plane, "vmi", self.name, f"--namespace={NAMESPACE}")

    def node(self) -> str:
        """The node that it runs on."""
        return str(self.instance()["status"]["nodeName"])

    def uid(self) -> str:
        """The uid of its instance: another one once it was started anew."""
        return str(self.instance()["metadata"]["uid"])

    def is_started_anew(self, before: str) -> bool:
        """Whether there is an instance of it other than the one with the uid `before`."""
        instances = [each["metadata"] for each in get(self.plane, "vmi", f"--namespace={NAMESPACE}")["items"]]
        return any(each["name"] == self.name and each["uid"] != before for each in instances)

    def report(self) -> Object:
        """What its node's agent reports of it; empty before the first report."""
        status = get(self.plane, "nodepressure", self.node()).get("status", {})
        uid = self.uid()
        return next((each for each in status.get("virtualMachines", []) if each["uid"] == uid), {})

    def launcher(self) -> str:
        """The pod that it runs in."""
        selector = f"--selector=vm.kubevirt.io/name={self.name}"
        running = "--field-selector=status.phase=Running"
        pods = get(self.plane, "pod", selector, running, f"--namespace={NAMESPACE}")["items"]
        here = self.node()
        (pod,) = (pod["metadata"]["name"] for pod in pods if pod["spec"]["nodeName"] == here)
        return str(pod)

    def actual(self) -> int:
        """What its balloon leaves it, bytes; libvirt's own word."""
        lines = self._virsh("dommemstat", self._domain).splitlines()
        numbers = dict(line.split() for line in lines if line)
        return int(numbers["actual"]) << 10

    def run(self, script: str) -> str:
        """Runs a script in the guest to its end; returns what it printed."""
        pid = self.begin(script)
        ended = until(lambda: self.ended(pid), BOOT_SECONDS) or {}
        assert ended["exitcode"] == 0, ended
        return base64.b64decode(ended.get("out-data", "")).decode()

    def begin(self, script: str) -> int:
        """Starts a script in the guest; returns its process's number there."""
        arguments = {"path": "/bin/busybox", "arg": ["sh", "-c", script], "capture-output": True}
        return int(self._agent("guest-exec", arguments)["pid"])

    def ended(self, pid: int) -> dict[str, Any] | None:
        """How a script that was started ended; None while it runs."""
        status: dict[str, Any] = self._agent("guest-exec-status", {"pid": pid})
        return status if status["exited"] else None

    def fill(self, size: int) -> None:
        """Has the guest hold `size` bytes in files in memory, which it cannot drop, as soon as it has that much."""
        self.run(
            f"mkdir -p /load && mount -t tmpfs -o size=4g load /load && "
            f"dd if=/dev/urandom of=/load/block bs=1M count={_PART >> 20} && i=0; "
            f"while [ $i -lt {size // _PART} ]; do "
            f"while awk '/^MemAvailable/ {{ exit $2 > {_SPARE >> 10} }}' /proc/meminfo; do sleep 0.1; done; "
            f"cp /load/block /load/part$i || exit 1; i=$((i+1)); done"
        )

    def empty(self) -> None:
        """Ends what `fill` began."""
        self.run("umount /load")

    @property
    def _domain(self) -> str:
        return f"{NAMESPACE}_{self.name}"

    def _agent(self, command: str, arguments: dict[str, Any]) -> Any:
        asked = json.dumps({"execute": command, "arguments": arguments})
        # Its agent is asked by others too, one at a time.
        answer = until(lambda: self._try("qemu-agent-command", "--timeout=30", self._domain, asked), BOOT_SECONDS)
        return json.loads(answer or "")["return"]

    def _try(self, *command: str) -> str | None:
        try:
            return self._virsh(*command)
        except ControlPlaneError as error:
            if any(words in str(error) for words in _WAITS):
                return None
            raise

    def _virsh(self, *command: str) -> str:
        where = ("exec", self.launcher(), f"--namespace={NAMESPACE}", "--container=compute", "--")
        connection = f"--connect=qemu+unix:///{'system' if self.root else 'session'}?{_SOCKET}"
        return self.plane.kubectl(*where, "virsh", connection, *command)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Object:
    """An object with some of its fields changed, however deep they are; lists are replaced."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def begin_migration(vm: VM) -> str:
    """Has KubeVirt migrate a VM to the other node; returns the migration's resource and name."""
    migration = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"generateName": f"{vm.name}-", "namespace": NAMESPACE},
        "spec": {"vmiName": vm.name},
    }
    return vm.plane.kubectl("create", "--filename=-", "--output=name", stdin=json.dumps(migration)).strip()


def migrate(vm: VM) -> None:
    """Migrates a VM to the other node, and waits until it runs there."""
    before = vm.node()
    created = begin_migration(vm)

    def phase() -> str:
        return str(get(vm.plane, created, f"--namespace={NAMESPACE}").get("status", {}).get("phase"))

    until(lambda: phase() in ("Succeeded", "Failed"), BOOT_SECONDS, phase)
    assert phase() == "Succeeded"
    until(lambda: vm.node() != before, BOOT_SECONDS, vm.node)
