"""This module remembers VMs that a node's agent reports although that node does not run them.

The API server says so when the controller writes on them. An honest agent's report may be a moment older than the end
or the migration of a VM; only an agent that goes on reporting the VM is named for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.backoff import Backoff

_TOLERANCE_SECONDS = 30.0  # agents report a VM's end within a second; their watches may be late by several
# VMs that a node may misreport at once, and from then on each second, before nothing is written for it for a minute:
# more than end between two reports of an honest agent. A forged report has as many as it likes, and others each time.
_ALLOWANCE = 64.0
_ALLOWANCE_PER_SECOND = 1.0


@dataclass(slots=True)
class _Mismatch:
    """A _Mismatch is a VM that the API server does not have on the node that reports it.

    Attributes:
        since: when the API server first said so, seconds.
        pause: when the next attempt to write may be made.
    """

    since: float
    pause: Backoff = field(default_factory=Backoff)


@dataclass(slots=True)
class _Excess:
    """An _Excess counts a node's misreported VMs against its allowance.

    A node that has used up its allowance gets it back as a whole, so that it is named once and not each second.

    Attributes:
        used: how much of the allowance was used up at ``at`` seconds.
        example: NAMESPACE/NAME of the VM with which the allowance was used up; empty while some is left.
    """

    used: float = 0.0
    at: float = 0.0
    example: str = ""

    def use(self, name: str, now: float) -> None:
        """Count one more VM, called NAMESPACE/NAME, at ``now`` seconds."""
        self.used, self.at = self._used_now(now) + 1, now
        if self.used >= _ALLOWANCE:
            self.example = self.example or name

    def is_over(self, now: float) -> bool:
        """Whether the whole allowance is left at ``now`` seconds."""
        return self._used_now(now) == 0

    def _used_now(self, now: float) -> float:
        return max(0.0, self.used - (now - self.at) * _ALLOWANCE_PER_SECOND)


class MisreportedVMs:
    """MisreportedVMs are the VMs that nodes' agents report although these nodes do not run them."""

    def __init__(self) -> None:
        """Begin with no VM that a node misreports."""
        self._by_node: dict[str, dict[str, _Mismatch]] = {}  # by the node's name and the VM's uid
        self._excess: dict[str, _Excess] = {}  # by the node's name

    def add(self, node: str, report: VirtualMachineReport, now: float) -> None:
        """Remember that the API server does not have a VM on a node, as of ``now`` seconds."""
        mismatch = self._by_node.setdefault(node, {}).setdefault(report.uid, _Mismatch(now))
        if node in self._excess and self._excess[node].is_over(now):
            del self._excess[node]
        self._excess.setdefault(node, _Excess()).use(_full_name(report), now)
        mismatch.pause = mismatch.pause.failed(now)

    def remove(self, node: str, uid: str) -> None:
        """Forget a VM that a node does run."""
        self._by_node.get(node, {}).pop(uid, None)

    def may_be_tried(self, node: str, uid: str, now: float) -> bool:
        """Whether a VM may be written on at ``now`` seconds.

        Each mismatch is followed by a longer pause, and one of too many VMs by a pause of the whole node.
        """
        if self._example(node, now):
            return False
        mismatch = self._by_node.get(node, {}).get(uid)
        return mismatch is None or now >= mismatch.pause.until

    def keep(self, node: str, uids: Iterable[str], now: float) -> None:
        """Forget all VMs of a node but those with these uids, which its agent reports as of ``now`` seconds."""
        excess = self._excess.get(node)
        if excess is not None and excess.is_over(now):
            del self._excess[node]
        reported = set(uids)
        known = self._by_node.pop(node, {})
        kept = {uid: mismatch for uid, mismatch in known.items() if uid in reported}
        if kept:
            self._by_node[node] = kept

    def persistent(
        self, node: str, reports: Iterable[VirtualMachineReport], reported_at: float, now: float
    ) -> list[str]:
        """Find the VMs, as NAMESPACE/NAME, that a report still has long after the API server said otherwise.

        Of a node that has misreported too many VMs at ``now`` seconds, an example is among them.

        Args:
            node: the node's name.
            reports: what its agent reports of VMs.
            reported_at: when the agent reported that, seconds.
            now: seconds.
        """
        known = self._by_node.get(node, {})
        found = {
            _full_name(report)
            for report in reports
            if report.uid in known and reported_at - known[report.uid].since >= _TOLERANCE_SECONDS
        }
        example = self._example(node, now)
        return sorted(found | {example} if example else found)

    def _example(self, node: str, now: float) -> str:
        """Find a VM, as NAMESPACE/NAME, of a node that has misreported too many at ``now`` seconds; else empty."""
        excess = self._excess.get(node)
        return "" if excess is None or excess.is_over(now) else excess.example


def _full_name(report: VirtualMachineReport) -> str:
    return f"{report.namespace}/{report.name}"
