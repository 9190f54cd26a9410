"""This module says what is requested of a VM, and which target is in force: the request, or an agent's own target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.decision_reason import TargetChange


@dataclass(frozen=True, slots=True)
class VMRequest:
    """A VMRequest is what a VM's annotations request: bytes of memory, or processors; None is no request.

    Attributes:
        target: what the VM may use.
        minimum: what the VM is guaranteed, bytes; None for processors.
        policy: the name of the policy behind the request.
        method: how the request is to be carried out; None leaves that to the agent.
    """

    target: int | None = None
    minimum: int | None = None
    policy: str | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class TargetInForce:
    """A TargetInForce is the target that a VM is held to, and when that target last moved.

    Attributes:
        target: bytes or processors; None when nothing is requested.
        change: the target's last move; None when it is not known to have moved.
    """

    target: int | None
    change: TargetChange | None = None


def memory_in_force(
    report: VirtualMachineReport, written: TargetInForce | None = None, observed_at: datetime | None = None
) -> TargetInForce:
    """Find the memory target that is in force for a VM now.

    Controller, agent and CLI all go by this function, so that they decide on the same figures. In an emergency an agent
    puts a target of its own in the place of the request that it reports. It does not answer for a request that is newer
    than its report: then the newer request is in force.

    Args:
        report: the VM as its node's agent reports it.
        written: what the controller wrote last; None if it wrote nothing, or if that is not known.
        observed_at: the date of the report; None if it is not known.
    """
    requested = TargetInForce(report.target) if written is None else written
    if report.target == requested.target:
        requested = replace(requested, change=_with_reported_age(requested.change, _reported_age(report, observed_at)))
    if report.emergency_target is None or report.target != requested.target:
        return requested
    return replace(requested, target=report.emergency_target)


def _reported_age(report: VirtualMachineReport, observed_at: datetime | None) -> float | None:
    """Say for how long a VM had had its memory request when the report was made, in seconds; None if that is not known.

    Both dates are by the clock of the node.
    """
    if observed_at is None or report.target is None or report.target_since is None:
        return None
    return max(0.0, (observed_at - report.target_since).total_seconds())


def _with_reported_age(change: TargetChange | None, age: float | None) -> TargetChange | None:
    """Return what is known of a target's last change, from the controller that may have made it and from the agent.

    A controller knows the direction of changes that it made itself. It may have written the same target again.
    """
    if age is None or (change is not None and (change.up is not None or change.age >= age)):
        return change
    return TargetChange(None, age)


def processors_in_force(report: VirtualMachineReport, written: TargetInForce | None = None) -> TargetInForce:
    """Find the processor target that is in force for a VM now.

    Args:
        report: the VM as its node's agent reports it.
        written: what the controller wrote last; None if it wrote nothing, or if that is not known.
    """
    if written is not None:
        return written
    return TargetInForce(None if report.processors is None else report.processors.target)
