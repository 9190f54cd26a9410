"""The strategies that kubeballoon is compared with."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import GuestAssumptions, NodeWorkload, vm_bounds
from kubeballoon.replay.strategies import clairvoyant, none, static
from kubeballoon.replay.traces import step_trace
from kubeballoon.vocabulary import ReclaimWhen

SIZE = 4 * GIB
STEPS = 8  # in which the brute force tries each VM's allocation


@st.composite
def one_second_workloads(draw: st.DrawFn) -> NodeWorkload:
    """Three VMs for one second, on a node too small for them."""
    parts = draw(st.tuples(*[st.integers(0, STEPS)] * 3))
    traces = [step_trace(f"vm{index}", SIZE, [0.0], [SIZE * part // STEPS]) for index, part in enumerate(parts)]
    policy = MemoryTerms(
        "p",
        minimum=Amount(percent=25),
        maximum=Amount(percent=draw(st.sampled_from([50, 75, 100]))),
        when=draw(st.sampled_from(ReclaimWhen)),
    )
    return NodeWorkload("node", draw(st.integers(4 * GIB, 12 * GIB)), traces, policy, 1.0)


@given(one_second_workloads())
@settings(max_examples=50)
def test_no_allocation_within_bounds_and_capacity_leaves_less_unmet_than_the_optimum(workload: NodeWorkload) -> None:
    bounds = vm_bounds(workload)
    demands = [int(trace.demand[0]) for trace in workload.traces]
    capacity, least = workload.capacity, bounds.minimum
    if workload.policy.when is ReclaimWhen.UNDER_PRESSURE:  # what counts is what is used, of all the node has
        capacity, least = workload.memory, np.minimum(demands, bounds.minimum)
    choices = [
        [part * SIZE // STEPS for part in range(STEPS + 1) if low <= part * SIZE // STEPS <= high]
        for low, high in zip(least, bounds.maximum, strict=True)
    ]
    best = min(
        (
            sum(max(0, demand - held) for demand, held in zip(demands, allocation, strict=True))
            for allocation in itertools.product(*choices)
            if sum(allocation) <= capacity
        ),
        default=sum(demands),
    )
    assert clairvoyant(workload).unmet <= best + 1


@st.composite
def ten_minute_workloads(draw: st.DrawFn) -> NodeWorkload:
    """Up to five VMs for ten minutes, on a node that they overcommit."""
    traces = []
    for index in range(draw(st.integers(2, 5))):
        size = draw(st.integers(1, 8)) * GIB
        times = sorted({0.0, *draw(st.lists(st.floats(1, 599), max_size=6))})
        shares = draw(st.lists(st.floats(0.05, 1), min_size=len(times), max_size=len(times)))
        traces.append(step_trace(f"vm{index}", size, times, [int(share * size) for share in shares]))
    policy = MemoryTerms(
        "p",
        minimum=Amount(percent=draw(st.integers(0, 60))),
        maximum=Amount(percent=draw(st.integers(70, 100))),
        headroom=Amount(percent=draw(st.integers(0, 20))),
        when=draw(st.sampled_from(ReclaimWhen)),
    )
    memory = int(sum(trace.size for trace in traces) / draw(st.floats(1.05, 3)))
    return NodeWorkload("node", memory, traces, policy, 600.0, interval=draw(st.sampled_from([2.0, 10.0])))


@given(ten_minute_workloads())
@settings(max_examples=60, deadline=None)
def test_nobody_meets_more_demand_than_the_optimum(workload: NodeWorkload) -> None:
    # In need, agents also lend what is free, though others are sure of it: the bound is an optimum that may lend all.
    lends = replace(workload, policy=replace(workload.policy, when=ReclaimWhen.UNDER_PRESSURE))
    optimum = clairvoyant(lends).unmet
    assert NodeReplay(workload).run().unmet >= optimum - 1
    assert static(workload).unmet >= clairvoyant(workload).unmet - 1


def test_without_balloons_a_node_is_exhausted_each_time_its_guests_use_more_than_it_has() -> None:
    traces = [step_trace(name, SIZE, [0.0, 10.0, 20.0, 30.0], [GIB, SIZE, GIB, SIZE]) for name in "ab"]
    guests = GuestAssumptions(cache_rate=0, restart_seconds=5.0)
    totals = none(NodeWorkload("node", 6 * GIB, traces, MemoryTerms("p"), 40.0, guests=guests))
    assert totals.exhaustions == 4, "each time that both demand all, and each time that the killed one is back"
    assert totals.killed == 4
    assert totals.unmet == pytest.approx(20.0 * SIZE)


def test_a_guest_that_never_gives_its_page_cache_back_ends_others() -> None:
    traces = [step_trace(name, SIZE, [0.0], [GIB]) for name in "abc"]
    node = NodeWorkload("node", 9 * GIB, traces, MemoryTerms("p", minimum=Amount(percent=25)), 3600.0)
    filling = replace(node, guests=GuestAssumptions(cache_rate=2 << 20), overcommit=12 / 9)
    assert none(replace(node, guests=GuestAssumptions(cache_rate=0))).killed == 0
    assert none(filling).killed >= 1
    assert static(filling).killed == NodeReplay(filling).run().killed == 0


def test_a_fixed_split_goes_on_after_a_vm_was_killed() -> None:
    # Whose demand changes while its guest boots, and is silent, was looked at for ever.
    times = [0.0, 10.0, 325.0]
    demands = {"a": [2 * GIB, 3.5 * GIB, 4 * GIB], "b": [3 * GIB, 3.5 * GIB, 3 * GIB]}
    traces = [step_trace(name, SIZE, times, [int(each) for each in demand]) for name, demand in demands.items()]
    totals = static(NodeWorkload("node", SIZE, traces, MemoryTerms("p", minimum=Amount(percent=60)), 600.0))
    assert totals.killed >= 1
    assert totals.unmet > 0
