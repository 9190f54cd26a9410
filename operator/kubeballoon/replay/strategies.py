"""This module holds the strategies that kubeballoon is compared with: no balloon, a static split, and the optimum.

The optimum knows every demand in advance, hence its name, clairvoyant. All strategies keep to the policy's bounds and
to the capacity, which is the node's memory less its reserve, with two exceptions: without balloons VMs may use all the
node has, and so may they under the optimum if the policy reclaims under pressure only (``reclaim.when:
UnderPressure``). Guests without balloons, and with balloons that never move, are the replay's own: they fill with page
cache, and are killed if they use up their node. The optimum has no speed or interval: memory is at once where it should
be, page caches never stand in its way, and it kills no VM.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import DemandTable, Floats, NodeWorkload, VMBounds, demand_tables, vm_bounds
from kubeballoon.replay.totals import ReplayTotals

Progress = Callable[[float], None]
"""A function that is called with the seconds that were replayed since its last call."""

Strategy = Callable[[NodeWorkload, Progress], ReplayTotals]


def _ignore(_: float) -> None:
    """Ignore how far a replay has come."""


def none(workload: NodeWorkload, progress: Progress = _ignore) -> ReplayTotals:
    """Run without balloons: guests may use all their memory, and exhaust the node if that is more than it has."""
    return _run_fixed(workload, vm_bounds(workload).size, progress)


def static(workload: NodeWorkload, progress: Progress = _ignore) -> ReplayTotals:
    """Run with one split of the capacity for good, in proportion to the VMs' sizes."""
    return _run_fixed(workload, _split_by_size(workload, vm_bounds(workload)), progress)


def _split_by_size(workload: NodeWorkload, bounds: VMBounds) -> Floats:
    """Split the capacity in proportion to the VMs' sizes, within their bounds, bytes, shape (VMs,).

    The parts of those VMs that are on the node at one time fit together.
    """
    largest = max(float((table.present @ bounds.size).max()) for table in demand_tables(workload))
    split: Floats = np.clip(bounds.size * workload.capacity / largest, bounds.minimum, bounds.maximum)
    return split


def _run_fixed(workload: NodeWorkload, allocation: Floats, progress: Progress) -> ReplayTotals:
    """Run with an allocation that never changes, bytes, shape (VMs,)."""
    return NodeReplay(workload, fixed=allocation.astype(np.int64).tolist(), progress=progress).run()


def clairvoyant(workload: NodeWorkload, progress: Progress = _ignore) -> ReplayTotals:
    """Run the optimum: every VM's demand is known when it arises, and memory moves at once.

    Each VM gets its demand within its bounds. If those demands exceed the capacity, the excess stays unmet wherever it
    is taken. It is taken from what lies above the minimums, in proportion, and no division leaves less unmet. Memory
    moves only when some VM needs it: until then each VM keeps what it has.

    Where VMs may be granted more than the node has, all of its memory can be used, and others can use what a VM leaves
    idle of its minimum.
    """
    bounds = vm_bounds(workload)
    capacity, minimum = workload.capacity, bounds.minimum
    if workload.policy.when.waits_for_pressure:
        capacity, minimum = workload.memory, np.zeros_like(minimum)
    allocation = _split_by_size(workload, bounds)
    totals = ReplayTotals()
    exhausted = False
    directions = np.zeros(len(allocation), dtype=np.int8)  # of each VM's last move: 1 up, -1 down, 0 before the first
    for table in demand_tables(workload):
        allocations = np.empty_like(table.demand)
        moved, direction_changes = 0.0, 0
        for row, (demand, present) in enumerate(zip(table.demand, table.present, strict=True)):
            least, most = minimum * present, bounds.maximum * present
            after = _next_allocation(np.minimum(allocation, most), np.clip(demand, least, most), least, capacity)
            moves = np.sign(after - allocation).astype(np.int8)
            direction_changes += int(np.count_nonzero(moves * directions < 0))
            directions = np.where(moves != 0, moves, directions)
            moved += float(np.abs(after - allocation).sum())
            allocations[row] = allocation = after
        counted, exhausted = _count(table, allocations, workload.memory, exhausted=exhausted)
        changes = ReplayTotals(moved=moved, direction_changes=direction_changes)
        totals = ReplayTotals.add_up((totals, counted, changes))
        progress(float(table.seconds.sum()))
    return totals


def _next_allocation(allocation: Floats, demand: Floats, minimum: Floats, capacity: float) -> Floats:
    """Change an allocation, as little as possible, so that it meets ``demand``, or as much of it as fits.

    All arrays are in bytes, of shape (VMs,); ``demand`` is within the VMs' bounds.
    """
    excess = demand.sum() - capacity
    if excess > 0:
        above = demand - minimum
        return demand - above * min(1.0, excess / above.sum()) if above.any() else demand
    after = np.maximum(allocation, demand)
    idle = after - demand
    surplus = after.sum() - capacity
    return after - idle * (surplus / idle.sum()) if surplus > 0 else after


def _count(table: DemandTable, allocations: Floats, memory: int, *, exhausted: bool) -> tuple[ReplayTotals, bool]:
    """Count what happens in the periods of a table.

    Args:
        table: the periods and the VMs' demands.
        allocations: what each VM may use in each period, bytes, shape (periods, VMs).
        memory: the node's, bytes.
        exhausted: whether the node was exhausted in the period before the first.

    Returns:
        The totals, and whether the node is exhausted in the last period.
    """
    used = np.minimum(table.demand, allocations).sum(axis=1)
    demand = table.demand.sum(axis=1)
    over = used > memory
    begins = over & ~np.concatenate([[exhausted], over[:-1]])
    unmet = demand - np.minimum(used, memory)
    totals = ReplayTotals(
        demand=float(demand @ table.seconds),
        unmet=float(unmet @ table.seconds),
        exhaustions=int(begins.sum()),
    )
    return totals, bool(over[-1])
