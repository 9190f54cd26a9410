"""What the controller counts as it works."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from kubeballoon.metrics import BUCKETS


class Counters:
    """The controller's counters, in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start from zero."""
        self._rounds = Counter(
            "kubeballoon_rounds",
            "Rounds, of one node each, by result: decided, silent (the node's agent is) or failed.",
            ("result",),
            registry=registry,
        )
        self.durations = Histogram(
            "kubeballoon_round_duration_seconds",
            "How long a round takes, patches included.",
            buckets=BUCKETS,
            registry=registry,
        )
        self._patches = Counter(
            "kubeballoon_patches",
            "Requests written on VMs, by result: written, gone (the VM was deleted meanwhile) or failed.",
            ("result",),
            registry=registry,
        )
        self._statuses = Counter(
            "kubeballoon_statuses",
            "Statuses written on policies, by result: written, gone (the policy was deleted meanwhile) or failed.",
            ("result",),
            registry=registry,
        )
        for counter, results in (
            (self._rounds, ("decided", "silent", "failed")),
            (self._patches, ("written", "gone", "failed")),
            (self._statuses, ("written", "gone", "failed")),
        ):
            for result in results:
                counter.labels(result)

    def ended(self, result: str) -> None:
        """A round ended."""
        self._rounds.labels(result).inc()

    def patched(self, result: str) -> None:
        """A request was written, or why not."""
        self._patches.labels(result).inc()

    def told(self, result: str) -> None:
        """A policy's status was written, or why not."""
        self._statuses.labels(result).inc()
