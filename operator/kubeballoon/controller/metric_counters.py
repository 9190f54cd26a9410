"""This module counts for Prometheus what the controller does."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import assert_never

from prometheus_client import CollectorRegistry, Histogram

from kubeballoon.cluster.vmi_annotations import WriteResult
from kubeballoon.metrics import BUCKETS, Result, ResultCounter


class RoundEnd(Result):
    """A RoundEnd is how a round ended."""

    DECIDED = "decided"
    SILENT = "silent", "no recent report from the node's agent"
    FAILED = "failed"


class PatchResult(Result):
    """A PatchResult is what became of a request that was to be written on a VM."""

    WRITTEN = "written"
    GONE = "gone", "the VM was deleted meanwhile"
    MISMATCHED = "mismatched", "the node that reports the VM does not run it"
    FAILED = "failed"


class StatusResult(Result):
    """A StatusResult is what became of a status that was to be written on a policy."""

    WRITTEN = "written"
    GONE = "gone", "the policy was deleted meanwhile"
    FAILED = "failed"


def patch_result(written: WriteResult) -> PatchResult | None:
    """Say how a write on a VM that raised no error is counted; None if it is not, since nothing was attempted."""
    match written:
        case WriteResult.WRITTEN:
            return PatchResult.WRITTEN
        case WriteResult.GONE:
            return PatchResult.GONE
        case WriteResult.MISMATCHED:
            return PatchResult.MISMATCHED
        case WriteResult.SKIPPED:
            return None
    assert_never(written)


class ControllerCounters:
    """ControllerCounters count what the controller does, and measure how long rounds take.

    Attributes:
        rounds: counts rounds.
        patches: counts requests written on VMs.
        statuses: counts statuses written on policies.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Export the counters through ``registry``."""
        self.rounds = ResultCounter("kubeballoon_rounds", "Rounds, of one node each", RoundEnd, registry)
        self._durations = Histogram(
            "kubeballoon_round_duration_seconds",
            "How long a round takes, patches included.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.patches = ResultCounter("kubeballoon_patches", "Requests written on VMs", PatchResult, registry)
        self.statuses = ResultCounter("kubeballoon_statuses", "Statuses written on policies", StatusResult, registry)

    def time_round(self) -> AbstractContextManager[object]:
        """Measure how long a round takes: the time that the returned context lasts."""
        return self._durations.time()
