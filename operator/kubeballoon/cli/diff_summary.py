"""This module says in a line or two what a change of policies comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kubeballoon.cli.diff_result import Comparison
from kubeballoon.core.formatting import human


def summarize(comparison: Comparison) -> Iterator[str]:
    """Sum up what would be reclaimed and given back, and how many nodes would have a larger shortfall, in sentences."""
    moves = [vm.after - vm.before for vm in comparison.virtual_machines if vm.changed]
    yield f"Memory: {_sum_up(moves, human)}; {_larger_shortfalls(_memory_shortfalls(comparison))}."
    processors = [vm.processors for vm in comparison.virtual_machines if vm.processors is not None]
    if any(each.changed for each in processors):
        now = _sum_up([each.after - each.before for each in processors], _count)
        short = _sum_up([each.short_after - each.short_before for each in processors], _count)
        yield f"Processors: {now}; {_larger_shortfalls(_processor_shortfalls(comparison))}."
        if short != now:
            yield f"Processors on nodes that run short: {short}."


def _sum_up(moves: Sequence[float], format_amount: Callable[[float], str]) -> str:
    down = [-move for move in moves if move < 0]
    up = [move for move in moves if move > 0]
    parts = [f"would reclaim {format_amount(sum(down))} from {_vms(down)}"] if down else []
    parts += [f"{'give' if down else 'would give'} {format_amount(sum(up))} back to {_vms(up)}"] if up else []
    return " and ".join(parts) or "would reclaim nothing and give nothing back"


def _vms(moves: list[float]) -> str:
    return f"{len(moves)} VM{'' if len(moves) == 1 else 's'}"


def _count(processors: float) -> str:
    return str(int(processors))


def _memory_shortfalls(comparison: Comparison) -> Iterator[bool]:
    return (node.shortfall_after > node.shortfall_before for node in comparison.nodes)


def _processor_shortfalls(comparison: Comparison) -> Iterator[bool]:
    changes = (node.processors for node in comparison.nodes if node.processors is not None)
    return (change.shortfall_after > change.shortfall_before for change in changes)


def _larger_shortfalls(worse: Iterable[bool]) -> str:
    """Say how many nodes' guaranteed minimums would exceed what the nodes have, by more than now."""
    count = sum(worse)
    return f"{count or 'no'} node{'' if count == 1 else 's'} would have a larger shortfall"
