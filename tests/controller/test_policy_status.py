"""What a policy's conditions say, for machines that wait for them and for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kubeballoon.api.meta import Condition
from kubeballoon.api.v1alpha1 import MemoryPolicy, MemoryPolicyStatus
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_counts import count_policies
from kubeballoon.controller.policy_status import policy_status
from kubeballoon.controller.rounds import RoundResult
from kubeballoon.core.memory.model import MemoryPlan
from kubeballoon.governance.policy_types import MEMORY
from tests.support.cluster import MIB, Object, memory_policy

TODAY = datetime(2026, 1, 1, tzinfo=UTC)
PLURAL = MEMORY.model.plural


def node(name: str = "n", **vm: Any) -> Object:
    """Make the report of a node with one VM of 512 MiB."""
    guest = {"uid": f"u-{name}", "namespace": "shop", "name": "vm", "size": "512Mi", "actual": "512Mi", **vm}
    memory = {"total": "1Gi", "available": "512Mi", "other": "0", "reserve": "0"}
    status = {"observedAt": TODAY.isoformat(), "memory": memory, "state": "Ample", "virtualMachines": [guest]}
    return {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "status": status}


def conditions(
    policy: Object,
    *nodes: Object,
    results: dict[str, RoundResult] | None = None,
    present: list[Condition] | None = None,
) -> dict[str, Condition]:
    """Find a policy's conditions by their types."""
    state = ClusterState(utc_now=lambda: TODAY)
    state.memory.put(policy)
    for each in nodes:
        state.put_node(each, 0.0)
    resource = MemoryPolicy.model_validate(policy)
    if present is not None:
        resource = resource.model_copy(update={"status": MemoryPolicyStatus(conditions=present)})
    counts = count_policies(state, state.memory)[resource.metadata.name]
    found = policy_status(MEMORY, resource, counts, results or {}, TODAY).conditions
    return {condition.type: condition for condition in found}


def test_a_policy_is_ready_before_it_selects_anything() -> None:
    ready = conditions(memory_policy("p"))["Ready"]
    assert (ready.status, ready.reason) == ("True", "NoVirtualMachines")


def test_what_a_silent_agent_does_is_unknown() -> None:
    silent = {"n": RoundResult(silent=True), "well": RoundResult(plans={PLURAL: MemoryPlan("well", 0)})}
    found = conditions(memory_policy("p"), node(), node("well"), results=silent)
    for kind in ("Shortfall", "AtRisk"):
        assert (found[kind].status, found[kind].reason) == ("Unknown", "AgentSilent")
        assert "of n" in found[kind].message
    assert (found["Degraded"].status, found["Degraded"].reason) == ("True", "AgentSilent")
    assert found["Conflicted"].status == "False"


def test_a_policy_is_ready_while_any_agent_carries_it_out_and_says_how_many_are_silent() -> None:
    names = [f"node-{number}" for number in range(20)]
    nodes = [node(name) for name in names]
    well = {name: RoundResult(plans={PLURAL: MemoryPlan(name, 0)}) for name in names}
    ready = conditions(memory_policy("p"), *nodes, results=well)["Ready"]
    assert (ready.status, ready.message) == ("True", "governs 20 VMs on 20 nodes")
    some = well | {name: RoundResult(silent=True) for name in names[:3]}
    ready = conditions(memory_policy("p"), *nodes, results=some)["Ready"]
    assert (ready.status, ready.reason) == ("True", "Enforcing")
    assert ready.message.endswith("the agents of 3 of these nodes are silent: what is carried out there is not known")
    watching = conditions(memory_policy("p", mode="Observe"), *nodes, results=some)["Ready"]
    assert "3 of these nodes are silent" in watching.message
    ready = conditions(memory_policy("p"), *nodes, results={name: RoundResult(silent=True) for name in names})["Ready"]
    assert (ready.status, ready.reason) == ("Unknown", "AgentSilent")


def test_what_is_known_of_another_node_stays_known() -> None:
    plan = MemoryPlan("well", 0, shortfall=MIB, risk=MIB)
    results = {"n": RoundResult(silent=True), "well": RoundResult(plans={PLURAL: plan})}
    found = conditions(memory_policy("p"), node(), node("well"), results=results)
    assert [found[kind].status for kind in ("Shortfall", "AtRisk")] == ["True", "True"]


@pytest.mark.parametrize(
    ("name", "risk", "kept"),
    [("n", 310 * MIB, True), ("n", 290 * MIB, True), ("n", 340 * MIB, False), ("m", 300 * MIB, False)],
    ids=["a little more", "a little less", "much more", "another node"],
)
def test_a_figure_that_moves_a_little_is_not_written_again(name: str, risk: int, *, kept: bool) -> None:
    def at_risk(name: str, risk: int, present: list[Condition] | None = None) -> Condition:
        results = {name: RoundResult(plans={PLURAL: MemoryPlan(name, 0, risk=risk)})}
        return conditions(memory_policy("p"), node(name), results=results, present=present)["AtRisk"]

    before = at_risk("n", 300 * MIB)
    assert "300 MiB" in before.message
    assert (at_risk(name, risk, [before]) == before) is kept


@pytest.mark.parametrize(("pod_request", "said"), [("512Mi", True), (None, True), ("256Mi", False)])
def test_a_policy_says_from_how_many_vms_nothing_can_be_reclaimed(pod_request: str | None, *, said: bool) -> None:
    report = node() if pod_request is None else node(podRequest=pod_request)
    by_request = conditions(memory_policy("p", memory={"min": "PodRequest"}), report)["Ready"]
    assert ("the pods of 1 have requested all of their memory" in by_request.message) is said
    assert "requested" not in conditions(memory_policy("p"), report)["Ready"].message
