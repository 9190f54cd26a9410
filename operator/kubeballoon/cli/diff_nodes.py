"""This module finds, for ``diff``, where nodes' states would begin under NodePolicies, and which state each is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus
from kubeballoon.cli.diff_result import NodeLimitsChange
from kubeballoon.cli.output import format_bytes, format_change
from kubeballoon.cli.table import Cell, Column, Style, name, number
from kubeballoon.core.memory.node_state import MemoryStall, next_state
from kubeballoon.governance.node_policies import (
    GovernedLimits,
    LoadedNodePolicy,
    govern_limits,
    report_limits,
    reported_facts,
    select_node_policies,
)


def with_node_policies(
    nodes: Iterable[NodePressure], old: Sequence[LoadedNodePolicy], new: Sequence[LoadedNodePolicy]
) -> list[NodePressure]:
    """Return the nodes as their agents would report them if the policies were the new ones instead of the old ones."""
    return [
        node if node.status is None else node.model_copy(update={"status": _under(node.status, old, new)})
        for node in nodes
    ]


def _under(
    status: NodePressureStatus, old: Sequence[LoadedNodePolicy], new: Sequence[LoadedNodePolicy]
) -> NodePressureStatus:
    """Return a report under the new policies; the same one where these mean what the old ones do."""
    before, after = _governed(status, old), _governed(status, new)
    if status.limits is None or after is None or before == after:
        return status  # an agent that reports no limits knows no NodePolicies
    limits, stall = after.limits, MemoryStall(status.stall.some, status.stall.full)
    state = status.state
    if before is None or before.limits != limits:
        state = next_state(state, status.memory.available, limits.thresholds, stall, limits.stall)
    return status.model_copy(
        update={
            "memory": status.memory.model_copy(update={"reserve": limits.reserve}),
            "limits": report_limits(after, reported_facts(status.memory, status.limits)),
            "state": state,
        }
    )


def _governed(status: NodePressureStatus, policies: Sequence[LoadedNodePolicy]) -> GovernedLimits | None:
    if status.limits is None:
        return None
    selecting = select_node_policies(policies, status.labels)
    return govern_limits(selecting[0] if selecting else None, reported_facts(status.memory, status.limits))


def compare_limits(before: NodePressureStatus, after: NodePressureStatus) -> NodeLimitsChange | None:
    """Compare a node's limits under the old policies and under the new ones; None if its agent reports none."""
    old, new = before.limits, after.limits
    if old is None or new is None:
        return None
    change = NodeLimitsChange(
        changed=False,
        policy_before=old.policy,
        policy_after=new.policy,
        refused=new.refused,
        tight_before=old.tight,
        tight_after=new.tight,
        reserve_before=before.memory.reserve,
        reserve_after=after.memory.reserve,
        state_before=before.state,
        state_after=after.state,
    )
    differs = before.state is not after.state or before.memory.reserve != after.memory.reserve
    # Another generation of a policy that means the same changes nothing.
    limits = [each.model_copy(update={"policy_generation": 0}) for each in (old, new)]
    return change.model_copy(update={"changed": differs or limits[0] != limits[1]})


NODE_HEADER = (
    *(name("NODE"), name("NODE-POLICY", 1), number("TIGHT-BELOW", 2), number("RESERVE"), Column("STATE")),
    Column("REFUSED", optional=3),
)


def node_cells(node: str, change: NodeLimitsChange) -> list[str | Cell]:
    """Format a node's cells below NODE_HEADER."""
    worse = change.state_after.severity > change.state_before.severity
    return [
        node,
        format_change(change.policy_before or "-", change.policy_after or "-"),
        format_change(format_bytes(change.tight_before), format_bytes(change.tight_after)),
        format_change(format_bytes(change.reserve_before), format_bytes(change.reserve_after)),
        Cell(format_change(change.state_before, change.state_after), Style.BAD if worse else Style.PLAIN),
        Cell(change.refused or "-", Style.BAD if change.refused else Style.PLAIN),
    ]
