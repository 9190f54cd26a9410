"""The agent works with the privileges that its chart gives it, and without all others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hack.testbed.hostile.launchers import RunningAgent, daemons, running
from hack.testbed.lab.launcher_process import USER
from kubeballoon.agent.hypervisor.launcher_sockets import RUNTIME

pytestmark = pytest.mark.guest  # needs root, to give privileges up
NAME = "unprivileged"
ROOT = Path(__file__).parents[2]


def capabilities() -> list[str]:
    """Read from the chart which capabilities the agent's container has."""
    template = (ROOT / "charts/kubeballoon/templates/agent.yaml").read_text()
    (added,) = re.findall(r"drop: \[ALL\]\n\s+add:\n((?:\s+(?:#.*|- \w+)\n)+)", template)
    found: list[str] = re.findall(r"- (\w+)", added)
    return found


def without_other_privileges() -> list[str]:
    """Return the command that runs another as root with these capabilities alone."""
    kept = ",".join(f"+{name.lower()}" for name in capabilities())
    return ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{kept}", "--"]


@pytest.fixture
def qemu() -> Iterator[int]:
    """Run what looks like the VM's QEMU, as the user that launchers have; yield its number."""
    with TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        program = Path(directory) / "qemu-system-x86_64"
        program.symlink_to("/bin/sh")
        arguments = [str(program), "-c", "read forever", "-name", f"guest=default_{NAME},debug-threads=on"]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, user=USER, group=USER) as process:
            yield process.pid
            process.kill()


def test_what_the_kernel_knows_of_a_vm_s_process_can_be_read(qemu: int) -> None:
    script = (
        "import json; from kubeballoon.agent.hypervisor.qemu_process import QemuProcess as Q;"
        f"q = Q('default_{NAME}'); print(json.dumps([q.pid, q.resident(), q.merged(), sorted(q.vcpus())]))"
    )
    command = [*without_other_privileges(), sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60).stdout
    pid, resident, merged, vcpus = json.loads(printed)
    assert (pid, vcpus) == (qemu, [])
    assert resident > 0
    assert (merged is not None) is Path("/proc/self/ksm_merging_pages").exists()


def test_the_agent_reaches_a_launcher_that_only_its_own_user_may_enter(tmp_path: Path, qemu: int) -> None:
    socket = tmp_path / f"pod-{NAME}" / RUNTIME / "virtqemud-sock"
    socket.parent.mkdir(parents=True)
    with running(daemons(tmp_path / "honest.json", {str(socket): {}})) as (daemon,):
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        for path in (socket, socket.parent):
            os.chown(path, USER, USER)
            path.chmod(0o700)
        agent = ["hack.testbed.hostile.agent_process", str(tmp_path), "", NAME]
        with running(agent, prefix=without_other_privileges()) as (process,):
            report = RunningAgent(process).vm(NAME, lambda vm: vm.get("need") and vm.get("resident"))
    assert qemu
    assert report.get("reason") is None
