"""What the controller counts as it works."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from kubeballoon.metrics import BUCKETS


class Counters:
    """The controller's counters, in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Start from zero."""
        self.rounds = Counter("kubeballoon_rounds", "Rounds: one decides for one node.", registry=registry)
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
        for result in ("written", "gone", "failed"):
            self._patches.labels(result)

    def patched(self, result: str) -> None:
        """A request was written, or why not."""
        self._patches.labels(result).inc()
