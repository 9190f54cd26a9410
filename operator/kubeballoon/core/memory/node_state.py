"""How short of memory a node is, with hysteresis.

The states and their defaults are ESX's (Waldspurger, OSDI 2002, section 6.3): 6, 4, 2 and 1 % of memory free. A state
is entered when free memory falls below its own threshold and left upward only at the threshold of the state above.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.vocabulary import NodeState

_BY_SEVERITY = tuple(sorted(NodeState, key=lambda state: state.severity))


@dataclass(frozen=True, slots=True)
class StateThresholds:
    """StateThresholds says at which free memory, in bytes, each state begins; every one is below the one before."""

    ample: int
    tight: int
    scarce: int
    critical: int

    def of(self, state: NodeState) -> int:
        """The threshold of one state."""
        return {
            NodeState.AMPLE: self.ample,
            NodeState.TIGHT: self.tight,
            NodeState.SCARCE: self.scarce,
            NodeState.CRITICAL: self.critical,
        }[state]


@dataclass(frozen=True, slots=True)
class MemoryStall:
    """Pressure stall information: percent of the last ten seconds some, or all, tasks waited for memory."""

    some: float = 0.0
    full: float = 0.0


@dataclass(frozen=True, slots=True)
class StallLimits:
    """From which stall on a node is at least Tight (some) or Scarce (full), whatever memory looks free.

    A state imposed by a stall is left below half its limit.
    """

    tight_some: float = 20.0
    scarce_full: float = 10.0


def state_thresholds(
    total: int, eviction: int, margin: int, percents: tuple[float, float, float, float] = (6, 4, 2, 1)
) -> StateThresholds:
    """The thresholds of a node of ``total`` bytes, in order Ample, Tight, Scarce, Critical.

    None is below the kubelet's hard eviction threshold plus ``margin``: by then the kubelet would already be killing
    pods. Where that lifts the lowest, the ones above keep their distance from it.

    Raises:
        ValueError: the percentages are not strictly decreasing within 0 to 100.
    """
    ample, tight, scarce, critical = percents
    if not 100 >= ample > tight > scarce > critical >= 0:  # noqa: PLR2004 - percent
        raise ValueError(f"state thresholds must decrease from Ample to Critical within 0 to 100 %, got {percents}")
    base = max(int(total * critical / 100), eviction + margin)
    return StateThresholds(*(base + int(total * (percent - critical) / 100) for percent in percents))


def next_state(
    previous: NodeState, available: int, limits: StateThresholds, stall: MemoryStall, stall_limits: StallLimits
) -> NodeState:
    """The node's state, given the one before, the free memory in bytes and the stall."""
    return max(
        _by_memory(previous, available, limits),
        _by_stall(previous, stall, stall_limits),
        key=lambda state: state.severity,
    )


def _by_memory(previous: NodeState, available: int, limits: StateThresholds) -> NodeState:
    entered = NodeState.AMPLE
    for state in (NodeState.TIGHT, NodeState.SCARCE, NodeState.CRITICAL):
        if available < limits.of(state):
            entered = state
    state = previous
    while state.severity > entered.severity:
        above = _BY_SEVERITY[state.severity - 1]
        if available < limits.of(above):
            return state
        state = above
    return entered


def _by_stall(previous: NodeState, stall: MemoryStall, limits: StallLimits) -> NodeState:
    def stalls(value: float, limit: float, state: NodeState) -> bool:
        return value >= (limit / 2 if previous.severity >= state.severity else limit)

    if stalls(stall.full, limits.scarce_full, NodeState.SCARCE):
        return NodeState.SCARCE
    if stalls(stall.some, limits.tight_some, NodeState.TIGHT):
        return NodeState.TIGHT
    return NodeState.AMPLE
