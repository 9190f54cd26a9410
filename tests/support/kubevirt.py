"""VMs of a real KubeVirt cluster, made as users make them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
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
_VIRSH = ("virsh", "--connect=qemu+unix:///session?socket=/var/run/libvirt/virtqemud-sock")


@dataclass(frozen=True, slots=True)
class VM:
    """A VirtualMachine of those in `VMS`, which go to one node if it has room."""

    plane: ControlPlane
    name: str

    def create(self) -> None:
        """Creates and starts it."""
        self.plane.apply({**self._written, "metadata": {"name": self.name, "namespace": NAMESPACE}})

    def delete(self) -> None:
        """Deletes it, and waits until it is gone."""
        self.plane.kubectl("delete", "vm", self.name, f"--namespace={NAMESPACE}", "--ignore-not-found", seconds=180)

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
        return parse_quantity(self._written["spec"]["template"]["spec"]["domain"]["memory"]["guest"])

    @property
    def _written(self) -> Object:
        (found,) = (each for each in yaml.safe_load(VMS.read_text())["items"] if each["metadata"]["name"] == self.name)
        return dict(found)

    def instance(self) -> Object:
        """Its VirtualMachineInstance."""
        return get(self.plane, "vmi", self.name, f"--namespace={NAMESPACE}")

    def node(self) -> str:
        """The node that it runs on."""
        return str(self.instance()["status"]["nodeName"])

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
        arguments = {"path": "/bin/busybox", "arg": ["sh", "-c", script], "capture-output": True}
        pid = self._agent("guest-exec", arguments)["pid"]
        ended = until(lambda: self._ended(pid), BOOT_SECONDS) or {}
        assert ended["exitcode"] == 0, ended
        return base64.b64decode(ended.get("out-data", "")).decode()

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

    def _ended(self, pid: int) -> dict[str, Any] | None:
        status: dict[str, Any] = self._agent("guest-exec-status", {"pid": pid})
        return status if status["exited"] else None

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
        return self.plane.kubectl(*where, *_VIRSH, *command)


def migrate(vm: VM) -> None:
    """Migrates a VM to the other node, and waits until it runs there."""
    before = vm.node()
    migration = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"generateName": f"{vm.name}-", "namespace": NAMESPACE},
        "spec": {"vmiName": vm.name},
    }
    stdin = json.dumps(migration)
    created = vm.plane.kubectl("create", "--filename=-", "--output=name", stdin=stdin).strip()

    def phase() -> str:
        return str(get(vm.plane, created, f"--namespace={NAMESPACE}").get("status", {}).get("phase"))

    until(lambda: phase() in ("Succeeded", "Failed"), BOOT_SECONDS, phase)
    assert phase() == "Succeeded"
    until(lambda: vm.node() != before, BOOT_SECONDS, vm.node)
