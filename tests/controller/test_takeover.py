"""When the leading controller is killed, another replica leads; both are real processes on the real API server."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.controlplane.local import LocalControlPlane
from tests.support.cluster import FakeNode, controller_annotations, get, memory_policy
from tests.support.processes import LEAD_SECONDS, SYSTEM, Command, controller
from tests.support.waiting import until

pytestmark = pytest.mark.cluster


def holder(plane: ControlPlane) -> str:
    lease = get(plane, "lease", "kubeballoon-controller", f"--namespace={SYSTEM}")["spec"]
    return str(lease.get("holderIdentity"))


def leads(plane: ControlPlane, command: Command) -> bool:
    return "leading" in command.output() and holder(plane).endswith(f"_{command.process.pid}")


def minimums(plane: ControlPlane, node: FakeNode) -> set[str | None]:
    """Return the minimums that are written on a node's VMs."""
    return {controller_annotations(plane, node.namespace, name).get("memory-min") for name in node.vms}


def test_when_the_leader_is_killed_the_other_replica_goes_on(
    installed: ControlPlane, node: FakeNode, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        node.add(name)
    node.report()
    installed.apply(memory_policy("default", memory={"min": "256Mi"}))
    with controller(installed, tmp_path / "first") as first, controller(installed, tmp_path / "second") as second:
        until(lambda: leads(installed, first) or leads(installed, second), LEAD_SECONDS)
        leader, other = (first, second) if leads(installed, first) else (second, first)
        until(lambda: minimums(installed, node) == {"256Mi"})
        until(lambda: "standing by" in other.output())
        leader.process.send_signal(signal.SIGKILL)
        assert leader.process.wait(5) == -signal.SIGKILL
        # The Lease was not handed back: requests hold, and a change of the policy waits for the other replica.
        assert not holder(installed).endswith(f"_{other.process.pid}")
        installed.apply(memory_policy("default", memory={"min": "300Mi"}))
        until(lambda: leads(installed, other), LEAD_SECONDS)
        until(lambda: minimums(installed, node) == {"300Mi"})
        assert "Traceback" not in other.output()


def test_a_controller_goes_on_after_etcd_was_killed_and_came_back(
    installed: ControlPlane, node: FakeNode, tmp_path: Path
) -> None:
    if not isinstance(installed, LocalControlPlane):
        pytest.skip("the etcd of a cluster that is given is not ours to kill")

    for name in ("a", "b", "c"):
        node.add(name)
    node.report()
    installed.apply(memory_policy("default", memory={"min": "256Mi"}))
    with controller(installed, tmp_path / "log") as only:
        until(lambda: minimums(installed, node) == {"256Mi"}, LEAD_SECONDS)
        with installed.without_etcd():
            until(lambda: "WARNING" in only.output(), LEAD_SECONDS)
        node.report()
        installed.apply(memory_policy("default", memory={"min": "300Mi"}))
        until(lambda: minimums(installed, node) == {"300Mi"}, LEAD_SECONDS)
        assert only.output().count("leading as") == 1
        assert "Traceback" not in only.output()
