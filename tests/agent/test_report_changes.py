"""How soon a report is worth a write."""

from __future__ import annotations

from typing import Any

import pytest

from kubeballoon.agent.report_changes import News, report_news
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.vocabulary import NodeState

MEMORY = {"total": "64Gi", "available": "8Gi", "other": "4Gi", "reserve": "4Gi"}
VM = {"namespace": "shop", "name": "vm", "uid": "1", "size": "8Gi", "actual": "6Gi", "need": "5Gi"}


def report(state: NodeState, **changes: Any) -> NodePressureStatus:
    """Make a node's report of one VM, some of whose fields are changed."""
    status = {
        "observedAt": "2026-01-01T00:00:00Z",
        "state": str(state),
        "memory": MEMORY,
        "virtualMachines": [{**VM, **changes}],
    }
    return NodePressureStatus.model_validate(status)


@pytest.mark.parametrize("change", [{"labels": {"a": "2"}}, {"labelsCut": True}, {"ownerExcluded": True}], ids=str)
@pytest.mark.parametrize("state", NodeState)
def test_what_tenants_write_on_their_vms_is_never_urgent(state: NodeState, change: dict[str, Any]) -> None:
    before = report(state)
    assert report_news(before, before) is News.NONE
    assert report_news(before, report(state, **change)) is News.MOVED


@pytest.mark.parametrize("state", NodeState)
@pytest.mark.parametrize(
    ("change", "while_ample"),
    [
        ({"need": "4.8Gi"}, News.DRIFT),
        ({"actual": "5Gi"}, News.MOVED),
        ({"actual": "5Gi", "labels": {"a": "2"}}, News.MOVED),
        ({"need": "6Gi"}, News.URGENT),
    ],
    ids=str,
)
def test_figures_wait_only_while_the_node_has_memory_to_spare(
    state: NodeState, change: dict[str, Any], while_ample: News
) -> None:
    news = report_news(report(state), report(state, **change))
    assert news is (while_ample if state is NodeState.AMPLE else News.URGENT)
