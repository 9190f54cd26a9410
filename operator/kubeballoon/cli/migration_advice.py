"""This module says which migrations would mend nodes whose VMs need more memory than there is."""

from __future__ import annotations

from collections.abc import Iterable

from kubeballoon.core.formatting import listed
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.core.migration import MigrationTerms, choose_migrations, migration_node

_TERMS = MigrationTerms(contended_for=0.0, at_once=1_000, at_once_per_node=1_000)
"""Advice is about what mends a node, not about what may begin now."""


def advise_migrations(nodes: Iterable[MemoryNode]) -> dict[str, str]:
    """Say for each node that needs more than it has what would mend it, or why nothing does, by the node's name.

    Nodes with silent agents must not be among ``nodes``: nobody knows what room they have.
    """
    described = [migration_node(node) for node in nodes]
    plan = choose_migrations(described, _TERMS)
    advice = {}
    for node in described:
        moves = [f"{each.vm.name} to {each.target}" for each in plan.migrations if each.source == node.name]
        if moves:
            advice[node.name] = f"by memory, it would help to migrate {listed(moves)}"
        elif node.name in plan.unmended:
            advice[node.name] = f"no migration mends it: {plan.unmended[node.name]}"
    return advice
