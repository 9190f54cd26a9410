"""Which VM is on which node."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.replay.placement import PlacementError, peak_size, place, schedule
from kubeballoon.replay.traces import Trace, step_trace


def vm(name: str, size: int, start: float = 0.0, end: float = float("inf")) -> Trace:
    return replace(step_trace(name, size, [0.0], [1]), start=start, end=end)


def names(nodes: list[tuple[Trace, ...]]) -> list[list[str]]:
    return [[trace.name for trace in node] for node in nodes]


def test_each_node_is_filled_in_order_until_the_overcommitted_memory_is_reached() -> None:
    traces = [step_trace(f"vm{index}", 4, [0.0], [1]) for index in range(5)]
    assert names(place(traces, 4, 2.0)) == [["vm0", "vm1"], ["vm2", "vm3"], ["vm4"]]


def test_the_vm_that_reaches_the_limit_may_exceed_it() -> None:
    traces = [step_trace(name, 10, [0.0], [1]) for name in "ab"]
    assert [len(node) for node in place(traces, 4, 1.0)] == [1, 1]
    assert place([], 4, 1.0) == []


def test_vms_that_are_not_there_at_one_time_share_a_node_s_room() -> None:
    shift = [vm("early", 4, 0, 10), vm("late", 4, 10, 20), vm("always", 4)]
    assert names(place(shift, 8, 1.0)) == [["early", "late", "always"]]
    assert peak_size(shift) == 8
    assert [len(node) for node in schedule(shift, 8, 1.0)] == [3]


def test_the_scheduler_spreads_vms_over_the_fewest_nodes_that_their_requests_fill() -> None:
    traces = [vm(f"vm{index}", 4) for index in range(8)]
    assert [len(node) for node in schedule(traces, 8, 1.0)] == [2, 2, 2, 2]
    assert [len(node) for node in schedule(traces, 8, 2.0)] == [4, 4]
    assert names(schedule(traces, 8, 2.0, seed=1)) == names(schedule(traces, 8, 2.0, seed=1))
    assert names(schedule(traces, 8, 2.0, seed=1)) != names(schedule(traces, 8, 2.0, seed=2))


def test_the_scheduler_takes_the_node_with_the_lowest_requests() -> None:
    nodes = names(schedule([vm("large", 6), vm("late", 2, 5), vm("small", 2, 1)], 6, 1.0))
    assert sorted(nodes) == [["large"], ["small", "late"]]


def test_a_pod_that_fits_no_node_gets_another_one() -> None:
    assert len(schedule([vm(name, 3) for name in "abc"], 5, 1.0)) == 3, "their 9 would fill two nodes"


def test_a_vm_that_is_larger_than_a_node_is_named() -> None:
    with pytest.raises(PlacementError, match="the VM big has 10 bytes, and a node takes VMs of at most 6 bytes"):
        schedule([vm("small", 1), vm("big", 10)], 4, 1.5)


@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(0, 9), st.integers(1, 9)), max_size=20),
    st.sampled_from([1.0, 1.5, 3.0]),
    st.integers(0, 99),
)
def test_no_node_is_ever_given_more_requests_than_it_has_memory(
    lifetimes: list[tuple[int, int, int]], overcommit: float, seed: int
) -> None:
    traces = [vm(f"vm{n}", size, start, start + length) for n, (size, start, length) in enumerate(lifetimes)]
    nodes = schedule(traces, 16, overcommit, seed)
    assert all(peak_size(node) <= 16 * overcommit for node in nodes)
    assert sorted(trace.name for node in nodes for trace in node) == sorted(trace.name for trace in traces)
