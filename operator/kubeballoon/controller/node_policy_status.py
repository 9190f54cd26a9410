"""This module computes the status of a NodePolicy from the nodes' reports; its functions are pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from kubeballoon.api.conditions import ConditionReason, ConditionType
from kubeballoon.api.meta import ConditionStatus, set_conditions
from kubeballoon.api.v1alpha1 import NodePolicy, NodePolicySpec, NodePolicyStatus, NodePressureStatus
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.condition_finding import Finding, conditions_now, find_conflict, in_order
from kubeballoon.core.formatting import counted, listed
from kubeballoon.core.migration import MigrationPlan
from kubeballoon.governance.node_policies import LoadedNodePolicy, tied_policies
from kubeballoon.vocabulary import RemedyMode


@dataclass(frozen=True, slots=True)
class RemedyAbility:
    """A RemedyAbility says whether the installation allows taints, or migrations, and what failed lately."""

    enabled: bool = True
    fault: str | None = None


@dataclass(slots=True)
class NodeCounts:
    """NodeCounts are the names of the nodes that concern one policy.

    Attributes:
        matched: the nodes that the policy selects.
        governed: the nodes that it governs.
        behind: the governed nodes whose agents do not know the policy as it is now.
        old: the governed nodes whose agents are too old to know NodePolicies.
        tainted: the governed nodes that are to have the taint, or would have it where that is only observed.
        migrations: what would mend the contended nodes among the governed ones.
        refused: why the policy cannot hold on some governed nodes, by the node's name.
        governed_by: the policies that govern nodes which this policy selects too.
        tied_with: the policies of the same priority that select nodes which this policy selects too.
    """

    matched: set[str] = field(default_factory=set)
    governed: set[str] = field(default_factory=set)
    behind: set[str] = field(default_factory=set)
    old: set[str] = field(default_factory=set)
    tainted: set[str] = field(default_factory=set)
    migrations: MigrationPlan = field(default_factory=MigrationPlan)
    refused: dict[str, str] = field(default_factory=dict)
    governed_by: set[str] = field(default_factory=set)
    tied_with: set[str] = field(default_factory=set)


def count_nodes(state: ClusterState) -> dict[str, NodeCounts]:
    """Find for each policy, by its name, the nodes that concern it; a node without a report concerns none."""
    policies = state.node_policies
    plans = state.migration_plans
    counts = {name: NodeCounts(migrations=plans.get(name, MigrationPlan())) for name in policies.policies}
    for name, pressure in state.nodes.items() if counts else ():
        if pressure.status is None:
            continue
        selecting = policies.select(name, pressure.status.labels)
        tied = {each.name for each in tied_policies(selecting)}
        for position, policy in enumerate(selecting):
            of_policy = counts[policy.name]
            of_policy.matched.add(name)
            of_policy.tied_with |= tied - {policy.name} if policy.name in tied else set()
            if position == 0:
                _count_governed(of_policy, policy, name, pressure.status)
                of_policy.tainted |= {name} & state.taints.keys()
            else:
                of_policy.governed_by.add(selecting[0].name)
    return counts


def _count_governed(counts: NodeCounts, policy: LoadedNodePolicy, node: str, status: NodePressureStatus) -> None:
    counts.governed.add(node)
    limits, metadata = status.limits, policy.resource.metadata
    if limits is None:
        counts.old.add(node)
    elif (limits.policy, limits.policy_generation) != (metadata.name, metadata.generation):
        counts.behind.add(node)
    elif limits.refused is not None:
        counts.refused[node] = limits.refused


def node_policy_status(
    policy: NodePolicy,
    counts: NodeCounts,
    now: datetime,
    taints: RemedyAbility = RemedyAbility(),
    migrations: RemedyAbility = RemedyAbility(),
) -> NodePolicyStatus:
    """Compute the status of a policy; conditions that have changed get the transition time ``now``."""
    spec = policy.spec
    tainting = spec.taint.mode is RemedyMode.ENFORCE and taints.enabled
    migrating = spec.migration.mode is RemedyMode.ENFORCE and migrations.enabled
    findings = {
        ConditionType.READY: _ready(counts, tainting=tainting, migrating=migrating),
        ConditionType.DEGRADED: _degraded_on_nodes(counts)
        or _degraded_remedy(spec, taints, migrations)
        or (ConditionStatus.FALSE, ConditionReason.AS_EXPECTED, "no agent refuses it"),
        ConditionType.CONFLICTED: find_conflict(policy.metadata.name, counts.tied_with, "nodes"),
    }
    conditions = conditions_now(findings, policy.metadata.generation, now)
    return NodePolicyStatus(
        observed_generation=policy.metadata.generation,
        matched=len(counts.matched),
        governed=len(counts.governed),
        tainted=len(counts.tainted) if tainting else 0,
        conditions=set_conditions([] if policy.status is None else policy.status.conditions, conditions),
    )


def _ready(counts: NodeCounts, *, tainting: bool, migrating: bool) -> Finding:
    """Find whether a policy is accepted and carried out, which one that selects nothing yet is too."""
    if not counts.matched:
        message = "it is accepted; its selector selects no node with an agent yet"
        return ConditionStatus.TRUE, ConditionReason.NO_NODES, message
    if not counts.governed:
        message = f"it is accepted; every node it selects is governed by {in_order(counts.governed_by)}"
        return ConditionStatus.TRUE, ConditionReason.NOT_GOVERNING, message
    behind = f"; the agents of {in_order(counts.behind)} do not report it yet" if counts.behind else ""
    tainted = ""
    if counts.tainted:
        tainted = f", {'taints' if tainting else 'would taint'} {in_order(counts.tainted)}"
    message = f"governs {counted(len(counts.governed), 'node')}{tainted}"
    message += f"{_describe_plan(counts.migrations, migrating=migrating)}{behind}"
    return ConditionStatus.TRUE, ConditionReason.ENFORCING, message


def _describe_plan(plan: MigrationPlan, *, migrating: bool) -> str:
    """Say which VMs are migrated, or would be, and which contended nodes that does not mend, if there are any."""
    moves = listed([f"{each.vm.name} from {each.source} to {each.target}" for each in plan.migrations])
    text = f", {'migrates' if migrating else 'would migrate'} {moves}" if moves else ""
    if plan.waiting:
        text += f"; {in_order(plan.waiting)} can be mended, but no migration may begin there yet"
    return f"{text}; no migration mends {in_order(plan.unmended)}" if plan.unmended else text


def _degraded_on_nodes(counts: NodeCounts) -> Finding | None:
    """Find which agents do not carry the policy out; None if all do."""
    if counts.refused:
        node, why = min(counts.refused.items())
        message = f"it cannot hold on {in_order(counts.refused)}, where no policy holds: on {node}, {why}"
        return ConditionStatus.TRUE, ConditionReason.REFUSED_BY_NODES, message
    if counts.old:
        message = f"the agents of {in_order(counts.old)} are too old to know NodePolicies"
        return ConditionStatus.TRUE, ConditionReason.OLD_AGENTS, message
    return None


def _degraded_remedy(spec: NodePolicySpec, taints: RemedyAbility, migrations: RemedyAbility) -> Finding | None:
    """Find what keeps the controller from tainting nodes or migrating VMs as the policy says; None if nothing does."""
    if spec.taint.mode is RemedyMode.ENFORCE and not taints.enabled:
        message = "it taints no node: the installation does not allow that (taints.enabled of the chart)"
        return ConditionStatus.TRUE, ConditionReason.TAINTS_DISABLED, message
    if spec.migration.mode is RemedyMode.ENFORCE and not migrations.enabled:
        message = "it migrates no VM: the installation does not allow that (migrations.enabled of the chart)"
        return ConditionStatus.TRUE, ConditionReason.MIGRATIONS_DISABLED, message
    if spec.taint.mode is RemedyMode.ENFORCE and taints.fault is not None:
        return ConditionStatus.TRUE, ConditionReason.TAINT_FAILED, taints.fault
    if spec.migration.mode is RemedyMode.ENFORCE and migrations.fault is not None:
        return ConditionStatus.TRUE, ConditionReason.MIGRATION_FAILED, migrations.fault
    return None
