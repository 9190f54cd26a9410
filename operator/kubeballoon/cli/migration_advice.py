"""This module says which migrations would mend nodes whose VMs need more memory than there is."""

from __future__ import annotations

from collections.abc import Sequence

from kubeballoon.core.formatting import listed
from kubeballoon.core.migration import ADVICE_TERMS, MigrationNode, choose_migrations


def advise_migrations(nodes: Sequence[MigrationNode]) -> dict[str, str]:
    """Say for each node that needs more than it has what would mend it, or why nothing does, by the node's name.

    Nodes with silent agents must not be among ``nodes``: nobody knows what room they have.
    """
    plan = choose_migrations(nodes, ADVICE_TERMS)
    advice = {}
    for node in nodes:
        moves = [f"{each.vm.name} to {each.target}" for each in plan.migrations if each.source == node.name]
        if moves:
            advice[node.name] = f"by memory, it would help to migrate {listed(moves)}"
        elif node.name in plan.unmended:
            advice[node.name] = f"no migration mends it: {plan.unmended[node.name]}"
    return advice
