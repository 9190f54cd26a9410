"""This module finds, in a VM's report, what a guest, launcher or object that is honest hardly causes."""

from __future__ import annotations

from typing import NamedTuple

from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import VirtualMachineReport


class Offence(NamedTuple):
    """An Offence is a reason that speaks against a VM's guest, launcher or object, and the agent's words, a clause."""

    reason: AgentReason
    message: str


def find_offence(report: VirtualMachineReport) -> Offence | None:
    """Find what a VM's report says against its guest, launcher or object; None if nothing."""
    processors = report.processors
    said = [(report.reason, report.message)]
    if processors is not None:
        said.append((processors.reason, processors.message))
    found = (Offence(reason, words or reason.meaning) for reason, words in said if reason and reason.is_offence)
    return next(found, None)
