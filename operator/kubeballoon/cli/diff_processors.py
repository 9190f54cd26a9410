"""This module finds, for ``diff``, which processors each VM has once every guest has followed the decisions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, VirtualMachineReport
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.diff_result import ProcessorChange, ProcessorNodeChange
from kubeballoon.cli.output import format_change, format_count
from kubeballoon.cli.table import Cell, Column, Style, name, number
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import (
    ProcessorDecision,
    ProcessorNode,
    ProcessorPlan,
    ProcessorPressure,
    ProcessorVM,
)

_MAX_ROUNDS = 8  # a bound for a loop that ends after two rounds
_FULL_PRESSURE = ProcessorPressure(stall=100.0, usage=100.0)


@dataclass(frozen=True, slots=True)
class SettledProcessors:
    """A SettledProcessors is a node on which every guest has followed its request, and what is decided for it then."""

    node: ProcessorNode
    plan: ProcessorPlan

    @property
    def reclaimed(self) -> int:
        """How many processors the node's VMs are without."""
        return sum(max(0, vm.size - _online(vm)) for vm in self.node.vms)


@dataclass(frozen=True, slots=True)
class ProcessorOutlook:
    """A ProcessorOutlook is a settled node at its present pressure, and the same while it is short of processors."""

    present: SettledProcessors
    short: SettledProcessors

    @property
    def vms(self) -> Iterator[tuple[ProcessorVM, ProcessorDecision, int]]:
        """The VMs at present pressure, the decisions about them, and how many processors each has under shortage."""
        short = (_online(vm) for vm in self.short.node.vms)
        return zip(self.present.node.vms, self.present.plan.decisions, short, strict=True)


def compare_processors(
    pressure: NodePressure, status: NodePressureStatus, old: ClusterView, new: ClusterView
) -> tuple[ProcessorNodeChange | None, Sequence[ProcessorChange | None]]:
    """Compare the processors of a node and of its VMs, in the report's order, under the old and the new policies.

    Where the node's agent does not report processors all are None.
    """
    before, after = (view.processor_node(pressure, status) for view in (old, new))
    reports = status.virtual_machines
    if before is None or after is None or status.processors is None:
        return None, [None] * len(reports)
    least_online = {report.uid: _least_online(report) for report in reports}
    old_outlook, new_outlook = _outlook(before, least_online), _outlook(after, least_online)
    vms = [_compare_vm(*each) for each in zip(reports, old_outlook.vms, new_outlook.vms, strict=True)]
    shortfalls = old_outlook.present.plan.shortfall, new_outlook.present.plan.shortfall
    node = ProcessorNodeChange(
        changed=any(vm is not None and vm.changed for vm in vms) or shortfalls[0] != shortfalls[1],
        count=status.processors.count,
        usage=status.processors.usage,
        stall=status.processors.stall,
        reclaimed_before=old_outlook.present.reclaimed,
        reclaimed_after=new_outlook.present.reclaimed,
        short_reclaimed_before=old_outlook.short.reclaimed,
        short_reclaimed_after=new_outlook.short.reclaimed,
        shortfall_before=shortfalls[0],
        shortfall_after=shortfalls[1],
    )
    return node, vms


def _least_online(report: VirtualMachineReport) -> int | None:
    """Compute how many processors the guest keeps whatever is requested; None if no request moves any."""
    processors = report.processors
    if processors is None or not processors.eligible or not processors.responsive:
        return None
    if processors.online is None or processors.offlinable is None:
        return 1
    return max(1, processors.online - processors.offlinable)


def _outlook(node: ProcessorNode, least_online: Mapping[str, int | None]) -> ProcessorOutlook:
    return ProcessorOutlook(
        _settle_processors(node, least_online),
        _settle_processors(replace(node, pressure=_FULL_PRESSURE), least_online),
    )


def _settle_processors(node: ProcessorNode, least_online: Mapping[str, int | None]) -> SettledProcessors:
    """Decide and let the guests follow, again and again until nothing moves; ``least_online`` by uid."""
    for _ in range(_MAX_ROUNDS):
        plan = allocate_processors(node)
        vms = tuple(
            _follow(vm, decision.target, least_online[vm.uid])
            for vm, decision in zip(node.vms, plan.decisions, strict=True)
        )
        if vms == node.vms:
            break
        node = replace(node, vms=vms)
    return SettledProcessors(node, allocate_processors(node))


def _follow(vm: ProcessorVM, target: int | None, least_online: int | None) -> ProcessorVM:
    online = vm.online
    if least_online is not None:
        online = vm.size if target is None else max(min(least_online, vm.size), min(vm.size, target))
    return replace(vm, target=target, online=online, last_change=None)


def _online(vm: ProcessorVM) -> int:
    """Return how many processors a guest uses; all of them if that is not known."""
    return vm.size if vm.online is None else vm.online


def _compare_vm(
    report: VirtualMachineReport,
    old: tuple[ProcessorVM, ProcessorDecision, int],
    new: tuple[ProcessorVM, ProcessorDecision, int],
) -> ProcessorChange | None:
    """Compare a VM under the old and the new policies; None if its processors are not reported."""
    if report.processors is None:
        return None
    (before, old_decision, short_before), (after, decision, short_after) = old, new
    policies = [None if vm.policy is None else vm.policy.name for vm in (before, after)]
    minimums = [None if vm.policy is None or vm.excluded is not None else vm.minimum for vm in (before, after)]
    message = decision.message
    if after.policy is not None and after.policy.mode.only_observes and after.excluded is None:
        message = f"observed only, else: {message}"
    figures_before = _online(before), short_before, policies[0], minimums[0]
    figures_after = _online(after), short_after, policies[1], minimums[1]
    return ProcessorChange(
        changed=figures_before != figures_after or old_decision.reason is not decision.reason,
        policy_before=policies[0],
        policy_after=policies[1],
        now=report.processors.size if report.processors.online is None else report.processors.online,
        before=_online(before),
        after=_online(after),
        short_before=short_before,
        short_after=short_after,
        min_before=minimums[0],
        min_after=minimums[1],
        reason=decision.reason,
        message=message,
    )


NODE_HEADER = (
    *(name("NODE"), number("CPUS", 3), number("CPU%", 2), number("STALL%", 1), number("RECLAIMED")),
    *(number("WHEN-SHORT"), number("SHORTFALL")),
)


def node_cells(node: str, change: ProcessorNodeChange) -> list[str | Cell]:
    """Format a node's cells below NODE_HEADER."""
    shortfall = format_change(str(change.shortfall_before), str(change.shortfall_after))
    return [
        *(node, str(change.count), f"{change.usage}%", f"{change.stall}%"),
        format_change(str(change.reclaimed_before), str(change.reclaimed_after)),
        format_change(str(change.short_reclaimed_before), str(change.short_reclaimed_after)),
        Cell(shortfall, Style.BAD if change.shortfall_after > change.shortfall_before else Style.PLAIN),
    ]


VM_HEADER = (
    *(name("NAMESPACE"), name("VM"), name("NODE", 2), name("CPU-POLICY", 1), number("MIN"), number("NOW", 3)),
    *(number("BEFORE"), number("AFTER"), number("WHEN-SHORT")),
)
WIDE_VM_HEADER = (Column("WHY"),)


def vm_cells(namespace: str, vm: str, node: str, change: ProcessorChange, *, wide: bool) -> list[str | Cell]:
    """Format a VM's cells below VM_HEADER, and with ``wide`` below WIDE_VM_HEADER."""
    when_short = format_change(str(change.short_before), str(change.short_after))
    return [
        *(namespace, vm, node),
        format_change(change.policy_before or "-", change.policy_after or "-"),
        format_change(format_count(change.min_before), format_count(change.min_after)),
        *map(str, (change.now, change.before)),
        Cell(str(change.after), _style(change.before, change.after)),
        Cell(when_short, _style(change.short_before, change.short_after)),
        *([change.message] if wide else []),
    ]


def _style(before: int, after: int) -> Style:
    return Style.PLAIN if after == before else Style.WARN if after < before else Style.GOOD
