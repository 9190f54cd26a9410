"""The agent as a real process: real guests, real libvirt daemons, the real API server."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.controlplane import ControlPlane
from hack.lab import MIB, LabNode, LauncherPod, node_object, vmi_object
from kubeballoon.api.quantity import parse_quantity
from tests.support.cluster import get
from tests.support.processes import Command
from tests.support.waiting import throughout, until

pytestmark = [pytest.mark.cluster, pytest.mark.guest]

SYSTEM = "kubeballoon-system"


@pytest.fixture
def guest(installed: ControlPlane, lab_node: LabNode, lab_guest: LauncherPod) -> Iterator[LauncherPod]:
    """A guest with the objects that KubeVirt would have made of it, and all of its memory."""
    installed.apply(node_object(lab_node.name, lab_node.memory_bytes))
    installed.apply(vmi_object(lab_guest.spec, lab_guest.uid, lab_node.name))
    lab_guest.set_memory(lab_guest.spec.memory_bytes)
    yield lab_guest
    installed.kubectl("delete", "vmi", lab_guest.spec.name)
    installed.kubectl("delete", "nodepressure", lab_node.name, "--ignore-not-found")
    installed.kubectl("delete", "node", lab_node.name)


def agent(plane: ControlPlane, node: LabNode, log: Path) -> Command:
    kubeconfig = plane.service_account_kubeconfig(SYSTEM, "kubeballoon-agent")
    return Command(
        log,
        "agent",
        f"--kubeconfig={kubeconfig}",
        f"--node-name={node.name}",
        f"--pods-dir={node.pods_dir}",
        f"--node-memory-cgroup={node.cgroup}",
        "--stats-period=1s",
        "--eviction-threshold=16Mi",
    )


def ask(plane: ControlPlane, guest: LauncherPod, **asked: str | None) -> None:
    """Annotate as the controller would."""
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in asked.items()}
    patch = json.dumps({"metadata": {"annotations": keys}})
    plane.kubectl("patch", "vmi", guest.spec.name, "--type=merge", f"--patch={patch}")


def reported(plane: ControlPlane, node: LabNode, guest: LauncherPod) -> dict[str, Any]:
    """What the agent reports of the guest; empty before it does."""
    found = plane.kubectl("get", "nodepressure", node.name, "--ignore-not-found", "--output=json")
    status = json.loads(found).get("status", {}) if found.strip() else {}
    vms = status.get("virtualMachines", [])
    return next((vm for vm in vms if vm["name"] == guest.spec.name), {})


def test_the_node_and_its_vms_are_reported(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log") as command:
        vm = until(lambda: now if "need" in (now := reported(installed, lab_node, guest)) else {}, 30)
        pressure = get(installed, "nodepressure", lab_node.name)
        assert command.stop() == 0
    assert parse_quantity(vm["size"]) == parse_quantity(vm["actual"]) == guest.spec.memory_bytes
    assert 0 < parse_quantity(vm["need"]) < guest.spec.memory_bytes // 2
    assert parse_quantity(vm["resident"]) > 50 * MIB
    assert vm["eligible"]
    assert vm["responsive"]
    owner = pressure["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Node", lab_node.name)
    memory = {key: parse_quantity(value) for key, value in pressure["status"]["memory"].items()}
    assert memory["total"] == lab_node.memory_bytes
    assert 0 < memory["available"] < memory["total"]
    assert pressure["status"]["state"] == "High"


def test_a_request_is_carried_out_and_given_back(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    size = guest.spec.memory_bytes
    guest.load.set(60)
    guest.load.set(0)
    before = guest.resident_bytes()
    with agent(installed, lab_node, tmp_path / "log") as command:
        ask(installed, guest, memory_target="160Mi", memory_min="128Mi", policy="test")
        until(lambda: guest.actual_bytes() == 160 * MIB, 30)
        assert guest.resident_bytes() < before
        until(lambda: reported(installed, lab_node, guest).get("actual") == "160Mi")
        assert reported(installed, lab_node, guest)["policy"] == "test"
        ask(installed, guest, memory_target="1Mi")
        throughout(lambda: guest.actual_bytes() >= 128 * MIB, 3)
        ask(installed, guest, memory_target=None, memory_min=None, policy=None)
        until(lambda: guest.actual_bytes() == size)
        assert "Traceback" not in command.said()


def test_killed_and_started_again_it_moves_no_balloon(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    ask(installed, guest, memory_target="180Mi", memory_min="128Mi")
    with agent(installed, lab_node, tmp_path / "log") as command:
        until(lambda: guest.actual_bytes() == 180 * MIB, 30)
        assert command.stop(signal.SIGKILL) == -signal.SIGKILL
    assert guest.actual_bytes() == 180 * MIB
    installed.kubectl("delete", "nodepressure", lab_node.name)
    with agent(installed, lab_node, tmp_path / "again") as command:
        until(lambda: reported(installed, lab_node, guest).get("actual") == "180Mi", 30)
        throughout(lambda: guest.actual_bytes() == 180 * MIB, 2)
        assert command.stop() == 0
    assert guest.actual_bytes() == 180 * MIB


def test_a_hung_qemu_is_reported_and_welcomed_back(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log"):
        until(lambda: reported(installed, lab_node, guest).get("responsive"), 30)
        with guest.hung():
            until(lambda: reported(installed, lab_node, guest).get("reason") == "Hung", 30)
        until(lambda: "reason" not in reported(installed, lab_node, guest), 30)


def test_a_report_that_is_deleted_is_made_anew(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log"):
        until(lambda: reported(installed, lab_node, guest).get("need"), 30)
        installed.kubectl("delete", "nodepressure", lab_node.name)
        guest.load.set(60)
        until(lambda: reported(installed, lab_node, guest), 30)
        guest.load.set(0)


def test_what_it_may_not_do_is_named_and_ends_nothing(
    installed: ControlPlane, lab_node: LabNode, namespace: str, tmp_path: Path
) -> None:
    installed.kubectl("create", "serviceaccount", "nobody", f"--namespace={namespace}")
    kubeconfig = installed.service_account_kubeconfig(namespace, "nobody")
    options = (f"--kubeconfig={kubeconfig}", f"--node-name={lab_node.name}", f"--pods-dir={lab_node.pods_dir}")
    with Command(tmp_path / "log", "agent", *options) as command:
        until(lambda: command.said().count("cannot list resource") == 2)
        assert len(command.said().splitlines()) == 2, "one line each, for VMs and for policies"
        assert command.process.poll() is None
        assert command.stop() == 0
