"""Why VMs must not be migrated, and why Nodes cannot be their targets, by the objects of the API server."""

from __future__ import annotations

from typing import Any

import pytest

from kubeballoon.governance.migration_hindrance import target_hindrance, vm_hindrance

LABELS = {"kubevirt.io/schedulable": "true", "kubernetes.io/hostname": "b.example.com"}
TARGET: dict[str, Any] = {"metadata": {"name": "b", "labels": LABELS}}


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (TARGET, None),
        ({**TARGET, "spec": {"unschedulable": True}}, "it is cordoned"),
        ({"metadata": {"name": "b"}}, "KubeVirt places no VMs there"),
        (
            {"metadata": {"name": "b", "labels": {"kubevirt.io/schedulable": "true"}}},
            "it has no label kubernetes.io/hostname",
        ),
    ],
)
def test_a_node_says_why_it_is_no_target(node: dict[str, Any], why: str | None) -> None:
    assert target_hindrance(node) == why


def test_a_vm_that_has_been_created_anew_is_not_migrated_for_the_old_one() -> None:
    vmi: dict[str, Any] = {"metadata": {"uid": "new", "labels": {"kubevirt.io/nodeName": "a"}}}
    assert vm_hindrance(vmi, "new", "a") is None
    assert vm_hindrance(vmi, "old", "a") == "a does not run it, although its agent reports it"
