"""This module remembers the requests that the controller wrote on VMs, until agents report them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.governance.targets_in_force import TargetInForce, VMRequest

# Seconds after which a written request counts as lost if the VM's agent does not report it: agents report a changed
# request within a second, or as soon as they can write again.
CONFIRMATION_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class WrittenRequest:
    """A WrittenRequest is what this controller last wrote on a VM, and whether the VM's agent has reported it.

    Attributes:
        request: what was written; from the agent's confirmation on, what the agent reports.
        written_at: when the request was written, seconds.
        moved_at: when the target last moved, or was first written, seconds.
        up: whether the target moved up then; None if it was never seen to move.
        confirmed: whether the agent has reported the request since it was written.
    """

    request: VMRequest
    written_at: float
    moved_at: float
    up: bool | None = None
    confirmed: bool = False


class WrittenRequests:
    """WrittenRequests remember what was last written on each VM, for the policies of one type.

    Each node has its own memory: what one node's agent reports of a VM that runs on another node changes nothing there.
    """

    def __init__(self, reported_request: Callable[[VirtualMachineReport], VMRequest]) -> None:
        """Begin without a request; ``reported_request`` finds in an agent's report of a VM what is requested of it."""
        self._reported_request = reported_request
        self._written: dict[tuple[str, str], WrittenRequest] = {}  # by the node's name and the VM's uid

    def current_request(self, node: str, report: VirtualMachineReport) -> VMRequest:
        """Say what is requested of a VM now: what was last written on it, else what its agent reports."""
        written = self._written.get((node, report.uid))
        return self._reported_request(report) if written is None else written.request

    def record(self, node: str, uid: str, before: VMRequest, after: VMRequest, now: float) -> None:
        """Remember that the request of a node's VM was changed from ``before`` to ``after`` at ``now`` seconds."""
        written = self._written.get((node, uid))
        moved_at, up = (now, None) if written is None else (written.moved_at, written.up)
        if before.target != after.target:
            moved_at = now
            if before.target is not None and after.target is not None:
                up = after.target > before.target
        self._written[node, uid] = WrittenRequest(after, now, moved_at, up)

    def last_requests(self, node: str, reports: Iterable[VirtualMachineReport], now: float) -> dict[str, TargetInForce]:
        """Find what was last written on a node's VMs as of ``now`` seconds, by uid; VMs without any are left out."""
        written = ((report.uid, self._written.get((node, report.uid))) for report in reports)
        return {uid: _last_request(each, now) for uid, each in written if each is not None}

    def reconcile(self, node: str, report: VirtualMachineReport, now: float) -> None:
        """Take over what a node's agent reports as a VM's request, once the report must include what was written.

        That is when the written request has been reported, or should have been by ``now`` seconds. A report from before
        says nothing about the written request.
        """
        written = self._written.get((node, report.uid))
        if written is None:
            return
        reported = self._reported_request(report)
        overdue = now - written.written_at >= CONFIRMATION_SECONDS
        if reported == written.request or written.confirmed or overdue:
            self._written[node, report.uid] = replace(written, request=reported, confirmed=True)

    def prune(self, reported: set[tuple[str, str]]) -> None:
        """Forget all requests but those of the VMs that are reported, each given as its node's name and its uid."""
        self._written = {key: request for key, request in self._written.items() if key in reported}


def _last_request(written: WrittenRequest, now: float) -> TargetInForce:
    target = written.request.target
    return TargetInForce(target, None if target is None else TargetChange(written.up, now - written.moved_at))
