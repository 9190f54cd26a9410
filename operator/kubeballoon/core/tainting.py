"""This module decides which nodes of a pool the scheduler is to avoid because they are short of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kubeballoon.vocabulary import NodeState, RemedyMode, TaintEffect


@dataclass(frozen=True, slots=True)
class TaintTerms:
    """TaintTerms are what a NodePolicy says about taints of the nodes that it governs.

    Attributes:
        mode: whether nodes are tainted, or it is only said which would be.
        when_critical: the taint's effect while a node is Critical; in Tight and Scarce it is PreferNoSchedule.
        max_tainted: how many nodes are tainted at one time at the most; None where a percentage says so.
        max_tainted_percent: the same in percent of the nodes, rounded up.
        remove_after: seconds for which a node must be in a better state before a taint is removed or weakened.
    """

    mode: RemedyMode = RemedyMode.OFF
    when_critical: TaintEffect = TaintEffect.PREFER_NO_SCHEDULE
    max_tainted: int | None = None
    max_tainted_percent: int = 25
    remove_after: float = 300.0

    def limit(self, nodes: int) -> int:
        """Return how many of so many nodes may be tainted at one time."""
        return math.ceil(nodes * self.max_tainted_percent / 100) if self.max_tainted is None else self.max_tainted


@dataclass(frozen=True, slots=True)
class TaintableNode:
    """A TaintableNode is a node of a pool.

    Attributes:
        state: how short of memory it is.
        ample_for: seconds for which it has been Ample; 0 while it is not.
        not_critical_for: seconds for which it has not been Critical; 0 while it is.
        effect: the effect of the taint that it has now; None if it has none.
    """

    name: str
    state: NodeState
    ample_for: float
    not_critical_for: float
    effect: TaintEffect | None = None


def choose_taints(terms: TaintTerms, nodes: Sequence[TaintableNode]) -> dict[str, TaintEffect]:
    """Choose the nodes of a pool to taint, by name, each with the effect; all others are to have no taint.

    A node that is not Ample is tainted at once, and stays so until it has been Ample for a while. Where more nodes are
    short than may be tainted, the worst state comes first, then a node that is tainted already, then the name.
    """
    wanted = [(node, effect) for node in nodes if (effect := _wanted(terms, node)) is not None]
    wanted.sort(key=lambda each: (-each[0].state.severity, each[0].effect is None, each[0].name))
    return {node.name: effect for node, effect in wanted[: terms.limit(len(nodes))]}


def _wanted(terms: TaintTerms, node: TaintableNode) -> TaintEffect | None:
    """Say which effect a node's taint is to have; None if it is to have none."""
    if terms.mode is RemedyMode.OFF:
        return None
    if node.state is NodeState.AMPLE and (node.effect is None or node.ample_for >= terms.remove_after):
        return None
    strong = node.effect is TaintEffect.NO_SCHEDULE and node.not_critical_for < terms.remove_after
    if node.state is NodeState.CRITICAL or strong:
        return terms.when_critical
    return TaintEffect.PREFER_NO_SCHEDULE
