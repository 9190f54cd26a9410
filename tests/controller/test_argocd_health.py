"""What Argo CD shows of a policy, by the health check in examples/argocd; it is run here on each state of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51  # Argo CD's Lua is of this version

from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePolicy
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_counts import count_policies
from kubeballoon.controller.policy_status import policy_status, unreadable_status
from kubeballoon.controller.policy_store import UnreadablePolicy
from kubeballoon.controller.rounds import RoundResult
from kubeballoon.core.memory.model import MemoryPlan
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from tests.controller.test_policy_status import PLURAL, TODAY, node
from tests.support.cluster import Object, memory_policy

CHECKS: dict[str, str] = yaml.safe_load(
    (Path(__file__).resolve().parents[2] / "examples/argocd/health.yaml").read_text()
)["data"]
KEY = "resource.customizations.health.kubeballoon.io_{}"


def health(policy: Object, kind: str = "MemoryPolicy") -> tuple[str, str]:
    """Run the check as Argo CD does: the script sees the object as ``obj``, and returns a status and a message."""
    lua = lua51.LuaRuntime()
    check = lua.eval(f"function(obj) {CHECKS[KEY.format(kind)]} end")
    found = check(lua.table_from(policy, recursive=True))
    return found["status"], found["message"]


def observed(policy: Object, *nodes: Object, results: dict[str, RoundResult] | None = None) -> Object:
    """Give a policy the status that the controller would write."""
    state = ClusterState(utc_now=lambda: TODAY)
    state.memory.put(policy)
    for each in nodes:
        state.put_node(each, 0.0)
    resource = MemoryPolicy.model_validate(policy)
    status = policy_status(
        MEMORY, resource, count_policies(state, state.memory)[resource.metadata.name], results or {}, TODAY
    )
    return written(policy, status)


def written(policy: Object, status: Any) -> Object:
    return {**policy, "status": status.model_dump(mode="json", by_alias=True, exclude_none=True)}


def decided(*names: str) -> dict[str, RoundResult]:
    return {name: RoundResult(plans={PLURAL: MemoryPlan(name, 0)}) for name in names}


def changed(policy: Object, **metadata: Any) -> Object:
    return {**policy, "metadata": {**policy["metadata"], **metadata}}


def test_a_policy_that_the_controller_has_not_seen_is_progressing() -> None:
    assert health(memory_policy("p"))[0] == "Progressing"
    assert health({**memory_policy("p"), "status": {}})[0] == "Progressing"


def test_a_policy_that_was_changed_is_progressing_until_the_controller_has_read_the_change() -> None:
    policy = observed(changed(memory_policy("p"), generation=1), node(), results=decided("n"))
    assert health(policy) == ("Healthy", "governs 1 VM on 1 node")
    assert health(changed(policy, generation=2)) == ("Progressing", "the controller has not read it yet")


@pytest.mark.parametrize("mode", ["Observe", "Enforce"])
def test_a_policy_that_is_carried_out_is_healthy(mode: str) -> None:
    assert health(observed(memory_policy("p", mode=mode), node(), results=decided("n")))[0] == "Healthy"


def test_a_policy_that_selects_nothing_yet_is_healthy_and_says_so() -> None:
    status, message = health(observed(memory_policy("p")))
    assert status == "Healthy"
    assert "selects no running VM" in message


def test_one_silent_node_of_many_leaves_a_policy_healthy_and_is_named() -> None:
    results = {**decided("well"), "broken": RoundResult(silent=True)}
    status, message = health(observed(memory_policy("p"), node("well"), node("broken"), results=results))
    assert status == "Healthy"
    assert "broken" in message


def test_a_policy_whose_agents_are_all_silent_is_progressing() -> None:
    status, message = health(observed(memory_policy("p"), node(), results={"n": RoundResult(silent=True)}))
    assert status == "Progressing"
    assert "no recent report" in message


def test_a_released_policy_is_suspended() -> None:
    policy = changed(memory_policy("p"), annotations={"kubeballoon.io/release": "true"})
    assert health(observed(policy, node(), results=decided("n")))[0] == "Suspended"


def test_a_policy_that_cannot_be_read_is_degraded() -> None:
    policy = memory_policy("p")
    unreadable = UnreadablePolicy.model_validate({**policy, "fault": "spec.memory.min: no quantity"})
    status, message = health(written(policy, unreadable_status(unreadable, TODAY)))
    assert status == "Degraded"
    assert "no quantity" in message


def test_a_policy_that_is_deleted_is_progressing() -> None:
    policy = observed(memory_policy("p"), node(), results=decided("n"))
    assert health(changed(policy, deletionTimestamp="2026-01-01T00:00:00Z"))[0] == "Progressing"


def test_all_kinds_of_policies_are_checked_alike() -> None:
    kinds = [MEMORY.model.__name__, PROCESSORS.model.__name__, NodePolicy.__name__]
    assert set(CHECKS) == {KEY.format(kind) for kind in kinds}
    assert len(set(CHECKS.values())) == 1
