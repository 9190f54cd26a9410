"""Which VM is on which node."""

from __future__ import annotations

from kubeballoon.replay.placement import place
from kubeballoon.replay.traces import step_trace


def test_each_node_is_filled_in_order_until_the_overcommitted_memory_is_reached() -> None:
    traces = [step_trace(f"vm{index}", 4, [0.0], [1]) for index in range(5)]
    names = [[trace.name for trace in node] for node in place(traces, 4, 2.0)]
    assert names == [["vm0", "vm1"], ["vm2", "vm3"], ["vm4"]]


def test_the_vm_that_reaches_the_limit_may_exceed_it() -> None:
    traces = [step_trace(name, 10, [0.0], [1]) for name in "ab"]
    assert [len(node) for node in place(traces, 4, 1.0)] == [1, 1]
    assert place([], 4, 1.0) == []
