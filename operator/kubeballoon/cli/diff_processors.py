"""The processors' part of ``diff``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, VirtualMachineReport
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.output import Cell, Style, arrow
from kubeballoon.cli.processors import number
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import (
    ProcessorDecision,
    ProcessorNode,
    ProcessorPlan,
    ProcessorPressure,
    ProcessorVM,
)
from kubeballoon.vocabulary import Mode

_ROUNDS = 8  # of decisions and guests that follow; they settle at the second
_SHORT = ProcessorPressure(stall=100.0, usage=100.0)


class ProcessorChange(ApiModel):
    """The processors a VM has now, and would have once everything has settled, before and after the change.

    ``before`` and ``after`` are at the node's present usage and stall; ``short_before`` and ``short_after`` while it is
    short of processors. A VM whose policy only observes keeps its processors.
    """

    changed: bool
    policy_before: str | None = None
    policy_after: str | None = None
    now: int
    before: int
    after: int
    short_before: int
    short_after: int
    min_before: int | None = None
    min_after: int | None = None
    reason: str
    message: str


class ProcessorNodeChange(ApiModel):
    """A node's processors: how many its VMs would be without, and how many more their minimums are than it has."""

    changed: bool
    count: int
    usage: int
    stall: int
    reclaimed_before: int = Field(alias="takenBefore")
    reclaimed_after: int = Field(alias="takenAfter")
    short_reclaimed_before: int = Field(alias="shortTakenBefore")
    short_reclaimed_after: int = Field(alias="shortTakenAfter")
    shortfall_before: int
    shortfall_after: int


@dataclass(frozen=True, slots=True)
class _Settled:
    """A node once every guest has followed: at its present pressure, and while it is short of processors."""

    now: tuple[ProcessorNode, ProcessorPlan]
    short: tuple[ProcessorNode, ProcessorPlan]

    @property
    def vms(self) -> Iterator[tuple[ProcessorVM, ProcessorDecision, int]]:
        """Its VMs, what was decided of each, and how many processors each would have while the node is short."""
        node, plan = self.now
        return zip(node.vms, plan.decisions, (_used(vm) for vm in self.short[0].vms), strict=True)


def compare(
    pressure: NodePressure, status: NodePressureStatus, old: ClusterView, new: ClusterView
) -> tuple[ProcessorNodeChange | None, Sequence[ProcessorChange | None]]:
    """What would change for a node and for each of its VMs; nothing where its agent does not report processors."""
    before, after = (sight.processors(pressure, status) for sight in (old, new))
    reports = status.virtual_machines
    if before is None or after is None or status.processors is None:
        return None, [None] * len(reports)
    floors = {report.uid: _floor(report) for report in reports}
    was, will = _settle(before, floors), _settle(after, floors)
    changes = [_vm(*pair) for pair in zip(reports, was.vms, will.vms, strict=True)]
    shortfalls = was.now[1].shortfall, will.now[1].shortfall
    change = ProcessorNodeChange(
        changed=any(each is not None and each.changed for each in changes) or shortfalls[0] != shortfalls[1],
        count=status.processors.count,
        usage=status.processors.usage,
        stall=status.processors.stall,
        reclaimed_before=_reclaimed(was.now[0]),
        reclaimed_after=_reclaimed(will.now[0]),
        short_reclaimed_before=_reclaimed(was.short[0]),
        short_reclaimed_after=_reclaimed(will.short[0]),
        shortfall_before=shortfalls[0],
        shortfall_after=shortfalls[1],
    )
    return change, changes


def _floor(report: VirtualMachineReport) -> int | None:
    """How many processors the guest keeps whatever is asked of it; None where nothing moves them."""
    seen = report.processors
    if seen is None or not seen.eligible or not seen.responsive:
        return None
    return 1 if seen.online is None or seen.offlinable is None else max(1, seen.online - seen.offlinable)


def _settle(node: ProcessorNode, floors: Mapping[str, int | None]) -> _Settled:
    return _Settled(_follow(node, floors), _follow(replace(node, pressure=_SHORT), floors))


def _follow(node: ProcessorNode, floors: Mapping[str, int | None]) -> tuple[ProcessorNode, ProcessorPlan]:
    """Decide, and let the guests follow, until nothing moves."""
    for _ in range(_ROUNDS):
        plan = allocate_processors(node)
        vms = tuple(_followed(vm, each.target, floors) for vm, each in zip(node.vms, plan.decisions, strict=True))
        if vms == node.vms:
            break
        node = replace(node, vms=vms)
    return node, allocate_processors(node)


def _followed(vm: ProcessorVM, target: int | None, floors: Mapping[str, int | None]) -> ProcessorVM:
    floor = floors[vm.uid]
    online = vm.online
    if floor is not None:
        online = vm.size if target is None else max(min(floor, vm.size), min(vm.size, target))
    return replace(vm, target=target, online=online, last_change=None)


def _used(vm: ProcessorVM) -> int:
    return vm.size if vm.online is None else vm.online


def _reclaimed(node: ProcessorNode) -> int:
    return sum(max(0, vm.size - _used(vm)) for vm in node.vms)


def _vm(
    report: VirtualMachineReport,
    old: tuple[ProcessorVM, ProcessorDecision, int],
    new: tuple[ProcessorVM, ProcessorDecision, int],
) -> ProcessorChange | None:
    if report.processors is None:
        return None
    (before, was, short_before), (after, decision, short_after) = old, new
    names = [None if vm.policy is None else vm.policy.name for vm in (before, after)]
    minimums = [None if vm.policy is None or vm.excluded is not None else vm.minimum for vm in (before, after)]
    message = decision.message
    if after.policy is not None and after.policy.mode is Mode.OBSERVE and after.excluded is None:
        message = f"observed only, else: {message}"
    numbers = (_used(before), short_before, names[0], minimums[0]), (_used(after), short_after, names[1], minimums[1])
    return ProcessorChange(
        changed=numbers[0] != numbers[1] or was.reason is not decision.reason,
        policy_before=names[0],
        policy_after=names[1],
        now=report.processors.size if report.processors.online is None else report.processors.online,
        before=_used(before),
        after=_used(after),
        short_before=short_before,
        short_after=short_after,
        min_before=minimums[0],
        min_after=minimums[1],
        reason=decision.reason,
        message=message,
    )


NODE_HEADER = ("NODE", "CPUS", "USAGE", "STALL", "TAKEN", "TAKEN WHEN SHORT", "SHORTFALL")


def node_row(name: str, change: ProcessorNodeChange) -> list[str | Cell]:
    """A node's cells of NODE_HEADER."""
    worse = change.shortfall_after > change.shortfall_before
    return [
        *(name, str(change.count), f"{change.usage}%", f"{change.stall}%"),
        arrow(str(change.reclaimed_before), str(change.reclaimed_after)),
        arrow(str(change.short_reclaimed_before), str(change.short_reclaimed_after)),
        Cell(
            arrow(str(change.shortfall_before), str(change.shortfall_after)),
            Style.BAD if worse else Style.PLAIN,
        ),
    ]


VM_HEADER = ("NAMESPACE", "VM", "NODE", "CPU POLICY", "MIN", "NOW", "BEFORE", "AFTER", "WHEN SHORT", "WHY")


def vm_row(namespace: str, name: str, node: str, change: ProcessorChange) -> list[str | Cell]:
    """A VM's cells of VM_HEADER."""
    return [
        *(namespace, name, node),
        arrow(change.policy_before or "-", change.policy_after or "-"),
        arrow(number(change.min_before), number(change.min_after)),
        *map(str, (change.now, change.before)),
        _moved(change.before, change.after, str(change.after)),
        _moved(change.short_before, change.short_after, arrow(str(change.short_before), str(change.short_after))),
        change.message,
    ]


def _moved(before: int, after: int, text: str) -> Cell:
    return Cell(text, Style.PLAIN if after == before else Style.WARN if after < before else Style.GOOD)
