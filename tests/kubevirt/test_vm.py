"""Scripts in the guests of the cluster's VMs, whose agents' answers may be lost."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.kubevirt.vm import VM

LOST = ControlPlaneError("error: Guest agent is not responding: Guest agent not available for now")


@dataclass
class Cluster:
    """A cluster with one VM, whose guest's files are in a directory.

    Attributes:
        lost: How many of the next answers to a command of the guest's agent are lost on the way.
    """

    guest: Path
    lost: dict[str, int] = field(default_factory=dict)
    ended: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The guest boots."""
        self.boot()

    def boot(self, number: int = 1) -> None:
        """Boots the guest, again perhaps: what it had in memory is gone."""
        (self.guest / "boot_id").write_text(f"boot-{number}\n")
        subprocess.run(["rm", "-rf", self.guest / "scripts"], check=True)
        self.ended.clear()

    def kubectl(self, verb: str, *arguments: str) -> str:
        """Answers what is asked of the API server, or of virsh in the VM's pod."""
        if verb == "exec":
            return self.answer(json.loads(arguments[-1]))
        if arguments[0] == "vmi":
            return json.dumps({"status": {"nodeName": "node-1"}})
        return json.dumps({"items": [{"metadata": {"name": "launcher"}, "spec": {"nodeName": "node-1"}}]})

    def answer(self, asked: dict[str, Any]) -> str:
        """Answers as the guest's agent does, or loses the answer."""
        arguments = asked["arguments"]
        if asked["execute"] == "guest-exec":
            answer = {"pid": self.execute(arguments["arg"])}
        elif arguments["pid"] in self.ended:
            answer = self.ended.pop(arguments["pid"])
        else:
            raise ControlPlaneError("unable to execute QEMU agent command: Invalid parameter 'pid'")
        if self.lost.get(asked["execute"], 0):
            self.lost[asked["execute"]] -= 1
            raise LOST
        return json.dumps({"return": answer})

    def execute(self, arguments: list[str]) -> int:
        """Runs a shell to its end; returns its process's number."""
        replaced = {"/scripts": f"{self.guest}/scripts", "/proc/sys/kernel/random": str(self.guest)}
        for ours, there in replaced.items():
            arguments = [argument.replace(ours, there) for argument in arguments]
        run = subprocess.run(arguments, capture_output=True, check=False, timeout=60)
        pid = 100 + len(list(self.guest.glob("asked-*")))
        (self.guest / f"asked-{pid}").touch()
        output = base64.b64encode(run.stdout).decode()
        self.ended[pid] = {"exited": True, "exitcode": run.returncode, "out-data": output}
        return pid


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """A cluster that loses nothing."""
    return Cluster(tmp_path)


@pytest.fixture
def vm(cluster: Cluster) -> VM:
    """The VM of that cluster."""
    return VM(cast("ControlPlane", cluster), "vm")


def test_a_script_s_output_is_what_it_printed_line_by_line(vm: VM) -> None:
    assert vm.run("echo one; echo; echo two; echo not this >&2") == "one\n\ntwo\n"
    assert vm.run("true") == ""


@pytest.mark.parametrize("command", ["guest-exec", "guest-exec-status"])
def test_a_script_runs_once_and_its_output_is_known_though_answers_are_lost(
    cluster: Cluster, vm: VM, command: str
) -> None:
    cluster.lost[command] = 2
    assert vm.run(f"echo ran >>{cluster.guest}/runs; echo done") == "done\n"
    assert (cluster.guest / "runs").read_text() == "ran\n"


def test_how_a_script_ended_can_be_asked_again(cluster: Cluster, vm: VM) -> None:
    script = vm.begin(f"until [ -e {cluster.guest}/go ]; do sleep 0.01; done; echo gone; exit 3")
    assert vm.result(script) is None
    (cluster.guest / "go").touch()
    while (first := vm.result(script)) is None:
        pass
    assert (first.status, first.output) == (3, "gone\n")
    assert vm.result(script) == first


def test_a_script_that_fails_is_told_with_what_it_said(vm: VM) -> None:
    with pytest.raises(ControlPlaneError, match=r"a script in vm ended with .*status=4.*: it broke"):
        vm.run("echo it broke >&2; exit 4")


def test_a_reboot_while_a_script_runs_is_said(cluster: Cluster, vm: VM) -> None:
    script = vm.begin("true")
    cluster.boot(2)
    with pytest.raises(ControlPlaneError, match="the guest of vm was rebooted while a script ran in it"):
        vm.result(script)
