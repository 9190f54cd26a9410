"""This module finds, for ``diff``, how much memory each VM has once every guest has followed the decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.cli.diff_result import NodeChange, VirtualMachineChange
from kubeballoon.cli.output import format_bytes, format_change
from kubeballoon.cli.table import Cell, Column, Style, name, number
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM

_MAX_ROUNDS = 32  # a bound for a loop that ends within a few rounds


@dataclass(frozen=True, slots=True)
class SettledMemory:
    """A SettledMemory is a node on which every guest has followed its request, and what is decided for it then."""

    node: MemoryNode
    plan: MemoryPlan

    @property
    def vms(self) -> Iterator[tuple[MemoryVM, MemoryDecision]]:
        """The node's VMs, each with the decision about it."""
        return zip(self.node.vms, self.plan.decisions, strict=True)

    @property
    def reclaimed(self) -> int:
        """Memory that the node's VMs are without, bytes."""
        return sum(max(0, vm.size - vm.actual) for vm in self.node.vms)


def settle_memory(node: MemoryNode, movable: Mapping[str, bool]) -> SettledMemory:
    """Decide and let the guests follow, again and again until nothing moves.

    Args:
        node: where to start.
        movable: by uid, whether an agent can move the VM's balloon.
    """
    for _ in range(_MAX_ROUNDS):
        plan = allocate_memory(node)
        vms = tuple(
            _follow(vm, decision.target, movable=movable[vm.uid])
            for vm, decision in zip(node.vms, plan.decisions, strict=True)
        )
        freed = sum(before.actual - after.actual for before, after in zip(node.vms, vms, strict=True))
        if vms == node.vms:
            break
        # What balloons free becomes available; other memory of the node stays as reported.
        node = replace(node, vms=vms, available=max(0, min(node.total, node.available + freed)))
    return SettledMemory(node, allocate_memory(node))


def _follow(vm: MemoryVM, target: int | None, *, movable: bool) -> MemoryVM:
    actual = vm.actual
    if movable:
        actual = vm.size if target is None else min(vm.size, target)
    return replace(vm, target=target, actual=actual, untouched=min(vm.untouched, actual), last_change=None)


def compare_vm(
    report: VirtualMachineReport,
    old: tuple[MemoryVM, MemoryDecision],
    new: tuple[MemoryVM, MemoryDecision],
    *,
    node: str,
) -> VirtualMachineChange:
    """Compare a VM under the old policies and under the new ones, each with the decision about it."""
    (before, old_decision), (after, decision) = old, new
    policies = [None if vm.policy is None else vm.policy.name for vm in (before, after)]
    minimums = [None if vm.policy is None or vm.excluded is not None else vm.minimum for vm in (before, after)]
    observes = after.policy is not None and after.policy.mode.only_observes and after.excluded is None
    return VirtualMachineChange(
        namespace=report.namespace,
        name=report.name,
        node=node,
        changed=abs(after.actual - before.actual) > after.dead_band
        or policies[0] != policies[1]
        or minimums[0] != minimums[1]
        or old_decision.reason is not decision.reason,
        policy_before=policies[0],
        policy_after=policies[1],
        now=report.actual or report.size,
        before=before.actual,
        after=after.actual,
        min_before=minimums[0],
        min_after=minimums[1],
        observed=decision.entitlement if observes else None,
        reason=decision.reason,
        message=decision.message,
    )


def compare_node(old: SettledMemory, new: SettledMemory, vms: Iterable[VirtualMachineChange]) -> NodeChange:
    """Compare a node under the old policies and under the new ones, given the changes of its VMs."""
    return NodeChange(
        name=new.node.name,
        state=new.node.state,
        changed=any(vm.changed for vm in vms)
        or (old.plan.shortfall, old.plan.risk) != (new.plan.shortfall, new.plan.risk),
        capacity=new.node.capacity,
        reclaimed_before=old.reclaimed,
        reclaimed_after=new.reclaimed,
        shortfall_before=old.plan.shortfall,
        shortfall_after=new.plan.shortfall,
        risk_before=old.plan.risk,
        risk_after=new.plan.risk,
    )


NODE_HEADER = (
    *(name("NODE"), Column("STATE", optional=2), number("CAPACITY", 3), number("RECLAIMED"), number("SHORTFALL")),
    number("RISK", 1),
)


def node_cells(node: NodeChange) -> list[str | Cell]:
    """Format a node's cells below NODE_HEADER."""
    shortfall = format_change(format_bytes(node.shortfall_before), format_bytes(node.shortfall_after))
    return [
        *(node.name, node.state, format_bytes(node.capacity)),
        format_change(format_bytes(node.reclaimed_before), format_bytes(node.reclaimed_after)),
        Cell(shortfall, Style.BAD if node.shortfall_after > node.shortfall_before else Style.PLAIN),
        format_change(format_bytes(node.risk_before), format_bytes(node.risk_after)),
    ]


VM_HEADER = (
    *(name("NAMESPACE"), name("VM"), name("NODE", 2), name("POLICY", 1), number("MIN"), number("NOW", 3)),
    *(number("BEFORE"), number("AFTER")),
)
WIDE_VM_HEADER = (Column("WHY"),)


def vm_cells(vm: VirtualMachineChange, *, wide: bool) -> list[str | Cell]:
    """Format a VM's cells below VM_HEADER, and with ``wide`` below WIDE_VM_HEADER."""
    why = vm.message
    if vm.observed is not None:
        why = f"observed only, would have {format_bytes(vm.observed)}: {vm.message}"
    style = Style.PLAIN if vm.after == vm.before else Style.WARN if vm.after < vm.before else Style.GOOD
    return [
        *(vm.namespace, vm.name, vm.node),
        format_change(vm.policy_before or "-", vm.policy_after or "-"),
        format_change(format_bytes(vm.min_before), format_bytes(vm.min_after)),
        *map(format_bytes, (vm.now, vm.before)),
        Cell(format_bytes(vm.after), style),
        *([why] if wide else []),
    ]
