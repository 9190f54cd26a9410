"""NodePolicies on the real API server: the controller says which nodes each governs, and whether they follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hack.testbed.chart import NAMESPACE, RELEASE
from hack.testbed.controlplane import ControlPlane
from kubeballoon.api.quantity import parse_quantity
from tests.support.cluster import (
    MIB,
    FakeNode,
    Object,
    condition,
    get,
    is_allowed,
    memory_policy,
    node_policy,
    set_taints,
)
from tests.support.processes import Command, await_leadership, controller
from tests.support.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("leader")]

AS_USER = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-controller"


@pytest.fixture(scope="module")
def leader(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A controller that leads, and may taint nodes and migrate VMs as the chart can allow, for all tests here."""
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "test-remedies"}}
    migrations = {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachineinstancemigrations"]}
    rules = [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]},
        {**migrations, "verbs": ["create", "list", "watch", "delete"]},
        {**migrations, "resources": ["kubevirts"], "verbs": ["list"]},
        {**migrations, "resources": ["virtualmachineinstances"], "verbs": ["get"]},
    ]
    installed.apply({**head, "kind": "ClusterRole", "rules": rules})
    account = {"kind": "ServiceAccount", "name": f"{RELEASE}-controller", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test-remedies"}
    installed.apply({**head, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [account]})
    until(lambda: is_allowed(installed, AS_USER, "list", "nodes", group=""))
    options = "--cool-down=1s", "--taints", "--migrations"
    with controller(installed, tmp_path_factory.mktemp("controller") / "log", *options) as command:
        await_leadership(command)
        yield command
        assert "Traceback" not in command.output()
    installed.kubectl("delete", "clusterrolebinding,clusterrole", "test-remedies")


SELECTOR = {"nodeSelector": {"matchLabels": {"pool": "big"}}}


def test_a_policy_s_status_follows_the_nodes_that_it_governs(installed: ControlPlane, node: FakeNode) -> None:
    node.labels = {"pool": "big"}
    node.report()
    installed.apply(node_policy("big", selector=SELECTOR, priority=1))
    installed.apply(node_policy("small", selector={"nodeSelector": {"matchLabels": {"pool": "small"}}}))

    def ready(name: str) -> str:
        return str(condition(installed, name, "Ready", of="nodepol").get("message"))

    until(lambda: ready("big") == f"governs 1 node; the agents of {node.name} do not report it yet")
    until(lambda: ready("small") == "it is accepted; its selector selects no node with an agent yet")
    node.limits = {"policy": "big", "policyGeneration": get(installed, "nodepol", "big")["metadata"]["generation"]}
    node.report()
    until(lambda: ready("big") == "governs 1 node")
    assert get(installed, "nodepol", "big")["status"]["governed"] == 1

    node.limits |= {"refused": "it leaves VMs nothing"}
    node.report()
    until(lambda: condition(installed, "big", "Degraded", of="nodepol").get("reason") == "RefusedByNodes")
    node.limits, node.labels = {}, {"pool": "small"}
    node.report()
    until(lambda: ready("big") == "it is accepted; its selector selects no node with an agent yet")
    columns = installed.kubectl("get", "nodepol").splitlines()[0].split()
    assert columns == ["NAME", "PRIORITY", "GOVERNED", "TAINTED", "READY", "REASON", "AGE"]


def test_a_node_that_is_short_is_tainted_until_it_has_been_ample_for_a_while(
    installed: ControlPlane, node: FakeNode
) -> None:
    def taints() -> list[str]:
        found = get(installed, "node", node.name)["spec"].get("taints", [])
        return [f"{each['key']}:{each['effect']}" for each in found]

    set_taints(installed, node.name, {"key": "example.com/own", "effect": "NoSchedule"})
    node.labels = {"pool": "big"}
    node.limits = {"policy": "big", "policyGeneration": 1}
    node.report(state="Tight")
    taint = {"mode": "Enforce", "whenCritical": "NoSchedule", "removeAfter": "1s"}
    installed.apply(node_policy("big", selector=SELECTOR, taint=taint))
    ours = "kubeballoon.io/memory-pressure"
    until(lambda: taints() == ["example.com/own:NoSchedule", f"{ours}:PreferNoSchedule"])
    until(lambda: get(installed, "nodepol", "big").get("status", {}).get("tainted") == 1)
    assert condition(installed, "big", "Ready", of="nodepol")["message"] == f"governs 1 node, taints {node.name}"
    node.report(state="Critical")
    until(lambda: taints() == ["example.com/own:NoSchedule", f"{ours}:NoSchedule"])
    node.report()
    until(lambda: taints() == ["example.com/own:NoSchedule"])
    node.report(state="Tight")
    until(lambda: len(taints()) == 2)
    installed.kubectl("delete", "nodepol", "big")
    until(lambda: taints() == ["example.com/own:NoSchedule"])
    events = installed.kubectl("get", "events", "--output=jsonpath={.items[*].reason}", "--namespace=default")
    assert {"Tainted", "Untainted"} <= set(events.split())


def test_a_contended_node_is_mended_by_one_migration_to_a_node_of_the_same_policy(
    installed: ControlPlane, node: FakeNode
) -> None:
    free = FakeNode(installed, f"free-{node.namespace}", node.namespace)
    labels = f"kubernetes.io/hostname={free.name}", "kubevirt.io/schedulable=true"
    installed.kubectl("label", "node", free.name, *labels, "--overwrite")
    node.labels = free.labels = {"pool": "big"}
    for name in ("a", "b", "c"):
        node.add(name, migratability="Migratable")
    node.report()
    free.report()
    installed.apply(node_policy("big", selector=SELECTOR, migration={"mode": "Enforce", "after": "0s"}))

    def made() -> list[Object]:
        found: list[Object] = get(installed, "vmim", f"--namespace={node.namespace}")["items"]
        return found

    until(lambda: len(made()) == 1, 60)
    assert made()[0]["spec"] == {"vmiName": "a", "addedNodeSelector": {"kubernetes.io/hostname": free.name}}
    said = f"migrates {node.namespace}/a from {node.name} to {free.name}"
    until(lambda: said in condition(installed, "big", "Ready", of="nodepol").get("message", ""), 60)
    assert condition(installed, "big", "Degraded", of="nodepol")["status"] == "False"
    events = f"--namespace={node.namespace}", "--field-selector=reason=Migrates"
    until(lambda: len(get(installed, "events.events.k8s.io", *events)["items"]) == 1)
    installed.kubectl("delete", "nodepol", "big")
    free.remove()


def test_a_vm_that_is_migrated_is_requested_no_more_than_its_new_node_has_until_that_is_cancelled(
    installed: ControlPlane, node: FakeNode
) -> None:
    free = FakeNode(installed, f"free-{node.namespace}", node.namespace, total=1000 * MIB)
    labels = f"kubernetes.io/hostname={free.name}", "kubevirt.io/schedulable=true"
    installed.kubectl("label", "node", free.name, *labels, "--overwrite")
    node.labels = free.labels = {"pool": "big"}
    lean_guest: Any = {"actual": str(462 * MIB), "resident": str(462 * MIB), "podRequest": str(256 * MIB)}
    for name in ("a", "b", "c"):
        node.add(name, labels={"app": "lean"}, migratability="Migratable", **lean_guest)
    free.add("stays", labels={"app": "lean"}, **lean_guest)
    node.report()
    free.report()
    lean = {"virtualMachineSelector": {"matchLabels": {"app": "lean"}}}
    installed.apply(memory_policy("lean", selector=lean, memory={"min": "90%"}, reclaim={"when": "UnderPressure"}))
    installed.apply(node_policy("big", selector=SELECTOR, migration={"mode": "Enforce", "after": "0s", "rest": "1s"}))

    def made() -> list[Object]:
        found: list[Object] = get(installed, "vmim", f"--namespace={node.namespace}")["items"]
        return found

    until(made, 90)
    arrives_with = parse_quantity(made()[0]["metadata"]["annotations"]["kubeballoon.io/memory-target"])
    assert 460 * MIB < arrives_with < 512 * MIB
    assert node.targets()["a"] <= arrives_with
    del node.vms["b"], node.vms["c"]  # the node has room for all of it again
    node.report()
    until(lambda: node.targets() == {"a": arrives_with}, 60)
    installed.kubectl("delete", "nodepol", "big")
    astray = {"phase": "Running", "migrationState": {"sourceNode": node.name, "targetNode": "elsewhere"}}
    where = f"--namespace={node.namespace}"
    patch = "--subresource=status", "--type=merge", f"--patch={json.dumps({'status': astray})}"
    installed.kubectl("patch", "vmim", made()[0]["metadata"]["name"], where, *patch)
    until(lambda: made() == [], 60)
    written = get(installed, "vmi", "a", where)["metadata"]["annotations"]
    assert "kubeballoon.io/migration-cancelled" in written
    until(lambda: get(installed, "events.events.k8s.io", where, "--field-selector=reason=MigrationCancelled")["items"])
    until(lambda: node.targets() == {"a": 512 * MIB}, 60)
    installed.kubectl("delete", "mempol", "lean")
    free.remove()
