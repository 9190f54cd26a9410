"""This module finds a node's state from its free memory and its stall, with hysteresis.

A stall counts only while free memory is near the thresholds: the kernel's figures for the whole node contain the stalls
of a container that thrashes at its own limit, which nothing that is reclaimed from VMs would help.

The states and their defaults are ESX's (Waldspurger, OSDI 2002, section 6.3): 6, 4, 2 and 1 % of memory free. A state
is entered when free memory falls below its own threshold and left upward only at the threshold of the state above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from kubeballoon.core.formatting import human
from kubeballoon.core.memory.model import Amount
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
        match state:
            case NodeState.AMPLE:
                return self.ample
            case NodeState.TIGHT:
                return self.tight
            case NodeState.SCARCE:
                return self.scarce
            case NodeState.CRITICAL:
                return self.critical
        assert_never(state)


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


class UnfitTermsError(ValueError):
    """An UnfitTermsError means that a NodePolicy cannot hold on a node; its text is one line for a person."""


@dataclass(frozen=True, slots=True)
class NodeTerms:
    """NodeTerms are what a NodePolicy says about the nodes that it governs.

    Attributes:
        thresholds: the free memory at which Ample, Tight, Scarce and Critical begin; None for ESX's percentages.
        eviction: the kubelet's eviction threshold; None for what the agent knows.
        margin: how far above that threshold Critical begins at the least, bytes; None for the agent's own setting.
        reserve: what is kept free of VMs; None for the threshold of Ample.
        stall: the stalls from which on a node is short of memory.
    """

    thresholds: tuple[Amount, Amount, Amount, Amount] | None = None
    eviction: Amount | None = None
    margin: int | None = None
    reserve: Amount | None = None
    stall: StallLimits = StallLimits()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """NodeFacts are what decides a node's limits besides its policy; all but ``eviction_read`` are bytes.

    Attributes:
        total: what pods may use together.
        capacity: what the kubelet takes for the node's memory.
        eviction: the kubelet's eviction threshold, as far as the agent knows it without a policy.
        margin: how far above that threshold Critical begins at the least, as the agent was installed.
        eviction_read: whether the threshold was read from the kubelet's configuration, so that no policy knows better.
    """

    total: int
    capacity: int
    eviction: int
    margin: int
    eviction_read: bool = False


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """NodeLimits are where a node's states begin, how much is kept free of VMs (bytes), and which stalls count."""

    thresholds: StateThresholds
    reserve: int
    stall: StallLimits = StallLimits()


def node_limits(terms: NodeTerms, facts: NodeFacts) -> NodeLimits:
    """Find a node's limits under the terms of its policy, or under none for a node that no policy selects.

    Raises:
        UnfitTermsError: the limits would leave nothing of the node for VMs.
    """
    eviction = facts.eviction
    if terms.eviction is not None and not facts.eviction_read:
        eviction = terms.eviction.of(facts.capacity)
    margin = facts.margin if terms.margin is None else terms.margin
    if terms.thresholds is None:
        thresholds = state_thresholds(facts.total, eviction, margin)
    else:
        sizes = [amount.of(facts.total) for amount in terms.thresholds]
        base = max(sizes[-1], eviction + margin)
        thresholds = StateThresholds(*(base + size - sizes[-1] for size in sizes))
    reserve = max(thresholds.ample, 0 if terms.reserve is None else terms.reserve.of(facts.total))
    if reserve >= facts.total and terms != NodeTerms():
        raise UnfitTermsError(f"it would keep {human(reserve)} of {human(facts.total)} free, and leave VMs nothing")
    return NodeLimits(thresholds, reserve, terms.stall)


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
    for state in _BY_SEVERITY[1:]:
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
