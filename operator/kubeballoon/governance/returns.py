"""What a release waits for, whoever runs it: an administrator, or the chart before it is uninstalled.

Once nothing is asked of a VM any more its node's agent gives everything back. Here are taking off what is asked,
judging by the agents' reports who has got everything back, and waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import NodePressure, ProcessorReport, VirtualMachineReport
from kubeballoon.core.wording import human, listed
from kubeballoon.governance.reports import SILENT_AFTER

_ALLOWANCE = 64  # agents report a balloon's move from a hundredth of the VM's size on


class PendingReturn(ApiModel):
    """A VM that does not have everything back yet; bytes."""

    namespace: str
    name: str
    node: str
    uid: str
    size: int
    actual: int | None = None
    reason: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} on {self.node}: {self.reason}"


def pending_returns(
    nodes: Iterable[NodePressure], now: datetime, covers: Callable[[str, VirtualMachineReport], bool]
) -> list[PendingReturn]:
    """The VMs that do not have everything back yet, of those that ``covers`` says are meant, given node and report."""
    return [
        PendingReturn(
            namespace=report.namespace,
            name=report.name,
            node=pressure.metadata.name,
            uid=report.uid,
            size=report.size,
            actual=report.actual,
            reason=reason,
        )
        for pressure in nodes
        if pressure.status is not None
        for report in pressure.status.virtual_machines
        if covers(pressure.metadata.name, report)
        for reason in [_lacks(report, (now - pressure.status.observed_at).total_seconds())]
        if reason is not None
    ]


def listed_returns(vms: Sequence[PendingReturn]) -> str:
    """The VMs and their reasons in one line, only the first of many."""
    return listed(vms, "; ")


def _lacks(report: VirtualMachineReport, age: float) -> str | None:
    """What a VM does not have back; None when it has everything, or when nothing here takes anything from it."""
    lacks = _lacks_memory(report) or _lacks_processors(report.processors)
    if lacks is not None and age > SILENT_AFTER:
        return f"{lacks}; its node's agent has not reported for {age:.0f}s"
    return lacks


def _lacks_memory(report: VirtualMachineReport) -> str | None:
    if report.target is not None:
        return f"is still asked to keep to {human(report.target)}"
    if report.actual is None:
        if not report.eligible:
            return None
        return f"is out of sight ({report.message or 'its agent does not reach it'})"
    if report.size - report.actual <= report.size // _ALLOWANCE:
        return None
    hindered = "" if report.responsive else f" ({report.message or 'its driver does not follow'})"
    return f"has {human(report.actual)} of {human(report.size)}{hindered}"


def _lacks_processors(report: ProcessorReport | None) -> str | None:
    if report is None:
        return None
    if report.target is not None:
        return f"is still asked to keep to {report.target} processors"
    # What its agent gives a reason for may need a restart of the VM, and is no memory: nobody waits for that.
    # What nobody here took is its owner's affair.
    if not report.returning or report.online is None or report.online >= report.size or report.reason is not None:
        return None
    return f"has {report.online} of {report.size} processors"
