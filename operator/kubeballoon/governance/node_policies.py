"""This module finds the NodePolicy that governs a node, and translates it for the core."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from kubeballoon.api.duration import parse_duration
from kubeballoon.api.quantity import parse_amount, parse_count
from kubeballoon.api.v1alpha1 import (
    MigrationSettings,
    NodeLimitsReport,
    NodeMemory,
    NodePolicy,
    NodePolicySpec,
    TaintSettings,
)
from kubeballoon.core.memory.model import Amount
from kubeballoon.core.memory.node_state import (
    NodeFacts,
    NodeLimits,
    NodeTerms,
    StallLimits,
    UnfitTermsError,
    node_limits,
)
from kubeballoon.core.migration import MigrationTerms
from kubeballoon.core.tainting import TaintTerms
from kubeballoon.vocabulary import RemedyMode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadedNodePolicy:
    """A LoadedNodePolicy is a NodePolicy together with its translation for the core.

    Attributes:
        resource: the object as the API server has it.
        terms: what the object says of thresholds and reserve, in the core's values.
        taints: what it says of taints, in the core's values.
        migrations: what it says of migrations, in the core's values; None where none are sought.
    """

    resource: NodePolicy
    terms: NodeTerms
    taints: TaintTerms
    migrations: MigrationTerms | None

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.resource.metadata.name


def load_node_policy(policy: NodePolicy) -> LoadedNodePolicy:
    """Translate a NodePolicy for the core."""
    spec = policy.spec
    return LoadedNodePolicy(policy, _terms(spec), _taint_terms(spec.taint), _migration_terms(spec.migration))


def _terms(spec: NodePolicySpec) -> NodeTerms:
    levels = spec.thresholds
    return NodeTerms(
        thresholds=None
        if levels is None
        else (_amount(levels.ample), _amount(levels.tight), _amount(levels.scarce), _amount(levels.critical)),
        eviction=None if spec.eviction.threshold is None else _amount(spec.eviction.threshold),
        margin=spec.eviction.margin,
        reserve=None if spec.reserve is None else _amount(spec.reserve),
        stall=StallLimits(tight_some=spec.stall.tight, scarce_full=spec.stall.scarce),
    )


def _taint_terms(settings: TaintSettings) -> TaintTerms:
    most, percent = parse_count(settings.max_tainted)
    return TaintTerms(
        mode=settings.mode,
        when_critical=settings.when_critical,
        max_tainted=most,
        max_tainted_percent=percent or 0,
        remove_after=parse_duration(settings.remove_after),
    )


def _migration_terms(settings: MigrationSettings) -> MigrationTerms | None:
    if settings.mode is RemedyMode.OFF:
        return None
    return MigrationTerms(
        after=parse_duration(settings.after),
        max_migrations=settings.max_migrations,
        max_migrations_per_node=settings.max_migrations_per_node,
        rest=parse_duration(settings.rest),
    )


def _amount(text: str) -> Amount:
    return Amount(*parse_amount(text))


def select_node_policies(policies: Iterable[LoadedNodePolicy], labels: Mapping[str, str]) -> list[LoadedNodePolicy]:
    """Find the policies that select a node by its labels; the first of them governs it.

    They are sorted by priority, the highest first, then by name. Policies that are being deleted select no node.
    """
    selecting = [
        policy
        for policy in policies
        if policy.resource.metadata.deletion_timestamp is None
        and policy.resource.spec.selector.node_selector.matches(labels)
    ]
    return sorted(selecting, key=lambda policy: (-policy.resource.spec.priority, policy.name))


def governed_nodes(nodes: Iterable[tuple[T, list[LoadedNodePolicy]]]) -> dict[str, list[T]]:
    """Find the nodes that each policy governs, by the policy's name; a policy that governs none is left out.

    Args:
        nodes: each with the policies that select it, the governing one first.
    """
    pools: dict[str, list[T]] = {}
    for node, selecting in nodes:
        if selecting:
            pools.setdefault(selecting[0].name, []).append(node)
    return pools


def tied_policies(selecting: list[LoadedNodePolicy]) -> list[LoadedNodePolicy]:
    """List the policies of the highest priority if there are several, so that only its name lets one of them govern."""
    highest = [each for each in selecting if each.resource.spec.priority == selecting[0].resource.spec.priority]
    return highest if len(highest) > 1 else []


@dataclass(frozen=True, slots=True)
class GovernedLimits:
    """GovernedLimits are a node's limits, and which policy they come from.

    Attributes:
        limits: the limits that hold. Where the policy cannot hold on the node, they are those of no policy.
        policy: the policy that governs the node; None if none does.
        refused: why that policy cannot hold on the node; None if it does.
    """

    limits: NodeLimits
    policy: LoadedNodePolicy | None = None
    refused: str | None = None


def govern_limits(policy: LoadedNodePolicy | None, facts: NodeFacts) -> GovernedLimits:
    """Find the limits of a node that a policy governs, or none; ``facts`` decide them besides the policy."""
    if policy is None:
        return GovernedLimits(node_limits(NodeTerms(), facts))
    try:
        return GovernedLimits(node_limits(policy.terms, facts), policy)
    except UnfitTermsError as error:
        return GovernedLimits(node_limits(NodeTerms(), facts), policy, str(error))


def report_limits(governed: GovernedLimits, facts: NodeFacts) -> NodeLimitsReport:
    """Write a node's limits, and what they come from, as its agent reports them."""
    thresholds, policy = governed.limits.thresholds, governed.policy
    return NodeLimitsReport(
        ample=thresholds.ample,
        tight=thresholds.tight,
        scarce=thresholds.scarce,
        critical=thresholds.critical,
        policy=None if policy is None else policy.name,
        policy_generation=0 if policy is None else policy.resource.metadata.generation,
        refused=governed.refused,
        capacity=facts.capacity,
        eviction_threshold=facts.eviction,
        eviction_margin=facts.margin,
        eviction_read=facts.eviction_read,
    )


def reported_facts(memory: NodeMemory, report: NodeLimitsReport) -> NodeFacts:
    """Read from a report what decides a node's limits besides its policy."""
    return NodeFacts(
        total=memory.total,
        capacity=report.capacity,
        eviction=report.eviction_threshold,
        margin=report.eviction_margin,
        eviction_read=report.eviction_read,
    )
