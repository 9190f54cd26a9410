"""This module replays the nodes of a pool together, so that VMs can be migrated from one to another.

Every minute a migrator is shown all nodes, and names the migrations to begin. A migration takes as long as it takes to
copy what the guest occupies, and a moment to start. On the way the VM runs on at the node that it leaves, its balloon
is left alone, and what it occupies counts as used on both nodes. It fails if the VM is killed or leaves meanwhile. The
VM arrives with what it holds; the agent there knows nothing of its past.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.core.migration import (
    ChosenMigration,
    MigrationNode,
    MigrationPlan,
    MigrationTerms,
    MigrationUnderWay,
    choose_migrations,
    migration_node,
    with_migrations_under_way,
)
from kubeballoon.core.units import GIB
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import NodeWorkload
from kubeballoon.replay.totals import ReplayTotals

LOOK_SECONDS = 60.0
"""Seconds between two choices of migrations; the controller chooses each 15 s."""

MIGRATION_RATE = 0.5 * GIB
"""Bytes a second that a migration copies: a guess, half of what a link of 10 Gbit/s carries."""

MIGRATION_START = 10.0
"""Seconds until the pod is up to which a VM is migrated: a guess."""

_DAY = 86_400.0


class PooledNode(NamedTuple):
    """A PooledNode is a node as migrators see it.

    Attributes:
        memory: the node; VMs that are on their way to it do not count.
        requestable: what pods may still request of the scheduler there, bytes; those on their way to it do not count.
        requests: what the pods of its VMs request, bytes, by the VMs' names.
    """

    memory: MemoryNode
    requestable: int
    requests: Mapping[str, int]

    @property
    def name(self) -> str:
        """The node's name."""
        return self.memory.name


Migrator = Callable[[float, Sequence[PooledNode], Sequence[MigrationUnderWay]], MigrationPlan]
"""A function that is called with the time, seconds, all nodes and the migrations under way, and chooses others."""


class PolicyMigrator:
    """A PolicyMigrator chooses migrations as the controller does, under the terms of a NodePolicy."""

    def __init__(self, terms: MigrationTerms) -> None:
        """Choose under these terms."""
        self._terms = terms
        self._contended_at: dict[str, float] = {}  # since when each node has needed more than it has
        self._moved_at: dict[str, float] = {}  # when each VM was last migrated
        self._moves: list[tuple[float, str, str]] = []  # when, from and to which node VMs were migrated

    def choose(self, now: float, nodes: Sequence[PooledNode], under_way: Sequence[MigrationUnderWay]) -> MigrationPlan:
        """Choose the migrations to begin at ``now``, seconds, beside those that are under way."""
        described = with_migrations_under_way([self._describe(each, now) for each in nodes], under_way)
        contended = [each.name for each in described if each.excess]
        self._contended_at = {name: self._contended_at.get(name, now) for name in contended}
        timed = [replace(each, contended_for=now - self._contended_at.get(each.name, now)) for each in described]
        plan = choose_migrations(timed, self._terms)
        self._moved_at |= {each.vm.name: now for each in plan.migrations}
        self._moves += [(now, each.source, each.target) for each in plan.migrations]
        return plan

    def _describe(self, node: PooledNode, now: float) -> MigrationNode:
        memory = node.memory
        described = migration_node(memory)
        vms = (
            replace(
                vm, request=node.requests[vm.name], since_migration=now - self._moved_at.get(vm.name, -float("inf"))
            )
            for vm in described.vms
        )
        return replace(
            described,
            vms=tuple(vms),
            spare=memory.spare,
            requestable=node.requestable,
            received_from=frozenset(
                source for at, source, target in self._moves if target == node.name and now - at < self._terms.rest
            ),
        )


@dataclass(slots=True)
class _UnderWay:
    """An _UnderWay is a migration that has begun: from which node to which, by their numbers, and when it ends."""

    vm: str
    source: int
    target: int
    ends_at: float


@dataclass(frozen=True, slots=True)
class PoolResult:
    """A PoolResult is what was counted on all nodes together.

    Attributes:
        failed: how many migrations failed.
        most_per_day: the most migrations that were begun of one VM within one day of the workload.
    """

    totals: ReplayTotals
    failed: int
    most_per_day: int


@dataclass(slots=True)
class PoolReplay:
    """A PoolReplay takes nodes through their workloads; VMs migrate among them.

    Attributes:
        workloads: the nodes; all of one length, with rounds at the same times.
        migrator: chooses the migrations.
        progress: called with the seconds that were replayed since the last call.
    """

    workloads: Sequence[NodeWorkload]
    migrator: Migrator
    progress: Callable[[float], None] = lambda _: None
    _nodes: list[NodeReplay] = field(init=False)
    _under_way: list[_UnderWay] = field(init=False, default_factory=list)
    _requests: dict[str, int] = field(init=False)  # what each VM's pod requests, bytes
    _begun: Counter[tuple[str, int]] = field(init=False, default_factory=Counter)  # migrations by VM and day
    _migrated: int = field(init=False, default=0)
    _failed: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Prepare the nodes of a pool for their replay."""
        self._nodes = [NodeReplay(workload) for workload in self.workloads]
        self._requests = {trace.name: int(each.requested(trace)) for each in self.workloads for trace in each.traces}

    def run(self) -> PoolResult:
        """Replay the workloads from their start to their end."""
        first, end = self._nodes[0], self.workloads[0].seconds
        for node in self._nodes:
            node.begin()
        number, done = 0, 0.0
        while (now := first.time_of(number)) < end:
            self._end_migrations(now)
            self._begin_migrations(now)
            due = min([now + LOOK_SECONDS, end, *(each.ends_at for each in self._under_way if each.ends_at > now)])
            upcoming = max(number + 1, first.round_from(due))
            for node in self._nodes:
                node.run_to(upcoming)
            self.progress(first.time_of(upcoming) - done)
            number, done = upcoming, first.time_of(upcoming)
        totals = ReplayTotals.add_up(node.totals(end) for node in self._nodes)
        return PoolResult(
            replace(totals, migrations=self._migrated), self._failed, max(self._begun.values(), default=0)
        )

    def _begin_migrations(self, now: float) -> None:
        under_way = [MigrationUnderWay(each.vm, self.workloads[each.target].name) for each in self._under_way]
        numbers = {each.name: number for number, each in enumerate(self.workloads)}
        plan = self.migrator(now, self._describe(now), under_way)
        for number, node in enumerate(self._nodes):
            node.make_room(plan.room_needed.get(self.workloads[number].name, 0))
        for migration in plan.migrations:
            source, target = numbers[migration.source], numbers[migration.target]
            name = migration.vm.name
            occupied = self._nodes[source].begin_migration(name, now)
            self._nodes[target].expect(name, int(occupied))
            ends_at = now + MIGRATION_START + occupied / MIGRATION_RATE
            self._under_way.append(_UnderWay(name, source, target, ends_at))
            self._begun[name, int(now // _DAY)] += 1

    def _end_migrations(self, now: float) -> None:
        for each in list(self._under_way):
            source, target = self._nodes[each.source], self._nodes[each.target]
            goes_on = source.migrates(each.vm)
            if goes_on and each.ends_at > now:
                continue
            self._under_way.remove(each)
            target.stop_expecting(each.vm)
            if goes_on:
                target.add(*source.remove(each.vm, now), now)
                self._migrated += 1
            else:
                self._failed += 1

    def _describe(self, now: float) -> list[PooledNode]:
        """Describe the nodes; VMs that are on their way count where they come from."""
        described = []
        for node in self._nodes:
            memory = node.snapshot(now)
            requestable = memory.total - sum(self._requests[vm.name] for vm in memory.vms)
            described.append(PooledNode(memory, max(0, requestable), self._requests))
        return described


class UtilisationDescheduler:
    """A UtilisationDescheduler moves VMs from nodes that are used more than the average to others.

    It is a simple model of Kubernetes' descheduler, which knows neither demands nor guarantees (LowNodeUtilization with
    thresholds that deviate from the average): of a node whose guests work with more of its memory than those of the
    average node do, by some points, the VM is migrated that brings it closest to the average. It goes where the
    scheduler places it: to the node with the lowest requests that has room for its own.
    """

    def __init__(self, terms: MigrationTerms, points: float = 0.1) -> None:
        """Move VMs within the limits of ``terms`` from nodes that are ``points`` above the average, 0 to 1."""
        self._terms = terms
        self._points = points
        self._moved_at: dict[str, float] = {}

    def choose(self, now: float, nodes: Sequence[PooledNode], under_way: Sequence[MigrationUnderWay]) -> MigrationPlan:
        """Choose the migrations to begin at ``now``, seconds, beside those that are under way."""
        moving = {each.vm for each in under_way}
        used = {each.name: _used(each.memory) / each.memory.total for each in nodes}
        average = sum(used.values()) / len(used)
        busy = {each.target for each in under_way} | {
            node.name for node in nodes if any(vm.name in moving for vm in node.memory.vms)
        }
        chosen: list[ChosenMigration] = []
        for node in sorted(nodes, key=lambda each: -used[each.name]):
            if len(chosen) + len(moving) >= self._terms.max_migrations or used[node.name] <= average + self._points:
                break
            if node.name in busy:
                continue
            migration = self._move(now, node, (used[node.name] - average) * node.memory.total, nodes, busy)
            if migration is not None:
                chosen.append(migration)
                busy |= {migration.source, migration.target}
                self._moved_at[migration.vm.name] = now
        return MigrationPlan(tuple(chosen))

    def _move(
        self, now: float, source: PooledNode, surplus: float, nodes: Iterable[PooledNode], busy: set[str | None]
    ) -> ChosenMigration | None:
        """Choose which VM leaves a node, and where the scheduler places it; None if no node has room for any."""
        vms = [
            vm
            for vm in migration_node(source.memory).vms
            if vm.hindrance is None and now - self._moved_at.get(vm.name, -float("inf")) >= self._terms.rest
        ]
        present = {vm.name: vm.figures.present for vm in source.memory.vms}
        for vm in sorted(vms, key=lambda vm: (abs(surplus - present[vm.name]), vm.name)):
            room = [
                each
                for each in nodes
                if each is not source and each.name not in busy and each.requestable >= each.requests[vm.name]
            ]
            if room:
                target = max(room, key=lambda each: each.requestable)
                return ChosenMigration(vm, source.name, target.name, f"{source.name} is used more than the average")
        return None


def _used(node: MemoryNode) -> int:
    """Return what a node's guests work with, bytes."""
    return sum(vm.figures.present for vm in node.vms)
