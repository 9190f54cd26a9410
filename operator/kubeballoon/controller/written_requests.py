"""This module remembers the requests that the controller wrote on VMs, until agents report them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.governance.requests_in_force import LastRequest, VMRequest

# Seconds after which a written request counts as lost if the VM's agent does not report it. Agents report every 60 s,
# but a changed request within a second.
CONFIRMATION_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class WrittenRequest:
    """A WrittenRequest is what this controller last wrote on a VM, and whether the VM's agent has reported it.

    Attributes:
        request: what was written; from the agent's confirmation on, what the agent reports.
        node: the node that the VM ran on then.
        written_at: when the request was written, seconds.
        last_move: when the target last moved, seconds, and whether it moved up; None before the first move.
        confirmed: whether the agent has reported the request since it was written.
    """

    request: VMRequest
    node: str
    written_at: float
    last_move: tuple[float, bool] | None = None
    confirmed: bool = False


class WrittenRequests:
    """WrittenRequests remember what was last written on each VM, for the policies of one type."""

    def __init__(self, reported_request: Callable[[VirtualMachineReport], VMRequest]) -> None:
        """Begin without a request; ``reported_request`` finds in an agent's report of a VM what is requested of it."""
        self._reported_request = reported_request
        self._by_uid: dict[str, WrittenRequest] = {}

    def current_request(self, report: VirtualMachineReport) -> VMRequest:
        """Say what is requested of a VM now: what was last written on it, else what its agent reports."""
        written = self._by_uid.get(report.uid)
        return self._reported_request(report) if written is None else written.request

    def record(self, uid: str, node: str, before: VMRequest, after: VMRequest, now: float) -> None:
        """Remember that the request of a VM on ``node`` was changed from ``before`` to ``after`` at ``now`` seconds."""
        written = self._by_uid.get(uid)
        last_move = None if written is None else _last_move(written, node)
        if before.target is not None and after.target is not None and before.target != after.target:
            last_move = now, after.target > before.target
        self._by_uid[uid] = WrittenRequest(after, node, now, last_move)

    def last_requests(self, node: str, reports: Iterable[VirtualMachineReport], now: float) -> dict[str, LastRequest]:
        """Find what was last written on a node's VMs, by uid, as of ``now`` seconds; others are left out."""
        return {
            report.uid: _last_request(self._by_uid[report.uid], node, now)
            for report in reports
            if report.uid in self._by_uid
        }

    def reconcile(self, report: VirtualMachineReport, now: float) -> None:
        """Take over what an agent reports as a VM's request, once the report must include what was written.

        That is when the written request has been reported, or should have been by ``now`` seconds. A report from before
        says nothing about the written request.
        """
        written = self._by_uid.get(report.uid)
        if written is None:
            return
        reported = self._reported_request(report)
        overdue = now - written.written_at >= CONFIRMATION_SECONDS
        if reported == written.request or written.confirmed or overdue:
            self._by_uid[report.uid] = replace(written, request=reported, confirmed=True)

    def prune(self, uids: set[str]) -> None:
        """Forget all requests but those of the VMs with these uids."""
        self._by_uid = {uid: request for uid, request in self._by_uid.items() if uid in uids}


def _last_move(written: WrittenRequest, node: str) -> tuple[float, bool] | None:
    """Find the last move of a VM that is on ``node`` now; None if it moved on another.

    The cool-down keeps a node's VMs from passing memory to and fro. On a node that a VM has just come to, its last move
    was about memory of another node.
    """
    return written.last_move if written.node == node else None


def _last_request(written: WrittenRequest, node: str, now: float) -> LastRequest:
    last_move = _last_move(written, node)
    if last_move is None:
        return LastRequest(written.request.target)
    moved_at, up = last_move
    return LastRequest(written.request.target, TargetChange(up=up, age=now - moved_at))
