"""The agent as a real process: real guests, real libvirt daemons, the real API server."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.controlplane import ControlPlane
from hack.lab import MIB, GuestSpec, LabNode, LauncherPod
from kubeballoon.agent.loop import HEARTBEAT
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.core.guard import STOOD
from tests.support.cluster import get
from tests.support.processes import Command, agent
from tests.support.reports import annotate, presented, reported
from tests.support.waiting import throughout, until

pytestmark = [pytest.mark.cluster, pytest.mark.guest]


@pytest.fixture
def guest(installed: ControlPlane, lab_node: LabNode, lab_guest: LauncherPod) -> Iterator[LauncherPod]:
    """The shared guest, with its objects."""
    with presented(installed, lab_node, lab_guest):
        yield lab_guest


def patch(plane: ControlPlane, guest: LauncherPod, body: dict[str, Any]) -> None:
    """Change what KubeVirt says of a VM; its status is not a subresource."""
    plane.kubectl("patch", "vmi", guest.spec.name, "--type=merge", f"--patch={json.dumps(body)}")


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
        annotate(installed, guest, memory_target="160Mi", memory_min="128Mi", policy="test")
        until(lambda: guest.actual_bytes() == 160 * MIB, 30)
        assert guest.resident_bytes() < before
        until(lambda: reported(installed, lab_node, guest).get("actual") == "160Mi")
        assert reported(installed, lab_node, guest)["policy"] == "test"
        annotate(installed, guest, memory_target="1Mi", memory_min="1Mi", policy="forged")
        throughout(lambda: guest.actual_bytes() >= 128 * MIB, 3)
        annotate(installed, guest, memory_target=None, memory_min=None, policy=None)
        until(lambda: guest.actual_bytes() == size)
        assert "Traceback" not in command.said()


def test_a_guest_with_nothing_to_give_keeps_what_it_uses_and_that_is_said(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    used = guest.load.set(100).held_mib * MIB
    try:
        with agent(installed, lab_node, tmp_path / "log"):
            until(lambda: reported(installed, lab_node, guest).get("need"), 30)
            annotate(installed, guest, memory_target="128Mi")
            until(lambda: guest.actual_bytes() < guest.spec.memory_bytes - 8 * MIB, 30)
            # Words alone are no news: they come with the heartbeat at the latest.
            said = "its guest has nothing more to give"
            until(lambda: said in reported(installed, lab_node, guest).get("message", ""), HEARTBEAT + 20)
            assert guest.load.touch(100).kills == 0
            assert guest.actual_bytes() > max(used, 128 * MIB)
            assert reported(installed, lab_node, guest)["responsive"]
    finally:
        guest.load.set(0)


def test_memory_goes_back_without_a_controller_where_no_policy_asks_for_it_any_more(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    size = guest.spec.memory_bytes
    with agent(installed, lab_node, tmp_path / "log"):
        annotate(installed, guest, memory_target="160Mi")
        until(lambda: guest.actual_bytes() == 160 * MIB, 30)
        annotate(installed, guest, exclude="true")
        until(lambda: guest.actual_bytes() == size)
        annotate(installed, guest, exclude=None)
        until(lambda: guest.actual_bytes() == 160 * MIB)
        installed.kubectl("delete", "mempol", lab_node.name)
        until(lambda: guest.actual_bytes() == size)
        until(lambda: "not followed" in reported(installed, lab_node, guest).get("message", ""))


def test_killed_and_started_again_it_moves_no_balloon(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    annotate(installed, guest, memory_target="180Mi", memory_min="128Mi")
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
    with agent(installed, lab_node, tmp_path / "log") as command:
        tasks = Path(f"/proc/{command.process.pid}/task")
        until(lambda: reported(installed, lab_node, guest).get("need"), 30)
        threads = len(list(tasks.iterdir()))
        with guest.hung():
            until(lambda: reported(installed, lab_node, guest).get("reason") == "Hung", 30)
            throughout(lambda: len(list(tasks.iterdir())) <= threads + 1, 8)  # one that reads what its process holds
        until(lambda: "reason" not in reported(installed, lab_node, guest), 30)


def test_a_vm_that_hangs_as_the_agent_starts_counts_as_what_it_held(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    annotate(installed, guest, memory_target="160Mi")
    with agent(installed, lab_node, tmp_path / "log") as command:
        until(lambda: reported(installed, lab_node, guest).get("actual") == "160Mi", 30)
        command.stop(signal.SIGKILL)
    with guest.hung(), agent(installed, lab_node, tmp_path / "again"):
        until(lambda: reported(installed, lab_node, guest).get("reason") == "Hung", 30)
        vm = reported(installed, lab_node, guest)
        assert vm["actual"] == "160Mi"
        assert abs(parse_quantity(vm["resident"]) - guest.resident_bytes()) < 8 * MIB


def test_a_migrating_vm_is_frozen_until_the_migration_ends(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log"):
        until(lambda: reported(installed, lab_node, guest).get("need"), 30)
        patch(installed, guest, {"status": {"migrationState": {"migrationUid": "m-1", "sourceNode": lab_node.name}}})
        until(lambda: reported(installed, lab_node, guest).get("reason") == "Migrating")
        annotate(installed, guest, memory_target="200Mi", memory_min="128Mi")
        until(lambda: reported(installed, lab_node, guest).get("target") == "200Mi")
        throughout(lambda: guest.actual_bytes() == guest.spec.memory_bytes, 2)
        patch(installed, guest, {"status": {"migrationState": {"completed": True}}})
        until(lambda: guest.actual_bytes() == 200 * MIB)
        elsewhere = {"metadata": {"labels": {"kubevirt.io/nodeName": "elsewhere"}}, "status": {"nodeName": "elsewhere"}}
        patch(installed, guest, elsewhere)
        until(lambda: not reported(installed, lab_node, guest))
    assert guest.actual_bytes() == 200 * MIB, "the balloon went with the VM, and is its new node's"


def test_memory_that_is_plugged_in_counts_and_is_not_asked_of_the_balloon(
    installed: ControlPlane, lab_node: LabNode, tmp_path: Path
) -> None:
    (growing,) = lab_node.boot([GuestSpec(name="growing", memory_bytes=192 * MIB, max_memory_bytes=320 * MIB)])
    with presented(installed, lab_node, growing), agent(installed, lab_node, tmp_path / "log"):
        until(lambda: reported(installed, lab_node, growing).get("need"), 30)
        annotate(installed, growing, memory_target="160Mi", memory_min="96Mi")
        until(lambda: growing.actual_bytes() == 160 * MIB)
        patch(installed, growing, {"spec": {"domain": {"memory": {"guest": "256Mi"}}}})
        until(lambda: reported(installed, lab_node, growing).get("reason") == "MemoryHotplug")
        until(lambda: growing.actual_bytes() == 192 * MIB)
        growing.plug(64 * MIB)
        patch(installed, growing, {"status": {"memory": {"guestRequested": "256Mi", "guestCurrent": "256Mi"}}})
        until(lambda: growing.actual_bytes() == (160 - 64) * MIB)
        assert reported(installed, lab_node, growing)["size"] == "256Mi"
        until(lambda: reported(installed, lab_node, growing)["actual"] == "160Mi")
    lab_node.stop("growing")


def test_memory_that_the_guest_had_returned_before_is_no_fault_of_the_balloon(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    guest.load.set(100)
    guest.load.set(0)
    reporting = guest.resident_bytes()
    until(lambda: guest.resident_bytes() < reporting - 60 * MIB, 40)
    with agent(installed, lab_node, tmp_path / "log"):
        until(lambda: reported(installed, lab_node, guest).get("need"), 30)
        annotate(installed, guest, memory_target="160Mi", memory_min="128Mi")
        until(lambda: guest.actual_bytes() == 160 * MIB)
        throughout(lambda: "reason" not in reported(installed, lab_node, guest), STOOD + 2)


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
        until(lambda: command.said().count("cannot list resource") == 3)
        assert len(command.said().splitlines()) == 3, "one line each, for VMs, policies and namespaces"
        assert command.process.poll() is None
        assert command.stop() == 0
