"""Which of a policy's conditions are for an administrator to look at: `status` names them, and exits with 3."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressure
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.explain import explain
from kubeballoon.cli.status import attention
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.vocabulary import NodeState


def lines(kind: str, status: str) -> list[str]:
    """List what needs attention in a cluster with one policy, which has one condition."""
    now = datetime.now(UTC)
    condition = {
        "type": kind,
        "status": status,
        "reason": "Because",
        "message": "look at this",
        "observedGeneration": 1,
        "lastTransitionTime": now.isoformat(),
    }
    body = {
        "metadata": {"name": "gold", "generation": 1},
        "spec": {"selector": {}},
        "status": {"observedGeneration": 1, "conditions": [condition]},
    }
    policy = load_memory_policy(MemoryPolicy.model_validate(body))
    return [line for line in attention(ClusterView((policy,), (), {}, (), now)) if "gold" in line]


@pytest.mark.parametrize("kind", ["Degraded", "Conflicted", "SelfService"])
def test_a_fault_of_a_policy_needs_attention(kind: str) -> None:
    assert lines(kind, "True") == ["MemoryPolicy gold: look at this"]
    assert lines(kind, "False") == []


def test_what_is_said_of_nodes_is_not_said_again_of_their_policies() -> None:
    assert lines("Contended", "True") == []


def reporting(name: str, now: datetime, *needs: str) -> NodePressure:
    """A node of 16 GiB with a VM of 8 GiB for each of the needs; without any, it has room."""
    vms = [
        {
            "uid": f"{name}-{index}",
            "namespace": "shop",
            "name": f"{name}-{index}",
            "size": "8Gi",
            "actual": "6Gi",
            "need": need,
            "presentNeed": need,
            "swapAbility": "Unable",
            "migratability": "Migratable",
        }
        for index, need in enumerate(needs)
    ]
    available = "2Gi" if needs else "15Gi"
    memory = {"total": "16Gi", "available": available, "other": "0", "reserve": "1Gi"}
    status = {"observedAt": now.isoformat(), "memory": memory, "state": "Tight", "virtualMachines": vms}
    return NodePressure.model_validate({"metadata": {"name": name}, "status": status})


def test_a_migration_that_would_mend_a_contended_node_is_named() -> None:
    now = datetime.now(UTC)
    body = {"metadata": {"name": "p"}, "spec": {"selector": {}, "memory": {"min": "25%", "headroom": "0%"}}}
    policy = load_memory_policy(MemoryPolicy.model_validate(body))
    full = reporting("full", now, "6Gi", "6Gi", "5Gi")
    empty = reporting("empty", now)
    assert empty.status is not None
    empty = empty.model_copy(update={"status": empty.status.model_copy(update={"state": NodeState.AMPLE})})
    found = [line for line in attention(ClusterView((policy,), (), {}, (full, empty), now)) if line.startswith("node")]
    assert any(line.startswith("node full: contended") for line in found)
    assert found[-1] == "node full: by memory, it would help to migrate shop/full-0 to empty"
    alone = attention(ClusterView((policy,), (), {}, (full,), now))
    assert any("no migration mends it" in line for line in alone)


def test_vms_whose_guests_launchers_or_objects_are_to_be_looked_into_are_named_once_by_status_and_by_explain() -> None:
    now = datetime.now(UTC)
    body = reporting("n", now, "1Gi", "1Gi", "1Gi").model_dump(by_alias=True, mode="json")
    unreadable, garbled, liar = body["status"]["virtualMachines"]
    for field in ("actual", "need", "presentNeed"):
        del unreadable[field]
    unreadable |= {"size": "0", "eligible": False, "responsive": False, "reason": "BadReport", "message": "no number"}
    garbled |= {"responsive": False, "reason": "DaemonGarbled"}
    liar["processors"] = {"size": 2, "reason": "GuestAgentGarbled", "responsive": False}
    view = ClusterView((), (), {}, (NodePressure.model_validate(body),), now)
    assert [line for line in attention(view) if "n-" in line] == [
        "VMs to be looked into (BadReport: its figures do not fit into a report): shop/n-0",
        "VMs to be looked into (DaemonGarbled: its libvirt daemon's answer cannot be understood): shop/n-1",
        "VMs to be looked into (GuestAgentGarbled: its guest agent's answer cannot be understood): shop/n-2",
    ]
    explained = explain(view, next(vm for vm in view.reported_vms() if vm.full_name == "shop/n-0"))
    assert (explained.problem, explained.size) == ("no number", 0)
