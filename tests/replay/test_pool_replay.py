"""Nodes that are replayed together: VMs are migrated among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kubeballoon.core.memory.model import Amount, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.migration import ChosenMigration, MigrationPlan, MigrationTerms, MigrationUnderWay, migration_node
from kubeballoon.core.units import GIB
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import GuestAssumptions, NodeWorkload
from kubeballoon.replay.pool_replay import PolicyMigrator, PooledNode, PoolReplay, UtilisationDescheduler
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Trace, step_trace

HOUR = 3600.0
TERMS = MigrationTerms(after=60, rest=24 * HOUR)


def never(_now: float, _nodes: Sequence[PooledNode], _under_way: Sequence[MigrationUnderWay]) -> MigrationPlan:
    """Migrate no VM."""
    return MigrationPlan()


def once(now: float, nodes: Sequence[PooledNode], _under_way: Sequence[MigrationUnderWay]) -> MigrationPlan:
    """Migrate the first VM of the first node to the second, after a minute."""
    if not 60 <= now < 70:
        return MigrationPlan()
    first = migration_node(nodes[0].memory).vms[0]
    return MigrationPlan((ChosenMigration(first, nodes[0].name, nodes[1].name, "because"),))


def vm(name: str, *used: int, size: int = 8, end: float = float("inf")) -> Trace:
    """A VM that works with so many GiB in each of the next half hours."""
    times = [index * HOUR / 2 for index in range(len(used))]
    return replace(step_trace(name, size * GIB, times, [each * GIB for each in used]), end=end)


def pool(*nodes: Sequence[Trace], seconds: float = 2 * HOUR, cache_rate: int = 0) -> list[NodeWorkload]:
    """Nodes of 10 GiB; pods request half of what their VMs have."""
    terms, guests = MemoryTerms("p", minimum=Amount(percent=25)), GuestAssumptions(cache_rate)
    return [
        NodeWorkload(f"node{index}", 10 * GIB, traces, terms, seconds, overcommit=2.0, guests=guests)
        for index, traces in enumerate(nodes)
    ]


def test_without_migrations_nodes_fare_as_each_alone() -> None:
    nodes = pool([vm("a", 1, 6, 2), vm("b", 1, 5, 7)], [vm("c", 1, 3)])
    together = PoolReplay(nodes, never).run().totals
    alone = ReplayTotals.add_up(NodeReplay(node).run() for node in nodes)
    assert together.unmet == pytest.approx(alone.unmet, rel=0.01)
    assert alone.unmet > 0
    assert (together.demand, together.killed, together.migrations) == (alone.demand, alone.killed, 0)


def test_a_contended_node_is_mended_by_one_migration() -> None:
    nodes = pool([vm("a", 1, 6), vm("b", 1, 6)], [vm("c", 1)])
    left_alone, mended = PoolReplay(nodes, never).run(), PoolReplay(nodes, PolicyMigrator(TERMS).choose).run()
    assert (mended.totals.migrations, mended.failed, mended.most_per_day) == (1, 0, 1)
    assert mended.totals.demand == left_alone.totals.demand
    assert mended.totals.unmet < left_alone.totals.unmet / 10
    assert mended.totals.killed == mended.totals.exhaustions == 0


def test_a_target_whose_vms_filled_it_with_page_cache_makes_room_before_the_migration() -> None:
    nodes = pool([vm("a", 1, 6), vm("b", 1, 6)], [vm("c", 1), vm("d", 0, size=1)], cache_rate=GIB // 4)
    mended = PoolReplay(nodes, PolicyMigrator(TERMS).choose).run()
    assert mended.totals.migrations == 1
    assert mended.totals.killed == mended.totals.exhaustions == mended.totals.short_seconds == 0


def test_a_vm_does_not_go_where_its_pod_s_request_does_not_fit() -> None:
    nodes = pool([vm("a", 1, 6), vm("b", 1, 6)], [vm("c", 1), vm("d", 0, size=6)])
    assert PoolReplay(nodes, PolicyMigrator(TERMS).choose).run().totals.migrations == 0, (
        "4 and 3 of 10 GiB are requested there"
    )


def test_a_migration_fails_if_its_vm_leaves_on_the_way() -> None:
    nodes = pool([vm("a", 6, end=70), vm("b", 1)], [vm("c", 1)])
    result = PoolReplay(nodes, once).run()
    assert (result.totals.migrations, result.failed) == (0, 1)
    stays = pool([vm("a", 6), vm("b", 1)], [vm("c", 1)])
    assert (PoolReplay(stays, once).run().totals.migrations, PoolReplay(stays, once).run().failed) == (1, 0)


def test_what_a_vm_demands_after_its_migration_is_met_on_its_new_node() -> None:
    nodes = pool([vm("a", 4, 6, 8, 1), vm("b", 5, 7)], [vm("c", 0, size=1)], seconds=2 * HOUR)
    result = PoolReplay(nodes, once).run().totals
    assert result.unmet < 0.01 * result.demand
    assert PoolReplay(nodes, never).run().totals.unmet > 0.1 * result.demand


def seen(name: str, *needs: int, requestable: int = 10, size: int = 8) -> PooledNode:
    """A node of 20 GiB whose VMs work with so many GiB."""
    vms = tuple(
        MemoryVM(f"{name}-{index}", f"{name}-{index}", size * GIB, size * GIB, need=need * GIB, policy=MemoryTerms("p"))
        for index, need in enumerate(needs)
    )
    memory = MemoryNode(name, 20 * GIB, 20 * GIB, 0, GIB, vms=vms)
    return PooledNode(memory, requestable * GIB, {f"{node}-{index}": 4 * GIB for node in "xyz" for index in range(5)})


def moves(*nodes: PooledNode, now: float = 0.0, by: UtilisationDescheduler | None = None) -> list[tuple[str, str]]:
    plan = (by or UtilisationDescheduler(TERMS)).choose(now, nodes, [])
    return [(each.vm.name, each.target) for each in plan.migrations]


def test_the_descheduler_moves_from_nodes_above_the_average_to_where_the_least_is_requested() -> None:
    assert moves(seen("x", 6, 5, 4), seen("y", 1, requestable=6), seen("z", 2, requestable=8)) == [("x-0", "z")]
    assert moves(seen("x", 6), seen("y", 5), seen("z", 4)) == [], "none is ten points above the average"
    assert moves(seen("x", 6, 5), seen("y", 1, requestable=3)) == [], "the request does not fit"


def test_the_descheduler_leaves_a_vm_alone_that_it_moved_lately() -> None:
    nodes, descheduler = (seen("x", 9), seen("y", 1)), UtilisationDescheduler(TERMS)
    assert moves(*nodes, by=descheduler) == [("x-0", "y")]
    assert moves(*nodes, now=HOUR, by=descheduler) == []
    assert moves(*nodes, now=24 * HOUR, by=descheduler) == [("x-0", "y")]
