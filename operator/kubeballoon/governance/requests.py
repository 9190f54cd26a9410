"""What is requested of a VM: as annotations say it, and as it holds at this moment."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.decision import TargetChange


@dataclass(frozen=True, slots=True)
class VMRequest:
    """A VMRequest is what a VM's annotations request: bytes of memory, or processors; None is no request.

    Attributes:
        target: what the VM may use.
        minimum: what the VM is guaranteed, bytes; None for processors.
        policy: the name of the policy behind the request.
        method: how it is to be carried out; None leaves that to the agent.
    """

    target: int | None = None
    minimum: int | None = None
    policy: str | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class LastRequest:
    """A LastRequest is the target a VM is held to, and when that target last moved.

    Attributes:
        target: bytes or processors; None when nothing is requested.
        change: the target's last move; None when it is not known to have moved.
    """

    target: int | None
    change: TargetChange | None = None


def memory_in_force(report: VirtualMachineReport, written: LastRequest | None = None) -> LastRequest:
    """Say which memory target holds for a VM now: all who decide about a node, and all who explain it, go by this.

    An agent that helps without waiting puts a target of its own in the place of the request that it reports; a request
    that is newer than the report is in force itself.

    Args:
        report: what the VM's agent says of it.
        written: what the controller wrote last, where the agent may not have reported that yet.
    """
    requested = LastRequest(report.target) if written is None else written
    if report.emergency_target is None or report.target != requested.target:
        return requested
    return replace(requested, target=report.emergency_target)


def processors_in_force(report: VirtualMachineReport, written: LastRequest | None = None) -> LastRequest:
    """Say which number of processors a VM is held to now; the arguments are memory_in_force's."""
    if written is not None:
        return written
    return LastRequest(None if report.processors is None else report.processors.target)
