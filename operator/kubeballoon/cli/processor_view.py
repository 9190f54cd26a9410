"""This module shows a VM's processors for ``top`` and ``explain``: what is reported, and what would be decided."""

from __future__ import annotations

from collections.abc import Mapping

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import ProcessorReport, VirtualMachineReport
from kubeballoon.cli.output import format_count, format_percent
from kubeballoon.cli.table import Cell, Column, Style, number
from kubeballoon.core.processors.model import ProcessorDecision, ProcessorNode


class VMProcessors(ApiModel):
    """A VMProcessors shows a VM's processors; fields that are not known are left out.

    Attributes:
        usage: percent of one of the node's processors.
        reason: why the target is what it is, in one word.
        problem: why a request is not carried out, as the agent reports it.
    """

    policy: str | None = None
    size: int
    online: int | None = None
    offlinable: int | None = None
    usage: int | None = None
    target: int | None = None
    min: int
    max: int
    method: str | None = None
    reason: str
    message: str
    problem: str | None = None


def decide_processors(node: ProcessorNode | None) -> Mapping[str, ProcessorDecision]:
    """Decide how many processors each VM of a node may use now, by uid; empty if its agent reports no processors."""
    if node is None:
        return {}
    from kubeballoon.core.processors.allocation import allocate_processors  # noqa: PLC0415 - with numpy

    return {decision.vm.uid: decision for decision in allocate_processors(node).decisions}


def view_processors(report: VirtualMachineReport, decision: ProcessorDecision | None) -> VMProcessors | None:
    """Put together a VM's report and the decision about it; None if its processors are not reported."""
    processors = report.processors
    if processors is None or decision is None:
        return None
    return VMProcessors(
        policy=None if decision.vm.policy is None else decision.vm.policy.name,
        size=processors.size,
        online=processors.online,
        offlinable=processors.offlinable,
        usage=processors.usage,
        target=processors.target,
        min=decision.vm.minimum,
        max=decision.vm.maximum,
        method=processors.method,
        reason=decision.reason,
        message=decision.message,
        problem=_problem(processors),
    )


def _problem(processors: ProcessorReport) -> str | None:
    """Say what keeps the agent from carrying a request out; None for a VM that the decision itself leaves alone."""
    if processors.reason is None or not processors.eligible:
        return None
    return processors.reason if processors.message is None else f"{processors.reason}: {processors.message}"


HEADER = (number("CPUS", 2), number("CPU-TARGET", 4))
WIDE_HEADER = (
    *(number("CPU-OFFLINABLE"), number("CPU%"), Column("CPU-METHOD"), Column("CPU-POLICY"), Column("CPU-REASON")),
    Column("CPU-MESSAGE"),
)


def processor_cells(view: VMProcessors | None) -> list[str | Cell]:
    """Format a VM's cells below HEADER and WIDE_HEADER."""
    if view is None:
        return ["-"] * (len(HEADER) + len(WIDE_HEADER))
    return [
        f"{format_count(view.online)}/{view.size}",
        format_count(view.target),
        format_count(view.offlinable),
        format_percent(view.usage),
        view.method or "-",
        view.policy or "-",
        Cell(view.reason, Style.WARN if view.problem is not None else Style.PLAIN),
        view.message if view.problem is None else f"{view.message}; {view.problem}",
    ]
