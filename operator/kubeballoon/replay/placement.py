"""This module places VMs on nodes."""

from __future__ import annotations

from collections.abc import Iterable

from kubeballoon.replay.traces import Trace


def place(traces: Iterable[Trace], node_memory: int, overcommit: float) -> list[tuple[Trace, ...]]:
    """Fill one node after another, in the order of the traces, until its VMs' sizes reach the overcommitted memory.

    The VM that reaches the limit may exceed it, so that no VM is too large for a node.

    Args:
        traces: the VMs.
        node_memory: memory of one node, bytes.
        overcommit: the ratio of the VMs' sizes to the node's memory.
    """
    nodes: list[list[Trace]] = []
    room = 0.0
    for trace in traces:
        if room <= 0:
            nodes.append([])
            room = node_memory * overcommit
        nodes[-1].append(trace)
        room -= trace.size
    return [tuple(node) for node in nodes]
