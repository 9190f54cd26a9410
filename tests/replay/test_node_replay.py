"""The replay: rounds that are skipped would have changed next to nothing."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from hack.testbed.workloads import diurnal, surge
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.node_replay import NodeReplay, Recording
from kubeballoon.replay.node_workload import GuestAssumptions, NodeWorkload
from kubeballoon.replay.strategies import clairvoyant, none, static
from kubeballoon.replay.traces import Trace, Workload, step_trace


@pytest.mark.parametrize("workload", [surge(10), diurnal(6, days=0.1), diurnal(6, days=0.1, seed=2)])
@pytest.mark.parametrize("overcommit", [1.4, 2.5])
def test_skipping_rounds_changes_next_to_nothing(workload: Workload, overcommit: float) -> None:
    memory = int(sum(trace.size for trace in workload.traces) / overcommit)
    terms = MemoryTerms("p", minimum=Amount(percent=25))
    node = NodeWorkload("node", memory, workload.traces, terms, workload.seconds)
    skipping, complete = NodeReplay(node).run(), NodeReplay(node, skip=False).run()
    comparable = replace(skipping, moved=complete.moved, direction_changes=complete.direction_changes)
    assert astuple(comparable) == pytest.approx(astuple(complete), rel=1e-6)
    # A skipped round may make a decayed need's move later.
    assert skipping.moved == pytest.approx(complete.moved, rel=0.02)
    assert abs(skipping.direction_changes - complete.direction_changes) <= 1


def test_a_replay_is_the_same_each_time() -> None:
    workload = diurnal(4, days=0.1)
    node = NodeWorkload(
        "node", 8 * GIB, workload.traces, MemoryTerms("p", minimum=Amount(percent=25)), workload.seconds
    )
    assert NodeReplay(node).run() == NodeReplay(node).run()


def shift(size: int, *, hours: tuple[float, float], used: float = 0.7) -> Trace:
    """A VM that runs from the first to the second hour, and works with a part of its memory."""
    start, end = (hour * 3600 for hour in hours)
    trace = step_trace(f"from{hours[0]:g}", size, [start, end], [int(used * size), 0])
    return replace(trace, start=start, end=end)


def test_a_vm_that_has_left_holds_nothing_and_one_that_comes_finds_room() -> None:
    terms = MemoryTerms("p", minimum=Amount(percent=25))
    traces = [shift(4 * GIB, hours=(hour, hour + 1)) for hour in range(4)]
    node = NodeWorkload("node", 5 * GIB, traces, terms, 4 * 3600.0)
    skipping, complete = NodeReplay(node).run(), NodeReplay(node, skip=False).run()
    assert skipping.unmet == complete.unmet == 0
    assert skipping.killed == skipping.exhaustions == 0
    assert skipping.demand == pytest.approx(4 * 3600 * int(2.8 * GIB))
    assert static(node).unmet == 0, "their parts are those of the VMs that are there at one time"
    assert clairvoyant(node).unmet == none(node).unmet == 0


def test_vms_that_come_to_a_full_node_share_it_with_those_that_are_there() -> None:
    terms = MemoryTerms("p", minimum=Amount(percent=25))
    traces = [shift(4 * GIB, hours=(hour, hour + 2), used=0.4) for hour in (0.0, 0.5, 1.0, 1.5)]
    node = NodeWorkload("node", 10 * GIB, traces, terms, 4 * 3600.0)
    skipping, complete = NodeReplay(node).run(), NodeReplay(node, skip=False).run()
    assert skipping.killed == complete.killed == 0
    assert skipping.unmet == pytest.approx(complete.unmet, rel=1e-6)
    assert clairvoyant(node).unmet <= skipping.unmet < 0.01 * skipping.demand


def test_a_boot_storm_spares_vms_that_are_not_there() -> None:
    traces = [shift(GIB, hours=(0, 1)), shift(GIB, hours=(3, 4))]
    guests = GuestAssumptions(boot_storm_at=2 * 3600.0)
    recording = Recording(point_seconds=60.0, decisions_until=0.0)
    NodeReplay(
        NodeWorkload("node", 4 * GIB, traces, MemoryTerms("p"), 4 * 3600.0, guests=guests), recording=recording
    ).run()
    between = [point for point in recording.points if 3600 <= point.at < 3 * 3600]
    assert between
    assert all(point.available == 4 * GIB and sum(point.held) == 0 for point in between)
