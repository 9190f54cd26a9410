"""Which of a policy's conditions are for an administrator to look at: `status` names them, and exits with 3."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from kubeballoon.api.v1alpha1 import MemoryPolicy
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.status import attention
from kubeballoon.governance.loaded_policy import load_memory_policy


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
