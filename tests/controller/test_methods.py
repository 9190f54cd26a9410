"""A policy's reclaim method reaches its VMs; the controller is a real process, and the test plays the agent."""

from __future__ import annotations

import pytest

from hack.testbed.controlplane import ControlPlane
from tests.support.cluster import FakeNode, controller_annotations, get, memory_policy
from tests.support.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("leader")]


def test_a_policy_s_method_is_requested_with_the_target(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.report()
    installed.apply(memory_policy("default", memory={"max": "60%"}, reclaim={"method": "GuestAgent"}))
    until(lambda: controller_annotations(installed, node.namespace, "a").get("memory-method") == "GuestAgent")
    node.report(follow=True)
    installed.apply(memory_policy("default", memory={"max": "60%"}))
    until(lambda: "memory-method" not in controller_annotations(installed, node.namespace, "a"))
    assert "memory-target" in controller_annotations(installed, node.namespace, "a")


def test_a_policy_for_balloons_leaves_vms_without_one_alone(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a", method="GuestAgent")
    node.report()
    installed.apply(memory_policy("default", memory={"max": "60%"}, reclaim={"method": "Balloon"}))
    until(lambda: get(installed, "mempol", "default").get("status", {}).get("excluded"))
    assert get(installed, "mempol", "default")["status"]["excluded"] == [{"reason": "NoBalloon", "count": 1}]
    assert controller_annotations(installed, node.namespace, "a") == {}
    installed.apply(memory_policy("default", memory={"max": "60%"}, reclaim={"method": "Auto"}))
    until(lambda: "memory-target" in controller_annotations(installed, node.namespace, "a"))
