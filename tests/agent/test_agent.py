"""The agent as a real process: real guests, real libvirt daemons, the real API server."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import MIB, GuestSpec, LabNode, LauncherPod
from kubeballoon.api.names import EXCLUDE
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.memory.request_checks import STILL_SECONDS
from tests.support.cluster import get
from tests.support.guests import booted, loaded
from tests.support.processes import Command, agent
from tests.support.reports import annotate, presented, reported
from tests.support.waiting import eventually, throughout

pytestmark = [pytest.mark.cluster, pytest.mark.guest]


@pytest.fixture
def guest(installed: ControlPlane, lab_node: LabNode, lab_guest: LauncherPod) -> Iterator[LauncherPod]:
    """The shared guest, with its objects."""
    with presented(installed, lab_node, lab_guest):
        yield lab_guest


def patch(plane: ControlPlane, guest: LauncherPod, body: dict[str, Any]) -> None:
    """Change what KubeVirt says of a VM; its status is not a subresource."""
    plane.kubectl("patch", "vmi", guest.spec.name, "--type=merge", f"--patch={json.dumps(body)}")


def exclude(plane: ControlPlane, guest: LauncherPod, value: str | None) -> None:
    """Annotate a VM as its owner may, and as the controller must not."""
    patch(plane, guest, {"metadata": {"annotations": {EXCLUDE: value}}})


def test_the_node_and_its_vms_are_reported(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log") as command:
        vm = eventually(lambda: now if "need" in (now := reported(installed, lab_node, guest)) else {})
        eventually(lambda: reported(installed, lab_node, guest)["responsive"])
        eventually(lambda: get(installed, "nodepressure", lab_node.name)["status"]["state"] == "Ample")
        pressure = get(installed, "nodepressure", lab_node.name)
        assert command.stop() == 0
    assert parse_quantity(vm["size"]) == parse_quantity(vm["actual"]) == guest.spec.memory_bytes
    assert 0 < parse_quantity(vm["need"]) < guest.spec.memory_bytes // 2
    assert parse_quantity(vm["resident"]) > 50 * MIB
    assert vm["eligible"]
    owner = pressure["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Node", lab_node.name)
    memory = {key: parse_quantity(value) for key, value in pressure["status"]["memory"].items()}
    assert memory["total"] == lab_node.memory_bytes
    assert 0 < memory["available"] < memory["total"]


def test_a_request_is_carried_out_and_given_back(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    size = guest.spec.memory_bytes
    with loaded(guest, 120):
        before = guest.resident_bytes()
    with agent(installed, lab_node, tmp_path / "log") as command:
        annotate(installed, guest, memory_target="160Mi", memory_min="128Mi", policy="test")
        eventually(lambda: guest.actual_bytes() == 160 * MIB)
        assert guest.resident_bytes() < before - 40 * MIB
        eventually(lambda: reported(installed, lab_node, guest).get("actual") == "160Mi")
        assert reported(installed, lab_node, guest)["policy"] == "test"
        annotate(installed, guest, memory_target="1Mi", memory_min="1Mi", policy="forged")
        throughout(lambda: guest.actual_bytes() >= 128 * MIB, 3)
        annotate(installed, guest, memory_target=None, memory_min=None, policy=None)
        eventually(lambda: guest.actual_bytes() == size)
        assert "Traceback" not in command.output()


def test_a_guest_with_nothing_to_give_keeps_what_it_uses_and_that_is_reported(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    def is_reported() -> bool:
        vm = reported(installed, lab_node, guest)
        return "its guest has nothing more to give" in vm["message"] and bool(vm["responsive"])

    with loaded(guest, 100) as load, agent(installed, lab_node, tmp_path / "log"):
        eventually(lambda: reported(installed, lab_node, guest).get("need"))
        annotate(installed, guest, memory_target="128Mi")
        eventually(lambda: guest.actual_bytes() < guest.spec.memory_bytes - 8 * MIB)
        eventually(is_reported)  # a message that changes causes no report by itself
        assert guest.load.touch(100).kills == 0
        assert guest.actual_bytes() > max(load.held_mib, 128) * MIB


def test_memory_goes_back_without_a_controller_where_no_policy_asks_for_it_any_more(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    size = guest.spec.memory_bytes
    with agent(installed, lab_node, tmp_path / "log"):
        annotate(installed, guest, memory_target="160Mi")
        eventually(lambda: guest.actual_bytes() == 160 * MIB)
        exclude(installed, guest, "true")
        eventually(lambda: guest.actual_bytes() == size)
        exclude(installed, guest, None)
        eventually(lambda: guest.actual_bytes() == 160 * MIB)
        installed.kubectl("delete", "mempol", lab_node.name)
        eventually(lambda: guest.actual_bytes() == size)
        eventually(lambda: "not followed" in reported(installed, lab_node, guest).get("message", ""))


def test_an_agent_that_is_killed_and_started_again_moves_no_balloon(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    annotate(installed, guest, memory_target="180Mi", memory_min="128Mi")
    with agent(installed, lab_node, tmp_path / "log") as command:
        eventually(lambda: guest.actual_bytes() == 180 * MIB)
        assert command.stop(signal.SIGKILL) == -signal.SIGKILL
    assert guest.actual_bytes() == 180 * MIB
    installed.kubectl("delete", "nodepressure", lab_node.name)
    with agent(installed, lab_node, tmp_path / "again") as command:
        eventually(lambda: reported(installed, lab_node, guest).get("actual") == "180Mi")
        throughout(lambda: guest.actual_bytes() == 180 * MIB, 2)
        assert command.stop() == 0
    assert guest.actual_bytes() == 180 * MIB


def test_a_hung_qemu_is_reported_and_welcomed_back(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log") as command:
        tasks = Path(f"/proc/{command.process.pid}/task")
        # By then both workers of the VM have their threads.
        eventually(lambda: (vm := reported(installed, lab_node, guest))["need"] and vm["processors"]["online"])
        threads = len(list(tasks.iterdir()))
        with guest.hung():
            eventually(lambda: reported(installed, lab_node, guest).get("reason") == "Hung")
            throughout(
                lambda: len(list(tasks.iterdir())) <= threads + 1, 8
            )  # the one more reads what the VM's process holds
        eventually(lambda: "reason" not in reported(installed, lab_node, guest))


def test_a_vm_that_hangs_as_the_agent_starts_counts_as_what_it_held(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    annotate(installed, guest, memory_target="160Mi")
    with agent(installed, lab_node, tmp_path / "log") as command:
        eventually(lambda: reported(installed, lab_node, guest).get("actual") == "160Mi")
        command.stop(signal.SIGKILL)

    def hung() -> dict[str, Any]:
        vm = reported(installed, lab_node, guest)
        measured = abs(parse_quantity(vm["resident"]) - guest.resident_bytes()) < 8 * MIB
        return vm if vm["reason"] == "Hung" and measured else {}

    with guest.hung(), agent(installed, lab_node, tmp_path / "again"):
        assert eventually(hung)["actual"] == "160Mi"


def test_a_migrating_vm_is_held_until_the_migration_ends(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log"):
        eventually(lambda: reported(installed, lab_node, guest).get("need"))
        patch(
            installed,
            guest,
            {"status": {"migrationState": {"migrationUid": "m-1", "startTimestamp": "2026-01-01T00:00:00Z"}}},
        )
        eventually(lambda: reported(installed, lab_node, guest).get("reason") == "Migrating")
        annotate(installed, guest, memory_target="200Mi", memory_min="128Mi")
        eventually(lambda: reported(installed, lab_node, guest).get("target") == "200Mi")
        throughout(lambda: guest.actual_bytes() == guest.spec.memory_bytes, 2)
        patch(installed, guest, {"status": {"migrationState": {"completed": True}}})
        eventually(lambda: guest.actual_bytes() == 200 * MIB)
        elsewhere = {"metadata": {"labels": {"kubevirt.io/nodeName": "elsewhere"}}, "status": {"nodeName": "elsewhere"}}
        patch(installed, guest, elsewhere)
        eventually(lambda: not reported(installed, lab_node, guest))
    assert guest.actual_bytes() == 200 * MIB, "the balloon went with the VM, and is its new node's"


def test_memory_that_is_plugged_in_counts_and_is_not_requested_of_the_balloon(
    installed: ControlPlane, lab_node: LabNode, tmp_path: Path
) -> None:
    def grown() -> bool:
        vm = reported(installed, lab_node, growing)
        return (vm["size"], vm["actual"]) == ("256Mi", "160Mi")

    spec = GuestSpec(name="growing", memory_bytes=192 * MIB, max_memory_bytes=320 * MIB)
    with (
        booted(lab_node, spec) as growing,
        presented(installed, lab_node, growing),
        agent(installed, lab_node, tmp_path / "log"),
    ):
        eventually(lambda: reported(installed, lab_node, growing).get("need"))
        annotate(installed, growing, memory_target="160Mi", memory_min="96Mi")
        eventually(lambda: growing.actual_bytes() == 160 * MIB)
        patch(installed, growing, {"spec": {"domain": {"memory": {"guest": "256Mi"}}}})
        eventually(lambda: reported(installed, lab_node, growing).get("reason") == "MemoryHotplug")
        eventually(lambda: growing.actual_bytes() == 192 * MIB)
        growing.plug(64 * MIB)
        patch(installed, growing, {"status": {"memory": {"guestRequested": "256Mi", "guestCurrent": "256Mi"}}})
        eventually(lambda: growing.actual_bytes() == (160 - 64) * MIB)
        eventually(grown)


def test_memory_that_the_guest_had_returned_before_is_no_fault_of_the_balloon(
    installed: ControlPlane, lab_node: LabNode, wide_guest: LauncherPod, tmp_path: Path
) -> None:
    with presented(installed, lab_node, wide_guest) as guest:
        with loaded(guest, 100):
            before = guest.resident_bytes()
        eventually(lambda: guest.resident_bytes() < before - 60 * MIB)
        with agent(installed, lab_node, tmp_path / "log"):
            eventually(lambda: reported(installed, lab_node, guest).get("need"))
            annotate(installed, guest, memory_target="160Mi", memory_min="128Mi")
            eventually(lambda: guest.actual_bytes() == 160 * MIB)
            throughout(
                lambda: reported(installed, lab_node, guest).get("reason") != AgentReason.BALLOON_INEFFECTIVE,
                STILL_SECONDS + 2,
            )


def test_a_report_that_is_deleted_is_made_anew(
    installed: ControlPlane, lab_node: LabNode, guest: LauncherPod, tmp_path: Path
) -> None:
    with agent(installed, lab_node, tmp_path / "log"):
        eventually(lambda: reported(installed, lab_node, guest).get("need"))
        installed.kubectl("delete", "nodepressure", lab_node.name)
        with loaded(guest, 60):
            eventually(lambda: reported(installed, lab_node, guest))


def test_missing_permissions_are_named_and_end_nothing(
    installed: ControlPlane, lab_node: LabNode, namespace: str, tmp_path: Path
) -> None:
    installed.kubectl("create", "serviceaccount", "nobody", f"--namespace={namespace}")
    kubeconfig = installed.service_account_kubeconfig(namespace, "nobody")
    options = (f"--kubeconfig={kubeconfig}", f"--node-name={lab_node.name}", f"--pods-dir={lab_node.pods_dir}")
    with Command(tmp_path / "log", "agent", *options) as command:
        eventually(lambda: command.output().count("cannot list resource") == 6)
        assert len(command.output().splitlines()) == 7, "a line each: VMs, policies, namespaces, KubeVirt, its Node"
        assert command.process.poll() is None
        assert command.stop() == 0
