"""The replay: rounds that are skipped would have changed next to nothing."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from hack.testbed.workloads import diurnal, surge
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.strategies import NodeWorkload
from kubeballoon.replay.traces import Workload


@pytest.mark.parametrize("workload", [surge(10), diurnal(6, days=0.1), diurnal(6, days=0.1, seed=2)])
@pytest.mark.parametrize("overcommit", [1.4, 2.5])
def test_skipping_rounds_changes_what_matters_in_nothing_and_what_moves_hardly(
    workload: Workload, overcommit: float
) -> None:
    memory = int(sum(trace.size for trace in workload.traces) / overcommit)
    load = NodeWorkload("node", memory, workload.traces, MemoryTerms("p", minimum=Amount(percent=25)), workload.seconds)
    skipping, each = NodeReplay(load).run(), NodeReplay(load, skip=False).run()
    alike = replace(skipping, moved=each.moved, direction_changes=each.direction_changes)
    assert astuple(alike) == pytest.approx(astuple(each), rel=1e-6)
    # A skipped round may make a decayed need's move later.
    assert skipping.moved == pytest.approx(each.moved, rel=0.02)
    assert abs(skipping.direction_changes - each.direction_changes) <= 1


def test_a_replay_is_the_same_each_time() -> None:
    workload = diurnal(4, days=0.1)
    load = NodeWorkload(
        "node", 8 * GIB, workload.traces, MemoryTerms("p", minimum=Amount(percent=25)), workload.seconds
    )
    assert NodeReplay(load).run() == NodeReplay(load).run()
