"""What a NodePolicy's status says: which nodes it governs, and which cannot carry it out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kubeballoon.api.meta import Condition
from kubeballoon.api.v1alpha1 import NodePolicyStatus, NodePressure
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.node_policy_status import RemedyAbility, count_nodes, node_policy_status
from kubeballoon.controller.policy_status import is_news, unreadable_status
from kubeballoon.controller.policy_store import NodePolicyStore
from kubeballoon.core.migration import ChosenMigration, MigratableVM, MigrationPlan
from kubeballoon.vocabulary import TaintEffect
from tests.support.cluster import node_policy

TODAY = datetime(2026, 1, 1, tzinfo=UTC)
ALLOWED = RemedyAbility()
LIMITS = {
    "ample": "6Gi",
    "tight": "4Gi",
    "scarce": "2Gi",
    "critical": "1Gi",
    "capacity": "64Gi",
    "evictionThreshold": "100Mi",
    "evictionMargin": "64Mi",
}


def policy(name: str, pool: str | None = None, generation: int = 1, **spec: Any) -> dict[str, Any]:
    if pool is not None:
        spec["selector"] = {"nodeSelector": {"matchLabels": {"pool": pool}}}
    made = node_policy(name, **spec)
    made["metadata"] |= {"uid": name, "generation": generation, "resourceVersion": str(generation)}
    return made


def node(name: str, pool: str, carried_out: str | None = None, generation: int = 1, **limits: Any) -> NodePressure:
    """A node's report; ``carried_out`` is the policy that its agent knows of."""
    status = {
        "observedAt": TODAY,
        "labels": {"pool": pool},
        "memory": {"total": "64Gi", "available": "32Gi", "other": "0", "reserve": "6Gi"},
        "limits": LIMITS | {"policy": carried_out, "policyGeneration": generation} | limits,
        "conditions": [],
    }
    return NodePressure.model_validate({"metadata": {"name": name}, "status": status})


def statuses(
    policies: list[dict[str, Any]],
    nodes: list[NodePressure],
    taints: dict[str, TaintEffect] | None = None,
    ability: RemedyAbility = ALLOWED,
    plans: dict[str, MigrationPlan] | None = None,
    migrations: RemedyAbility = ALLOWED,
) -> dict[str, NodePolicyStatus]:
    by_name = {each.metadata.name: each for each in nodes}
    state = ClusterState(nodes=by_name, taints=taints or {}, migration_plans=plans or {})
    for each in policies:
        state.node_policies.put(each)
    counts = count_nodes(state)
    return {
        name: node_policy_status(loaded.resource, counts[name], TODAY, ability, migrations)
        for name, loaded in state.node_policies.policies.items()
    }


def condition(status: NodePolicyStatus, kind: str) -> Condition:
    return next(each for each in status.conditions if each.type == kind)


def test_the_policy_of_the_highest_priority_governs_a_node() -> None:
    every, big = policy("every"), policy("big", "big", priority=5)
    found = statuses([every, big], [node("a", "big", "big"), node("b", "small", "every"), node("c", "small", "every")])
    assert (found["every"].matched, found["every"].governed) == (3, 2)
    assert (found["big"].matched, found["big"].governed) == (1, 1)
    assert condition(found["every"], "Ready").message == "governs 2 nodes"
    assert {condition(found["every"], kind).status for kind in ("Degraded", "Conflicted")} == {"False"}


def test_a_policy_that_governs_nothing_says_why_not() -> None:
    found = statuses([policy("none", "none"), policy("low"), policy("high", priority=1)], [node("a", "big", "high")])
    assert condition(found["none"], "Ready").reason == "NoNodes"
    assert condition(found["low"], "Ready").message.endswith("every node it selects is governed by high")


def test_equal_priorities_are_a_conflict_of_the_policies_that_only_their_names_order() -> None:
    policies = [policy("a"), policy("b"), policy("lower", priority=-1)]
    found = statuses(policies, [node("n", "big", "a")])
    assert condition(found["b"], "Conflicted").message.endswith("at the same priority by a; a governs them")
    assert condition(found["lower"], "Conflicted").status == "False"


def test_agents_that_refuse_a_policy_are_named_with_their_reason() -> None:
    why = "it would keep 70 GiB of 64 GiB free, and leave VMs nothing"
    nodes = [node("a", "big", "every", refused=why), node("b", "big", "every")]
    degraded = condition(statuses([policy("every")], nodes)["every"], "Degraded")
    assert (degraded.status, degraded.reason) == ("True", "RefusedByNodes")
    assert degraded.message == f"it cannot hold on a, where no policy holds: on a, {why}"


def test_agents_that_have_not_taken_a_change_over_are_named_but_are_no_fault() -> None:
    nodes = [node("a", "big", "every", generation=1, refused="long ago"), node("b", "big")]
    found = statuses([policy("every", generation=2)], nodes)["every"]
    assert condition(found, "Ready").message == "governs 2 nodes; the agents of a, b do not report it yet"
    assert condition(found, "Degraded").status == "False"
    assert found.observed_generation == 2


def test_agents_from_before_there_were_node_policies_degrade_them() -> None:
    old = node("a", "big")
    assert old.status is not None
    old = old.model_copy(update={"status": old.status.model_copy(update={"limits": None})})
    assert condition(statuses([policy("every")], [old])["every"], "Degraded").reason == "OldAgents"


def test_a_node_follows_its_labels_and_a_policy_that_is_gone_selects_nothing() -> None:
    store = NodePolicyStore()
    store.put(policy("big", "big"))
    store.put(policy("every", priority=-1))
    assert [each.name for each in store.select("a", {"pool": "big"})] == ["big", "every"]
    assert [each.name for each in store.select("a", {"pool": "small"})] == ["every"]
    store.remove("every", "every")
    assert [each.name for each in store.select("a", {"pool": "small"})] == []
    deleted = policy("big", "big", generation=2)
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    store.put(deleted)
    assert [each.name for each in store.select("a", {"pool": "big"})] == []


def test_a_policy_of_a_newer_version_governs_nothing_and_says_so() -> None:
    store = NodePolicyStore()
    store.put(policy("every", reserve={"atLeast": "5Gi"}))
    assert store.select("a", {}) == []
    status = unreadable_status(store.unreadable["every"], TODAY)
    assert isinstance(status, NodePolicyStatus)
    assert condition(status, "Ready").message.startswith("this version of the controller cannot read it")
    assert is_news(None, status)
    assert not is_news(status, status)


def test_tainted_nodes_are_counted_and_named_and_only_named_where_a_policy_observes() -> None:
    nodes = [node("a", "big", "big"), node("b", "big", "big"), node("c", "small", "small")]
    policies = [policy("big", "big", taint={"mode": "Enforce"}), policy("small", "small", taint={"mode": "Observe"})]
    found = statuses(policies, nodes, dict.fromkeys("ac", TaintEffect.PREFER_NO_SCHEDULE))
    assert (found["big"].tainted, condition(found["big"], "Ready").message) == (1, "governs 2 nodes, taints a")
    assert (found["small"].tainted, condition(found["small"], "Ready").message) == (0, "governs 1 node, would taint c")


@pytest.mark.parametrize(("mode", "does"), [("Observe", "would migrate"), ("Enforce", "migrates")])
def test_migrations_that_a_policy_makes_or_would_make_are_named(mode: str, does: str) -> None:
    policies = [policy("big", "big", migration={"mode": mode})]
    vm = MigratableVM("u", "shop/x", 1, 1)
    plan = MigrationPlan((ChosenMigration(vm, "a", "b", "why"),), {"c": "why not"})
    nodes = [node(name, "big", "big") for name in "abc"]
    found = statuses(policies, nodes, plans={"big": plan})["big"]
    assert condition(found, "Ready").message == f"governs 3 nodes, {does} shop/x from a to b; no migration mends c"


def test_contended_nodes_that_wait_for_a_migration_are_named() -> None:
    plans = {"big": MigrationPlan(waiting=("b", "a"))}
    found = statuses([policy("big", "big", migration={"mode": "Enforce"})], [node("a", "big", "big")], plans=plans)
    said = "governs 1 node; a, b can be mended, but no migration may begin there yet"
    assert condition(found["big"], "Ready").message == said


def test_a_policy_that_cannot_migrate_says_why() -> None:
    policies, nodes = [policy("big", "big", migration={"mode": "Enforce"})], [node("a", "big", "big")]
    disabled = condition(statuses(policies, nodes, migrations=RemedyAbility(enabled=False))["big"], "Degraded")
    assert (disabled.reason, "migrations.enabled" in disabled.message) == ("MigrationsDisabled", True)
    failed = condition(statuses(policies, nodes, migrations=RemedyAbility(fault="forbidden"))["big"], "Degraded")
    assert (failed.reason, failed.message) == ("MigrationFailed", "forbidden")


def test_a_policy_that_cannot_taint_says_why() -> None:
    policies = [policy("big", "big", taint={"mode": "Enforce"})]
    nodes = [node("a", "big", "big")]
    taints = {"a": TaintEffect.PREFER_NO_SCHEDULE}
    found = statuses(policies, nodes, taints, RemedyAbility(enabled=False))["big"]
    disabled = condition(found, "Degraded")
    assert (disabled.reason, "taints.enabled" in disabled.message) == ("TaintsDisabled", True)
    assert (found.tainted, condition(found, "Ready").message) == (0, "governs 1 node, would taint a")
    failed = condition(statuses(policies, nodes, ability=RemedyAbility(fault="forbidden"))["big"], "Degraded")
    assert (failed.reason, failed.message) == ("TaintFailed", "forbidden")
