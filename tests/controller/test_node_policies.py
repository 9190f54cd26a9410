"""NodePolicies on the real API server: the controller says which nodes each governs, and whether they follow."""

from __future__ import annotations

import pytest

from hack.testbed.controlplane import ControlPlane
from tests.support.cluster import FakeNode, condition, get, node_policy
from tests.support.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("leader")]

SELECTOR = {"nodeSelector": {"matchLabels": {"pool": "big"}}}


def test_a_policy_s_status_follows_the_nodes_that_it_governs(installed: ControlPlane, node: FakeNode) -> None:
    node.labels = {"pool": "big"}
    node.report()
    installed.apply(node_policy("big", selector=SELECTOR, priority=1))
    installed.apply(node_policy("small", selector={"nodeSelector": {"matchLabels": {"pool": "small"}}}))

    def ready(name: str) -> str:
        return str(condition(installed, name, "Ready", of="nodepol").get("message"))

    until(lambda: ready("big") == f"governs 1 nodes; the agents of {node.name} do not report it yet")
    until(lambda: ready("small") == "it is accepted; its selector selects no node with an agent yet")
    node.limits = {"policy": "big", "policyGeneration": get(installed, "nodepol", "big")["metadata"]["generation"]}
    node.report()
    until(lambda: ready("big") == "governs 1 nodes")
    assert get(installed, "nodepol", "big")["status"]["governed"] == 1

    node.limits |= {"refused": "it leaves VMs nothing"}
    node.report()
    until(lambda: condition(installed, "big", "Degraded", of="nodepol").get("reason") == "RefusedByNodes")
    node.limits, node.labels = {}, {"pool": "small"}
    node.report()
    until(lambda: ready("big") == "it is accepted; its selector selects no node with an agent yet")
    columns = installed.kubectl("get", "nodepol").splitlines()[0].split()
    assert columns == ["NAME", "PRIORITY", "GOVERNED", "READY", "REASON", "AGE"]
