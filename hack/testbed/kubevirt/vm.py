"""VMs of the cluster, made as users make them, and what can be asked of them and of their guests."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.lab import MIB
from kubeballoon.api.quantity import parse_quantity

Object = dict[str, Any]
T = TypeVar("T")

VMS = Path(__file__).with_name("vms.yaml")
BOOT_SECONDS = 240.0  # until a guest's agent answers, emulated, on a busy machine
_FILL_SECONDS = 600.0  # until a guest has been given the memory for a load, and has copied as much
_PART = 8 * MIB
# What a load leaves the rest of its guest. It takes memory quicker than guests report: with 24 MiB left, a guest whose
# balloon was still asked for some ran out. With this much left a load may wait for cool-downs of its guest's target.
_SPARE = 64 * MIB
_WAITS = ("not responding", "not connected", "timed out", "state change lock")  # said while others ask the same agent
_SOCKET = "socket=/var/run/libvirt/virtqemud-sock"
_SUBRESOURCES = "/apis/subresources.kubevirt.io/v1"
_FORGOTTEN = "Invalid parameter 'pid'"  # an agent tells how a process ended once, and then knows nothing of it
_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 2.0  # of a script that runs for long: each question takes a guest's processor, which is slow

# What a script leaves in its guest, where it can be read any number of times. An order that arrives twice, because the
# answer to it was lost, starts one script.
_BEGIN = """
mkdir -p /scripts
if mkdir "/scripts/$1" 2>/dev/null; then
  (
    cd "/scripts/$1" || exit
    echo 0 >/proc/self/oom_score_adj # the agent's is -1000: a guest with nothing to kill but that would panic
    sh -c "$2" >output 2>errors
    echo $? >ending
    mv ending status
  ) </dev/null >/dev/null 2>&1 &
fi
cat /proc/sys/kernel/random/boot_id
"""
_LOOK = """
cat /proc/sys/kernel/random/boot_id
cd "/scripts/$1" 2>/dev/null && [ -e status ] && cat status output
true
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script that was started in a guest.

    Attributes:
        name: The directory of its output, in the guest's /scripts.
        boot: The guest's boot id when it was started.
    """

    name: str
    boot: str


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """How a script ended: its exit status, and what it printed to its standard output."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class VM:
    """A VirtualMachine like those in `VMS`, which go to one node if it has room.

    Attributes:
        plane: The cluster that it is in.
        name: Its name.
        changes: What its VMI's spec has in place of what is written there, or in addition.
        root: Whether KubeVirt runs its launcher as root.
        namespace: Which namespace it is in.
    """

    plane: ControlPlane
    name: str
    changes: Mapping[str, Any] = field(default_factory=dict, compare=False)
    root: bool = False
    namespace: str = "default"

    def create(self) -> None:
        """Create and start it."""
        written = {**self._written, "metadata": {"name": self.name, "namespace": self.namespace}}
        self.plane.apply(merged(written, {"spec": {"template": {"spec": self.changes}}}))

    def delete(self) -> None:
        """Delete it, and wait until it is gone."""
        self.plane.kubectl(
            "delete", "vm", self.name, f"--namespace={self.namespace}", "--ignore-not-found", seconds=180
        )
        _until(lambda: not self.exists(), BOOT_SECONDS)

    def ask(self, verb: str, kind: str = "virtualmachineinstances") -> None:
        """Have KubeVirt do what a subresource stands for, such as "pause", as virtctl would."""
        path = f"{_SUBRESOURCES}/namespaces/{self.namespace}/{kind}/{self.name}/{verb}"
        self.plane.kubectl("replace", f"--raw={path}", "--filename=-", stdin="{}")

    def wait(self) -> None:
        """Wait until it runs and its guest's agent answers."""
        for condition in ("Ready", "AgentConnected"):
            wait = ("wait", f"vmi/{self.name}", f"--namespace={self.namespace}", f"--for=condition={condition}")
            _until(self.exists, BOOT_SECONDS)
            self.plane.kubectl(*wait, f"--timeout={BOOT_SECONDS:g}s", seconds=BOOT_SECONDS + 10)

    def exists(self) -> bool:
        """Whether there is an instance of it."""
        return self.name in self.plane.kubectl("get", "vmi", "--output=name", f"--namespace={self.namespace}")

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
        return _get(self.plane, "vmi", self.name, f"--namespace={self.namespace}")

    def node(self) -> str:
        """The node that it runs on."""
        return str(self.instance()["status"]["nodeName"])

    def uid(self) -> str:
        """The uid of its instance: another one once it was started anew."""
        return str(self.instance()["metadata"]["uid"])

    def is_started_anew(self, before: str) -> bool:
        """Whether there is an instance of it other than the one with the uid `before`."""
        instances = [each["metadata"] for each in _get(self.plane, "vmi", f"--namespace={self.namespace}")["items"]]
        return any(each["name"] == self.name and each["uid"] != before for each in instances)

    def report(self) -> Object:
        """What its node's agent reports of it; empty before the first report."""
        status = _get(self.plane, "nodepressure", self.node()).get("status", {})
        uid = self.uid()
        return next((each for each in status.get("virtualMachines", []) if each["uid"] == uid), {})

    def launcher(self) -> str:
        """The pod that it runs in."""
        selector = f"--selector=vm.kubevirt.io/name={self.name}"
        running = "--field-selector=status.phase=Running"
        pods = _get(self.plane, "pod", selector, running, f"--namespace={self.namespace}")["items"]
        here = self.node()
        found = [pod["metadata"]["name"] for pod in pods if pod["spec"]["nodeName"] == here]
        if len(found) != 1:  # for a moment, while it migrates
            raise ControlPlaneError(f"{self.name} runs in {len(found)} pods on {here}")
        return str(found[0])

    def actual(self) -> int:
        """What its balloon leaves it, bytes; libvirt's own word."""
        return self.memory_stats()["actual"]

    def memory_stats(self) -> dict[str, int]:
        """What libvirt knows of its memory, bytes: `actual`, `rss` and others."""
        lines = self._virsh("dommemstat", self._domain).splitlines()
        return {name: int(number) << 10 for name, number in (line.split() for line in lines if line)}

    def run(self, script: str, seconds: float = BOOT_SECONDS) -> str:
        """Run a script in the guest to its end; return what it printed.

        Raises:
            ControlPlaneError: It failed, did not end in time, or the guest was rebooted before it ended.
        """
        begun = self.begin(script)
        result = _until(lambda: self.result(begun), seconds, longest_poll=_LONGEST_POLL_SECONDS)
        if result is None or result.status:
            errors = self._ask('cat "/scripts/$1/errors"', begun.name)
            raise ControlPlaneError(f"a script in {self.name} ended with {result}: {errors}")
        return result.output

    def begin(self, script: str) -> Script:
        """Start a script in the guest."""
        name = secrets.token_hex(8)
        return Script(name, self._ask(_BEGIN, name, script).strip())

    def result(self, script: Script) -> ScriptResult | None:
        """How a script that was started ended; None while it runs.

        Raises:
            ControlPlaneError: The guest was rebooted meanwhile, so that nobody knows.
        """
        boot, _, ended = self._ask(_LOOK, script.name).partition("\n")
        if boot != script.boot:
            raise ControlPlaneError(f"the guest of {self.name} was rebooted while a script ran in it")
        if not ended:
            return None
        status, _, output = ended.partition("\n")
        return ScriptResult(int(status), output)

    def fill(self, size: int) -> None:
        """Have the guest hold `size` bytes in files in memory, which it cannot drop, as soon as it has that much."""
        self.run(
            f"mkdir -p /load && mount -t tmpfs -o size=4g load /load && "
            f"dd if=/dev/urandom of=/load/block bs=1M count={_PART >> 20} && i=0; "
            f"while [ $i -lt {size // _PART} ]; do "
            f"while awk '/^MemAvailable/ {{ exit $2 > {_SPARE >> 10} }}' /proc/meminfo; do sleep 0.1; done; "
            f"cp /load/block /load/part$i || exit 1; i=$((i+1)); done",
            _FILL_SECONDS,
        )

    def empty(self) -> None:
        """End what `fill` began."""
        self.run("umount /load")

    @property
    def _domain(self) -> str:
        return f"{self.namespace}_{self.name}"

    def _ask(self, script: str, *arguments: str) -> str:
        """Run a short script in the guest, again if its output is lost on the way; return what it printed."""
        shell = {"path": "/bin/busybox", "arg": ["sh", "-c", script, "sh", *arguments], "capture-output": True}

        def attempt() -> Object | None:
            pid = self._agent("guest-exec", shell)["pid"]
            try:
                return _until(lambda: self._exit(pid), BOOT_SECONDS)
            except ControlPlaneError as error:
                if _FORGOTTEN in str(error):
                    return None
                raise

        ended = _until(attempt, BOOT_SECONDS) or {}
        if ended["exitcode"]:
            raise ControlPlaneError(f"{self.name} does not run {script!r}: {ended}")
        return base64.b64decode(ended.get("out-data", "")).decode()

    def _exit(self, pid: int) -> Object | None:
        status: Object = self._agent("guest-exec-status", {"pid": pid})
        return status if status["exited"] else None

    def _agent(self, command: str, arguments: dict[str, Any]) -> Any:
        asked = json.dumps({"execute": command, "arguments": arguments})
        # Its agent is asked by others too, one at a time.
        answer = _until(lambda: self._try("qemu-agent-command", "--timeout=30", self._domain, asked), BOOT_SECONDS)
        return json.loads(answer or "")["return"]

    def _try(self, *command: str) -> str | None:
        try:
            return self._virsh(*command)
        except ControlPlaneError as error:
            if any(words in str(error) for words in _WAITS):
                return None
            raise

    def _virsh(self, *command: str) -> str:
        where = ("exec", self.launcher(), f"--namespace={self.namespace}", "--container=compute", "--")
        connection = f"--connect=qemu+unix:///{'system' if self.root else 'session'}?{_SOCKET}"
        return self.plane.kubectl(*where, "virsh", connection, *command)


def _get(plane: ControlPlane, *what: str) -> Object:
    answer: Object = json.loads(plane.kubectl("get", *what, "--output=json"))
    return answer


def _until(
    condition: Callable[[], T],
    seconds: float,
    tell: Callable[[], object] | None = None,
    longest_poll: float = _POLL_SECONDS,
) -> T:
    """Return the condition's first true value; the pauses between attempts grow up to the longest.

    Raises:
        ControlPlaneError: There is none in time.
    """
    deadline, pause = time.monotonic() + seconds, _POLL_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise ControlPlaneError(f"not so within {seconds:g} s: {value if tell is None else tell()!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, longest_poll)
    return value


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Object:
    """An object with some of its fields changed, however deep they are; lists are replaced."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def begin_migration(vm: VM) -> str:
    """Have KubeVirt migrate a VM to the other node; return the migration's resource and name."""
    migration = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"generateName": f"{vm.name}-", "namespace": vm.namespace},
        "spec": {"vmiName": vm.name},
    }
    return vm.plane.kubectl("create", "--filename=-", "--output=name", stdin=json.dumps(migration)).strip()


def migrate(vm: VM) -> None:
    """Migrate a VM to the other node, and wait until it runs there."""
    before = vm.node()
    created = begin_migration(vm)

    def phase() -> str:
        return str(_get(vm.plane, created, f"--namespace={vm.namespace}").get("status", {}).get("phase"))

    _until(lambda: phase() in ("Succeeded", "Failed"), BOOT_SECONDS, phase)
    if phase() != "Succeeded":
        raise ControlPlaneError(f"the migration of {vm.name} failed")
    _until(lambda: vm.node() != before, BOOT_SECONDS, vm.node)
