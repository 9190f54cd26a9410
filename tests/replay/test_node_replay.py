"""The replay: rounds that are skipped would have changed next to nothing."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from hack.testbed.workloads import diurnal, surge
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import NodeWorkload
from kubeballoon.replay.traces import Workload


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
