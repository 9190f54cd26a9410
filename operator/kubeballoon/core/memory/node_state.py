"""This module finds a node's state from its free memory and its stall, with hysteresis.

A stall counts only while free memory is near the thresholds: the kernel's figures for the whole node contain the stalls
of a container that thrashes at its own limit, which nothing that is reclaimed from VMs would help.

The states and their defaults are ESX's (Waldspurger, OSDI 2002, section 6.3): 6, 4, 2 and 1 % of memory free. A state
is entered when free memory falls below its own threshold and left upward only at the threshold of the state above.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.vocabulary import NodeState

_BY_SEVERITY = tuple(sorted(NodeState, key=lambda state: state.severity))


@dataclass(frozen=True, slots=True)
class StateThresholds:
    """StateThresholds are the amounts of free memory, in bytes, below which each state is entered.

    Each is below the one before. Ample is entered from nowhere: its threshold is where Tight is left.
    """

    ample: int
    tight: int
    scarce: int
    critical: int

    def of(self, state: NodeState) -> int:
        """Return the threshold of one state, in bytes."""
        return {
            NodeState.AMPLE: self.ample,
            NodeState.TIGHT: self.tight,
            NodeState.SCARCE: self.scarce,
            NodeState.CRITICAL: self.critical,
        }[state]


@dataclass(frozen=True, slots=True)
class MemoryStall:
    """A MemoryStall is the kernel's pressure stall information about memory.

    Attributes:
        some: percent of the last ten seconds in which at least one task waited for memory.
        full: percent of the last ten seconds in which all tasks that were not idle waited for memory.
    """

    some: float = 0.0
    full: float = 0.0


@dataclass(frozen=True, slots=True)
class StallLimits:
    """StallLimits are the stalls from which on a node is at least Tight or Scarce, though more memory looks free.

    A state entered because of a stall is left below half its limit.

    Attributes:
        tight_some: percent of ``MemoryStall.some`` from which on the node is Tight.
        scarce_full: percent of ``MemoryStall.full`` from which on the node is Scarce.
        counts_below: how many times the threshold of Ample must be free for a stall to count no more.
        counts_until: the same for a node that is not Ample any more.
    """

    tight_some: float = 20.0
    scarce_full: float = 10.0
    counts_below: float = 2.0  # 12 % by default: page cache that is read again at once looks free, though it is not
    counts_until: float = 3.0


def state_thresholds(
    total: int, eviction: int, margin: int, percents: tuple[float, float, float, float] = (6, 4, 2, 1)
) -> StateThresholds:
    """Return the thresholds of a node of ``total`` bytes, from percentages for Ample, Tight, Scarce and Critical.

    None is below the kubelet's hard eviction threshold plus ``margin``, both in bytes: by then the kubelet would
    already be killing pods. Where that raises the lowest, the others keep their distance from it.

    Raises:
        ValueError: the percentages are not strictly decreasing within 0 to 100.
    """
    ample, tight, scarce, critical = percents
    if not 100 >= ample > tight > scarce > critical >= 0:  # noqa: PLR2004 - percent
        raise ValueError(f"state thresholds must decrease from Ample to Critical within 0 to 100 %, got {percents}")
    base = max(int(total * critical / 100), eviction + margin)
    return StateThresholds(*(base + int(total * (percent - critical) / 100) for percent in percents))


def next_state(
    previous: NodeState, available: int, thresholds: StateThresholds, stall: MemoryStall, stall_limits: StallLimits
) -> NodeState:
    """Return the node's state, given the state before, the free memory in bytes and the stall."""
    by_memory = _by_memory(previous, available, thresholds)
    factor = stall_limits.counts_below if previous is NodeState.AMPLE else stall_limits.counts_until
    if available >= factor * thresholds.ample:
        return by_memory
    return max(by_memory, _by_stall(previous, stall, stall_limits), key=lambda state: state.severity)


def _by_memory(previous: NodeState, available: int, thresholds: StateThresholds) -> NodeState:
    """Return the state that free memory, in bytes, calls for.

    A state is left only at the threshold of the state above.
    """
    entered = NodeState.AMPLE
    for state in (NodeState.TIGHT, NodeState.SCARCE, NodeState.CRITICAL):
        if available < thresholds.of(state):
            entered = state
    state = previous
    while state.severity > entered.severity:
        above = _BY_SEVERITY[state.severity - 1]
        if available < thresholds.of(above):
            return state
        state = above
    return entered


def _by_stall(previous: NodeState, stall: MemoryStall, limits: StallLimits) -> NodeState:
    """Return the state that a stall calls for."""

    def reaches(value: float, limit: float, state: NodeState) -> bool:
        return value >= (limit / 2 if previous.severity >= state.severity else limit)

    if reaches(stall.full, limits.scarce_full, NodeState.SCARCE):
        return NodeState.SCARCE
    if reaches(stall.some, limits.tight_some, NodeState.TIGHT):
        return NodeState.TIGHT
    return NodeState.AMPLE
