"""Recorded traces on many nodes, over the whole week: what migrations bring where balloons act at once.

Every minute each VM has what it demands, within its bounds, as far as its node has it; idle memory is where it is
needed at once. So what is left unmet is what no balloon can mend, and the difference is the migrations'. They are
chosen as in ``migrations``, which replays balloons and guests too, and takes hours for a week.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hack.bench.migrations import NODE_MEMORY, POLICY, RATIOS, STEP, TERMS, VMS, repeated
from hack.testbed.workloads import DAY
from kubeballoon.core.memory.model import MemoryNode, MemoryVM
from kubeballoon.core.migration import MigrationUnderWay
from kubeballoon.core.units import GIB
from kubeballoon.replay.comparison import ReplaySettings
from kubeballoon.replay.node_workload import NodeWorkload
from kubeballoon.replay.placement import Placement
from kubeballoon.replay.pool_replay import (
    LOOK_SECONDS,
    MIGRATION_RATE,
    MIGRATION_START,
    Migrator,
    PolicyMigrator,
    PooledNode,
    UtilisationDescheduler,
)
from kubeballoon.replay.traces import Trace, read_traces

_DESCHEDULER_SECONDS = 300.0  # Kubernetes' descheduler looks each five minutes by default

Bytes = npt.NDArray[np.int64]


def rows(directory: Path) -> list[dict[str, Any]]:
    """Compare on the traces of a directory; one row per strategy and overcommit ratio."""
    workload = repeated(read_traces(directory), VMS)
    settings = ReplaySettings(NODE_MEMORY, POLICY, placement=Placement.SCHEDULER)
    found = []
    for ratio in RATIOS:
        nodes = settings.place(workload.traces, ratio)
        one = [[trace for node in nodes for trace in node]]
        cases: list[tuple[str, Sequence[Sequence[Trace]], int, Migrator | None]] = [
            ("no migration", nodes, 1, None),
            ("migration", nodes, 1, PolicyMigrator(TERMS).choose),
            ("descheduler", nodes, 1, UtilisationDescheduler(TERMS).choose),
            ("one node", one, len(nodes), None),
        ]
        for strategy, placed, times, migrator in cases:
            pool = IdealPool(placed, times * NODE_MEMORY, ratio, migrator)
            seldom = strategy == "descheduler"
            pool.run(workload.seconds, _DESCHEDULER_SECONDS if seldom else LOOK_SECONDS, always=seldom)
            found.append({"overcommit": ratio, "strategy": strategy, "nodes": len(nodes), **pool.to_row()})
    return found


@dataclass(slots=True)
class _VMUnderWay:
    """An _VMUnderWay is a VM, by its number, on its way to a node, by its number."""

    vm: int
    target: int
    ends_at: float


@dataclass(slots=True)
class IdealPool:
    """An IdealPool is nodes whose balloons act at once, with the VMs that are on each at first.

    Attributes:
        placed: the VMs of each node; their demands change on whole steps of ``STEP``.
        memory: that of each node, bytes.
        ratio: pods request their VMs' sizes divided by it.
        migrator: chooses migrations; None for none.
    """

    placed: Sequence[Sequence[Trace]]
    memory: int
    ratio: float
    migrator: Migrator | None
    _traces: list[Trace] = field(init=False)
    _place: npt.NDArray[np.int64] = field(init=False)  # on which node each VM is
    _under_way: list[_VMUnderWay] = field(init=False, default_factory=list)
    _begun: Counter[tuple[int, int]] = field(init=False, default_factory=Counter)  # migrations by VM and day
    _contended: float = field(init=False, default=0.0)  # seconds, of all nodes together
    _unmet: float = field(init=False, default=0.0)  # byte-seconds

    def __post_init__(self) -> None:
        """Give each VM of the workload its number."""
        self._traces = [trace for node in self.placed for trace in node]
        self._place = np.repeat(np.arange(len(self.placed)), [len(node) for node in self.placed])

    def run(self, seconds: float, look_seconds: float, *, always: bool) -> None:
        """Let time pass; migrations are chosen every ``look_seconds``, ``always`` or only while a node is contended."""
        grid = np.arange(0.0, seconds, STEP)
        demands = np.stack(
            [each.demand[np.searchsorted(each.times, grid, side="right") - 1] for each in self._traces], axis=1
        )
        size = np.array([each.size for each in self._traces])
        least, headroom = (size * (amount.percent or 0) // 100 for amount in (POLICY.minimum, POLICY.headroom))
        was_contended = False
        for now in np.arange(0.0, seconds, LOOK_SECONDS).tolist():
            demand = demands[int(now // STEP)]
            needed = np.clip(demand + headroom, least, size)
            self._end_migrations(now)
            contended = self._count(needed, np.clip(demand, least, size))
            if self.migrator is not None and now % look_seconds == 0 and (always or contended or was_contended):
                self._begin_migrations(self.migrator, now, demand, needed)
            was_contended = contended

    def to_row(self) -> dict[str, Any]:
        """Return what was counted in the whole replay."""
        return {
            "contended_minutes": self._contended / 60,
            "unmet_gib_hours": self._unmet / GIB / 3600,
            "migrations": self._begun.total(),
            "most_per_vm_and_day": max(self._begun.values(), default=0),
        }

    @property
    def _capacity(self) -> int:
        return NodeWorkload("node", self.memory, (), POLICY, DAY).capacity

    def _count(self, needed: Bytes, worked_with: Bytes) -> bool:
        """Count the next minute, and say whether any node needs more than it has."""
        nodes, capacity = len(self.placed), self._capacity
        contended = np.bincount(self._place, needed, nodes) > capacity
        unmet = np.maximum(0.0, np.bincount(self._place, worked_with, nodes) - capacity)
        self._contended += LOOK_SECONDS * int(np.count_nonzero(contended))
        self._unmet += LOOK_SECONDS * float(unmet.sum())
        return bool(contended.any())

    def _end_migrations(self, now: float) -> None:
        for each in self._under_way:
            if each.ends_at <= now:
                self._place[each.vm] = each.target
        self._under_way = [each for each in self._under_way if each.ends_at > now]

    def _begin_migrations(self, migrator: Migrator, now: float, demand: Bytes, needed: Bytes) -> None:
        numbers = {trace.name: number for number, trace in enumerate(self._traces)}
        nodes = self._describe(demand, needed)
        under_way = [MigrationUnderWay(self._traces[each.vm].name, f"{each.target}") for each in self._under_way]
        for migration in migrator(now, nodes, under_way).migrations:
            vm = numbers[migration.vm.name]
            ends_at = now + MIGRATION_START + float(needed[vm]) / MIGRATION_RATE
            self._under_way.append(_VMUnderWay(vm, int(migration.target), ends_at))
            self._begun[vm, int(now // DAY)] += 1

    def _describe(self, demand: Bytes, needed: Bytes) -> list[PooledNode]:
        """Describe the nodes: their VMs hold what they need, and the rest is free."""
        requests = {trace.name: int(trace.size / self.ratio) for trace in self._traces}
        reserve = self.memory - self._capacity
        described = []
        for number in range(len(self.placed)):
            here = np.flatnonzero(self._place == number).tolist()
            vms = tuple(self._vm(index, int(demand[index]), int(needed[index])) for index in here)
            available = max(0, self.memory - sum(vm.actual for vm in vms))
            memory = MemoryNode(f"{number}", self.memory, available, 0, reserve, vms=vms)
            requestable = self.memory - sum(requests[vm.name] for vm in vms)
            described.append(PooledNode(memory, max(0, requestable), requests))
        return described

    def _vm(self, number: int, demand: int, needed: int) -> MemoryVM:
        name, size = self._traces[number].name, self._traces[number].size
        return MemoryVM(name, name, size, needed, need=demand, policy=POLICY)
