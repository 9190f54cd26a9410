"""Recorded traces on many nodes: what migrations bring, against none, a descheduler, and one pool of all memory.

The VMs that were recorded are repeated until there are 500, and placed as Kubernetes' scheduler does. Each repetition
begins a day later, and wraps round. So one day of all of them, which is what is replayed, holds a week of each VM.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hack.testbed.workloads import DAY
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.migration import MigrationPlan, MigrationTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.comparison import ReplaySettings
from kubeballoon.replay.node_workload import NodeWorkload
from kubeballoon.replay.parallel import run_tasks
from kubeballoon.replay.placement import Placement
from kubeballoon.replay.pool_replay import Migrator, PolicyMigrator, PoolReplay, PoolResult, UtilisationDescheduler
from kubeballoon.replay.strategies import clairvoyant
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Workload, read_traces, step_trace

VMS = 500
RATIOS = (1.5, 2.0, 2.5, 3.0)
TERMS = MigrationTerms(after=60.0, max_migrations=4, max_migrations_per_node=1, rest=DAY)
"""Those of a NodePolicy with ``after: 1m``, ``maxMigrations: 4`` and ``rest: 24h``."""

NODE_MEMORY = 64 * GIB
POLICY = MemoryTerms("quarter", minimum=Amount(percent=25))
STEP = 300.0  # seconds between two samples


def rows(directory: Path) -> list[dict[str, Any]]:
    """Replay the traces of a directory; one row per strategy and overcommit ratio."""
    workload = replace(repeated(read_traces(directory), VMS), seconds=DAY)
    settings = ReplaySettings(NODE_MEMORY, POLICY, placement=Placement.SCHEDULER)
    nodes = {ratio: settings.workloads(workload, ratio, settings.place(workload.traces, ratio)) for ratio in RATIOS}
    tasks = [_StrategyTask(ratio, strategy, workloads) for ratio, workloads in nodes.items() for strategy in STRATEGIES]
    done = list(run_tasks(tasks, os.cpu_count() or 1, lambda _: None))
    order = list(STRATEGIES)
    return sorted(done, key=lambda row: (row["overcommit"], order.index(row["strategy"])))


def repeated(workload: Workload, vms: int) -> Workload:
    """Repeat VMs until there are so many, on whole days; each repetition begins a day later, and wraps round."""
    days = int(workload.seconds // DAY)
    grid = np.arange(0.0, days * DAY, STEP)
    traces = []
    for index in range(vms):
        repetition, number = divmod(index, len(workload.traces))
        trace = workload.traces[number]
        demand = trace.demand[np.searchsorted(trace.times, grid, side="right") - 1]
        shifted = np.roll(demand, -round(repetition * DAY / STEP))
        traces.append(step_trace(f"{trace.name}-{repetition}", trace.size, grid, shifted, trace.disk_rate))
    return Workload(tuple(traces), days * DAY)


def _replay(workloads: Sequence[NodeWorkload], migrator: Migrator) -> PoolResult:
    return PoolReplay(workloads, migrator).run()


def _optimum(workloads: Iterable[NodeWorkload]) -> PoolResult:
    return PoolResult(ReplayTotals.add_up(clairvoyant(each) for each in workloads), 0, 0)


def _one_node(workloads: Sequence[NodeWorkload]) -> NodeWorkload:
    """Put all VMs on one node that has the memory of all nodes."""
    traces = [trace for each in workloads for trace in each.traces]
    return replace(workloads[0], name="all", memory=sum(each.memory for each in workloads), traces=traces)


STRATEGIES: Mapping[str, Callable[[Sequence[NodeWorkload]], PoolResult]] = {
    "no migration": lambda workloads: _replay(workloads, lambda *_: MigrationPlan()),
    "migration": lambda workloads: _replay(workloads, PolicyMigrator(TERMS).choose),
    "descheduler": lambda workloads: _replay(workloads, UtilisationDescheduler(TERMS).choose),
    "optimum of each node": _optimum,
    "optimum of one node": lambda workloads: _optimum([_one_node(workloads)]),
}
"""What is compared: three times kubeballoon, and the optima without migrations and of one node with all memory."""


@dataclass(frozen=True, slots=True)
class _StrategyTask:
    """A _StrategyTask is one strategy at one overcommit ratio, on all nodes."""

    overcommit: float
    strategy: str
    workloads: Sequence[NodeWorkload]

    @property
    def work(self) -> float:
        """How much there is to do, in nodes."""
        return len(self.workloads)

    def run(self, count_work: Callable[[float], None]) -> dict[str, Any]:
        """Run the strategy, and return its figures; ``count_work`` is called with the amount of work that is done."""
        result = STRATEGIES[self.strategy](self.workloads)
        count_work(self.work)
        totals = result.totals
        return {
            "overcommit": self.overcommit,
            "strategy": self.strategy,
            "nodes": len(self.workloads),
            "demand_gib_hours": totals.demand / GIB / 3600,
            "unmet_gib_hours": totals.unmet / GIB / 3600,
            "exhaustions": totals.exhaustions,
            "vms_killed": totals.killed,
            "short_minutes": totals.short_seconds / 60,
            "moved_gib": totals.moved / GIB,
            "migrations": totals.migrations,
            "failed": result.failed,
            "most_per_vm_and_day": result.most_per_day,
        }
