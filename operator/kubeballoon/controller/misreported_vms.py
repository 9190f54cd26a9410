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


@dataclass(slots=True)
class _Mismatch:
    """A _Mismatch is a VM that the API server does not have on the node that reports it.

    Attributes:
        since: when the API server first said so, seconds.
        pause: when the next attempt to write may be made.
    """

    since: float
    pause: Backoff = field(default_factory=Backoff)


class MisreportedVMs:
    """MisreportedVMs are the VMs that nodes' agents report although these nodes do not run them."""

    def __init__(self) -> None:
        """Begin with no VM that a node misreports."""
        self._by_node: dict[str, dict[str, _Mismatch]] = {}  # by the node's name and the VM's uid

    def add(self, node: str, uid: str, now: float) -> None:
        """Remember that the API server does not have a VM on a node, as of ``now`` seconds."""
        mismatch = self._by_node.setdefault(node, {}).setdefault(uid, _Mismatch(now))
        mismatch.pause = mismatch.pause.failed(now)

    def remove(self, node: str, uid: str) -> None:
        """Forget a VM that a node does run."""
        self._by_node.get(node, {}).pop(uid, None)

    def may_be_tried(self, node: str, uid: str, now: float) -> bool:
        """Whether a VM may be written on at ``now`` seconds: each mismatch is followed by a longer pause."""
        mismatch = self._by_node.get(node, {}).get(uid)
        return mismatch is None or now >= mismatch.pause.until

    def keep(self, node: str, uids: Iterable[str]) -> None:
        """Forget all VMs of a node but those with these uids, which its agent reports."""
        reported = set(uids)
        known = self._by_node.pop(node, {})
        kept = {uid: mismatch for uid, mismatch in known.items() if uid in reported}
        if kept:
            self._by_node[node] = kept

    def persistent(self, node: str, reports: Iterable[VirtualMachineReport], reported_at: float) -> list[str]:
        """Find the VMs, as NAMESPACE/NAME, that a report still has long after the API server said otherwise.

        Args:
            node: the node's name.
            reports: what its agent reports of VMs.
            reported_at: when the agent reported that, seconds.
        """
        known = self._by_node.get(node, {})
        return sorted(
            f"{report.namespace}/{report.name}"
            for report in reports
            if report.uid in known and reported_at - known[report.uid].since >= _TOLERANCE_SECONDS
        )
