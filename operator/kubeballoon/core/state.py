"""How short of memory a node is, with hysteresis.

The states and their defaults are ESX's (Waldspurger, OSDI 2002, section 6.3): 6, 4, 2 and 1 % of memory free. A state
is entered when free memory falls below its own threshold and left upward only at the threshold of the state above.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubeballoon.core.model import State

_BY_SEVERITY = tuple(sorted(State, key=lambda state: state.severity))


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Free memory, in bytes, that each state calls for; strictly increasing from low to high."""

    high: int
    soft: int
    hard: int
    low: int

    def of(self, state: State) -> int:
        """The threshold of one state."""
        return {State.HIGH: self.high, State.SOFT: self.soft, State.HARD: self.hard, State.LOW: self.low}[state]


@dataclass(frozen=True, slots=True)
class Stall:
    """Pressure stall information: percent of the last ten seconds some, or all, tasks waited for memory."""

    some: float = 0.0
    full: float = 0.0


@dataclass(frozen=True, slots=True)
class StallLimits:
    """From which stall on a node is at least Soft (some) or Hard (full), whatever memory looks free.

    A state imposed by a stall is left below half its limit.
    """

    soft_some: float = 20.0
    hard_full: float = 10.0


def thresholds(
    total: int, eviction: int, margin: int, percents: tuple[float, float, float, float] = (6, 4, 2, 1)
) -> Thresholds:
    """The thresholds of a node of ``total`` bytes, in order High, Soft, Hard, Low.

    None is below the kubelet's hard eviction threshold plus ``margin``: by then the kubelet would already be killing
    pods. Where that lifts the lowest, the ones above keep their distance from it.

    Raises:
        ValueError: the percentages are not strictly decreasing within 0 to 100.
    """
    high, soft, hard, low = percents
    if not 100 >= high > soft > hard > low >= 0:  # noqa: PLR2004 - percent
        raise ValueError(f"state thresholds must decrease from High to Low within 0 to 100 %, got {percents}")
    base = max(int(total * low / 100), eviction + margin)
    return Thresholds(*(base + int(total * (percent - low) / 100) for percent in percents))


def next_state(previous: State, available: int, limits: Thresholds, stall: Stall, stall_limits: StallLimits) -> State:
    """The node's state, given the one before, the free memory in bytes and the stall."""
    return max(
        _by_memory(previous, available, limits),
        _by_stall(previous, stall, stall_limits),
        key=lambda state: state.severity,
    )


def _by_memory(previous: State, available: int, limits: Thresholds) -> State:
    entered = State.HIGH
    for state in (State.SOFT, State.HARD, State.LOW):
        if available < limits.of(state):
            entered = state
    state = previous
    while state.severity > entered.severity:
        above = _BY_SEVERITY[state.severity - 1]
        if available < limits.of(above):
            return state
        state = above
    return entered


def _by_stall(previous: State, stall: Stall, limits: StallLimits) -> State:
    def stalls(value: float, limit: float, state: State) -> bool:
        return value >= (limit / 2 if previous.severity >= state.severity else limit)

    if stalls(stall.full, limits.hard_full, State.HARD):
        return State.HARD
    if stalls(stall.some, limits.soft_some, State.SOFT):
        return State.SOFT
    return State.HIGH
