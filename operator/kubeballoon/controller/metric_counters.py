"""This module counts for Prometheus what the controller does."""

from __future__ import annotations

from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Histogram

from kubeballoon.metrics import BUCKETS


class ControllerCounters:
    """ControllerCounters count rounds, patches and statuses, and measure how long rounds take."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Export the counters through ``registry``."""
        self._rounds = Counter(
            "kubeballoon_rounds",
            "Rounds, of one node each, by result: decided, silent (no recent report from the node's agent) or failed.",
            ("result",),
            registry=registry,
        )
        self._durations = Histogram(
            "kubeballoon_round_duration_seconds",
            "How long a round takes, patches included.",
            buckets=BUCKETS,
            registry=registry,
        )
        self._patches = Counter(
            "kubeballoon_patches",
            "Requests written on VMs, by result: written, gone (the VM was deleted meanwhile), mismatched (the node "
            "that reports the VM does not run it) or failed.",
            ("result",),
            registry=registry,
        )
        self._statuses = Counter(
            "kubeballoon_statuses",
            "Statuses written on policies, by result: written, gone (the policy was deleted meanwhile) or failed.",
            ("result",),
            registry=registry,
        )
        # Every result is exported from the start, so that Prometheus sees its first increase.
        for counter, results in (
            (self._rounds, ("decided", "silent", "failed")),
            (self._patches, ("written", "gone", "mismatched", "failed")),
            (self._statuses, ("written", "gone", "failed")),
        ):
            for result in results:
                counter.labels(result)

    def time_round(self) -> AbstractContextManager[object]:
        """Measure how long a round takes: the time that the returned context lasts."""
        return self._durations.time()

    def count_round(self, result: str) -> None:
        """Count a round that ended: ``decided``, ``silent`` or ``failed``."""
        self._rounds.labels(result).inc()

    def count_patch(self, result: str) -> None:
        """Count a patch of a VM's annotations: ``written``, ``gone``, ``mismatched`` or ``failed``."""
        self._patches.labels(result).inc()

    def count_status(self, result: str) -> None:
        """Count a patch of a policy's status: ``written``, ``gone`` or ``failed``."""
        self._statuses.labels(result).inc()
