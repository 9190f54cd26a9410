"""What kubeballoon is measured against."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeballoon.core.model import GIB, Amount, Policy
from kubeballoon.simulate.strategies import Load, bounds, clairvoyant, none, static
from kubeballoon.simulate.traces import step_trace

SIZE = 4 * GIB
STEPS = 8  # in which the brute force tries each VM's allocation


@st.composite
def loads(draw: st.DrawFn) -> Load:
    """Three VMs for one second, on a node too small for them."""
    parts = draw(st.tuples(*[st.integers(0, STEPS)] * 3))
    traces = [step_trace(f"vm{index}", SIZE, [0.0], [SIZE * part // STEPS]) for index, part in enumerate(parts)]
    policy = Policy("p", minimum=Amount(percent=25), maximum=Amount(percent=draw(st.sampled_from([50, 75, 100]))))
    return Load("node", draw(st.integers(4 * GIB, 12 * GIB)), traces, policy, 1.0)


@given(loads())
@settings(max_examples=50)
def test_no_allocation_within_bounds_and_capacity_leaves_less_unmet_than_the_optimum(load: Load) -> None:
    limits = bounds(load)
    choices = [
        [part * SIZE // STEPS for part in range(STEPS + 1) if low <= part * SIZE // STEPS <= high]
        for low, high in zip(limits.minimum, limits.maximum, strict=True)
    ]
    demands = [int(trace.demand[0]) for trace in load.traces]
    best = min(
        (
            sum(max(0, demand - held) for demand, held in zip(demands, allocation, strict=True))
            for allocation in itertools.product(*choices)
            if sum(allocation) <= load.capacity
        ),
        default=sum(demands),
    )
    assert clairvoyant(load).unmet <= best + 1
    assert clairvoyant(load).unmet <= static(load).unmet + 1


def test_without_balloons_a_node_is_exhausted_each_time_its_guests_use_more_than_it_has() -> None:
    traces = [step_trace(name, SIZE, [0.0, 10.0, 20.0, 30.0], [GIB, SIZE, GIB, SIZE]) for name in "ab"]
    tally = none(Load("node", 6 * GIB, traces, Policy("p"), 40.0))
    assert tally.exhaustions == 2
    assert tally.unmet == pytest.approx(20.0 * 2 * GIB)
