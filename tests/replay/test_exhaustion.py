"""When a node's memory is used up: who is killed, when, and for how long."""

from __future__ import annotations

import pytest

from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB, MIB
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import EVICTION_THRESHOLD, GuestAssumptions, NodeWorkload
from kubeballoon.replay.strategies import none, static
from kubeballoon.replay.traces import Trace, step_trace

POLICY = MemoryTerms("p", minimum=Amount(percent=25))
COLD = GuestAssumptions(cache_rate=0)


def node(memory: int, *traces: Trace, guests: GuestAssumptions = COLD, seconds: float = 1200.0) -> NodeWorkload:
    overcommit = sum(trace.size for trace in traces) / memory
    return NodeWorkload("node", memory, traces, POLICY, seconds, overcommit=overcommit, guests=guests)


def test_the_vm_that_exceeds_its_request_most_is_killed() -> None:
    """A holds more, but has requested more, too."""
    large = step_trace("large", 16 * GIB, [0.0], [9 * GIB])
    small = step_trace("small", 8 * GIB, [0.0, 100.0], [GIB, 8 * GIB])
    totals = none(node(16 * GIB, large, small))
    assert totals.killed == 4, "and again each time it is back, after five minutes"
    assert totals.unmet == pytest.approx(1100.0 * 8 * GIB), "the large one has what it works with all the time"


def test_the_kubelet_waits_for_its_next_look_and_the_kernel_does_not() -> None:
    soon = step_trace("soon", 8 * GIB, [0.0, 100.0], [GIB, 8 * GIB - EVICTION_THRESHOLD // 2])
    totals = none(node(8 * GIB, soon, seconds=150.0))
    assert (totals.exhaustions, totals.killed) == (1, 1)
    assert totals.exhausted_seconds == pytest.approx(10.0)
    at_once = step_trace("at-once", 9 * GIB, [0.0, 100.0], [GIB, 9 * GIB])
    totals = none(node(8 * GIB, at_once, seconds=150.0))
    assert (totals.exhaustions, totals.exhausted_seconds, totals.killed) == (1, 0.0, 1)


def test_page_caches_use_a_node_up_that_nobody_balloons() -> None:
    vms = [step_trace(name, 4 * GIB, [0.0], [GIB]) for name in "abcd"]
    filling = node(12 * GIB, *vms, guests=GuestAssumptions(cache_rate=4 * MIB))
    assert none(filling).killed > 0
    assert static(filling).killed == NodeReplay(filling).run().killed == 0


def test_skipping_rounds_misses_no_return_of_a_vm() -> None:
    vms = [step_trace(name, 8 * GIB, [0.0, 100.0], [GIB, 6 * GIB]) for name in "ab"]
    guests = GuestAssumptions(cache_rate=0, swap_share=0.0, restart_seconds=60.0, boot_storm_at=300.0)
    skipping, complete = (NodeReplay(node(10 * GIB, *vms, guests=guests), skip=skip).run() for skip in (True, False))
    assert skipping.unmet == pytest.approx(complete.unmet, rel=1e-3)
    assert skipping.killed == complete.killed


def test_a_boot_storm_kills_nobody_where_memory_is_taken_as_guests_come_up() -> None:
    vms = [step_trace(f"vm{index}", 8 * GIB, [0.0], [GIB]) for index in range(20)]
    storm = node(120 * GIB, *vms, guests=GuestAssumptions(cache_rate=MIB, boot_storm_at=60.0))
    assert none(storm).killed > 0
    totals = NodeReplay(storm).run()
    assert totals.killed == 0
    assert totals.below_min_seconds == 0
