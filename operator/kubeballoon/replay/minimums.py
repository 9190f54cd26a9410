"""This module finds the guaranteed minimums that a history of VMs bears out on nodes that are filled with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.replay.node_workload import Floats, NodeWorkload, demand_tables
from kubeballoon.replay.traces import Trace

STEP = 5
"""Percent: minimums are multiples of this."""

_USUAL = 95  # percent of the time for which a minimum is to cover what a VM works with; more would be idle
_ADDED_SHORTAGE = 0.001  # share of the time in which guarantees, and nothing else, may leave needs without room


def usage_percentile(traces: Sequence[Trace], percent: float, seconds: float) -> float:
    """Return what VMs work with for ``percent`` of the time at most, as a share of their sizes, 0 to 1.

    All times count in which the VMs were there, for each VM alike.

    Args:
        traces: the VMs.
        percent: 0 to 100.
        seconds: how long the workload lasts.
    """
    shares, weights = [], []
    for trace in traces:
        times = np.append(trace.times, seconds)
        durations = np.diff(np.clip(times, trace.start, min(trace.end, seconds)))
        shares.append(trace.demand / trace.size)
        weights.append(durations)
    share, weight = np.concatenate(shares), np.concatenate(weights)
    order = np.argsort(share)
    reached = np.cumsum(weight[order])
    index = min(int(np.searchsorted(reached, percent / 100 * reached[-1])), len(order) - 1)
    return float(share[order][index])


@dataclass(frozen=True, slots=True)
class MinimumChoice:
    """A MinimumChoice finds minimums for one ratio.

    Attributes:
        nodes: the nodes of all placements.
        usual: the most that each policy's VMs usually work with, percent of their sizes, by policy.
        policies: the policy of each VM, by the name of its trace.
    """

    nodes: Sequence[NodeWorkload]
    usual: Mapping[str, int]
    policies: Mapping[str, str]

    def minimums(self) -> dict[str, int]:
        """Return the highest minimums that are borne out, in percent of VMs' sizes, by policy.

        One level holds for all policies, but none exceeds what its VMs usually work with. At this level all guarantees
        fit each node's capacity, and there is room beside them for all demands (needs and headroom) for as much of the
        time as without any.
        """
        levels = range(100, 0, -STEP)
        level = next((each for each in levels if self._fits(self._at(each))), 0)
        return self._at(level)

    def _at(self, level: int) -> dict[str, int]:
        return {policy: min(level, usual) for policy, usual in self.usual.items()}

    def _fits(self, minimums: Mapping[str, int]) -> bool:
        added = total = 0.0
        for node in self.nodes:
            size = np.array([trace.size for trace in node.traces], dtype=np.float64)
            share = np.array([minimums[self.policies[trace.name]] / 100 for trace in node.traces])
            headroom = np.array([node.policy_of(trace).headroom.of(trace.size) for trace in node.traces])
            for table in demand_tables(node):
                guaranteed: Floats = table.present * (share * size)
                if (guaranteed.sum(axis=1) > node.capacity).any():
                    return False
                demand = table.present * np.minimum(table.demand + headroom, size)
                fits_alone = demand.sum(axis=1) <= node.capacity
                fits_beside = np.maximum(demand, guaranteed).sum(axis=1) <= node.capacity
                added += float(table.seconds[fits_alone & ~fits_beside].sum())
                total += float(table.seconds.sum())
        return added <= _ADDED_SHORTAGE * total


def choose_minimums(
    nodes: Sequence[NodeWorkload], policies: Mapping[str, str], traces: Sequence[Trace], seconds: float
) -> dict[str, int]:
    """Find the minimums that a history bears out, in percent of VMs' sizes, by policy.

    Args:
        nodes: the nodes of all placements at one ratio.
        policies: the policy of each VM, by the name of its trace.
        traces: the VMs.
        seconds: how long the history lasts.
    """
    usual = {}
    for policy in sorted(set(policies.values())):
        share = usage_percentile([trace for trace in traces if policies[trace.name] == policy], _USUAL, seconds)
        usual[policy] = min(100, STEP * math.ceil(100 * share / STEP))
    return MinimumChoice(nodes, usual, policies).minimums()


def with_minimum(terms: MemoryTerms, percent: int) -> MemoryTerms:
    """Return the terms of a policy with another minimum, in percent of each VM's size."""
    return replace(terms, minimum=replace(terms.minimum, bytes=None, percent=percent, pod_request=False))
