"""This module finds, for ``diff``, the migrations that NodePolicies would make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.diff_result import PlannedMigration
from kubeballoon.core.formatting import listed
from kubeballoon.core.migration import ADVICE_TERMS, MigrationNode, choose_migrations
from kubeballoon.governance.node_policies import LoadedNodePolicy, governed_nodes, select_node_policies
from kubeballoon.vocabulary import RemedyMode


def plan_migrations(view: ClusterView) -> list[PlannedMigration]:
    """Find the migrations that NodePolicies would make, or tell of, if the nodes stay contended as they are.

    All that mend a node are listed, although not all may be under way at once. Nodes whose agents are silent take no
    part, and nor do those that an administrator released.
    """
    policies = {policy.name: policy for policy in view.node_policies}
    return [
        planned
        for name, nodes in _pools(view).items()
        if policies[name].migrations is not None
        for planned in _plan(policies[name], nodes)
    ]


def _pools(view: ClusterView) -> dict[str, list[MigrationNode]]:
    """Find each NodePolicy's nodes, by the policy's name."""
    return governed_nodes(
        (view.migration_node(pressure, status), select_node_policies(view.node_policies, status.labels))
        for pressure, status in view.reporting_nodes()
        if not view.is_silent(status) and not pressure.metadata.released
    )


def _plan(policy: LoadedNodePolicy, nodes: list[MigrationNode]) -> Iterator[PlannedMigration]:
    settings = policy.resource.spec.migration
    for each in choose_migrations(nodes, ADVICE_TERMS).migrations:
        yield PlannedMigration(
            policy=policy.name,
            enforced=settings.mode is RemedyMode.ENFORCE,
            after=settings.after,
            vm=each.vm.name,
            source=each.source,
            target=each.target,
        )


def migration_lines(migrations: Iterable[PlannedMigration]) -> Iterator[str]:
    """Say which migrations policies would newly make, or tell of, a line for each policy."""
    for _, of_policy in groupby(migrations, key=lambda each: each.policy):
        first, *others = of_policy
        moves = listed([f"{each.vm} from {each.source} to {each.target}" for each in (first, *others)])
        would = "would migrate" if first.enforced else "would only say that it would migrate"
        yield f"NodePolicy {first.policy} {would} {moves}, after {first.after} of contention."
