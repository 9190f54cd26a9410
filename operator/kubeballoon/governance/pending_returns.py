"""This module finds, in agents' reports, the VMs that do not have all of their memory and processors back yet.

A release waits for them, whether an administrator runs it or the chart before it is uninstalled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import NodePressure, ProcessorReport, VirtualMachineReport
from kubeballoon.core.formatting import human, listed
from kubeballoon.governance.report_bounds import SILENT_AFTER

_ALLOWANCE = 64  # 1/64 of a VM's size may be missing: agents report a balloon's moves of a hundredth or more only


class PendingReturn(ApiModel):
    """A PendingReturn is a VM that does not have all of its memory and processors back yet, and why.

    Attributes:
        size: the memory that the VM was given, bytes.
        actual: the memory that the VM has now, bytes; None while it is not known.
        reason: what is missing, as a clause about the VM.
    """

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
    """Find the VMs that do not have all of their memory and processors back yet.

    Args:
        nodes: the agents' reports.
        now: the time by which reports are judged to be old.
        covers: whether a VM is to be considered, given its node's name and its report.
    """
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
        for reason in [_missing(report, (now - pressure.status.observed_at).total_seconds())]
        if reason is not None
    ]


def listed_returns(vms: Sequence[PendingReturn]) -> str:
    """Write VMs and their reasons in one line, only the first of many."""
    return listed(vms, "; ")


def _missing(report: VirtualMachineReport, age: float) -> str | None:
    """Say what a VM does not have back; None if nothing is missing, or nothing was reclaimed by kubeballoon."""
    missing = _missing_memory(report) or _missing_processors(report.processors)
    if missing is not None and age > SILENT_AFTER:
        return f"{missing}; its node's agent has not reported for {age:.0f}s"
    return missing


def _missing_memory(report: VirtualMachineReport) -> str | None:
    if report.target is not None:
        return f"may still use only {human(report.target)}"
    if report.actual is None:
        if not report.eligible:
            return None  # agents do not look at the balloon of such a VM, and reclaim nothing from it
        return f"is out of sight ({report.message or 'its agent does not reach it'})"
    if report.size - report.actual <= report.size // _ALLOWANCE:
        return None
    obstacle = "" if report.responsive else f" ({report.message or 'its driver does not follow'})"
    return f"has {human(report.actual)} of {human(report.size)}{obstacle}"


def _missing_processors(report: ProcessorReport | None) -> str | None:
    if report is None:
        return None
    if report.target is not None:
        return f"may still use only {report.target} processors"
    if not report.returning:
        return None  # the VM's owner took missing processors offline, not kubeballoon
    if report.reason is not None:
        return None  # the processors may not come back before the VM is restarted: a release does not wait for that
    if report.online is None or report.online >= report.size:
        return None
    return f"has {report.online} of {report.size} processors"
