"""This module chooses how far to overcommit, from what replays of several placements counted on each node and day.

A node-day is one node for one day. It is within the limits if little enough demand stayed unmet, the node was short of
memory (Scarce or Critical) for little enough time, and no VM was killed. A ratio is safe if the share of its node-days
within the limits reaches a target, and those of all lower ratios that were replayed do.

How sure that is, is the lower end of Wilson's interval for the share (E. B. Wilson, "Probable inference, the law of
succession, and statistical inference", Journal of the American Statistical Association 22, 1927), at 95 %, one-sided.
Several placements of the same VMs are no new days: the share is that over all placements, but only the node-days of one
placement count as observations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubeballoon.core.units import GIB
from kubeballoon.replay.totals import ReplayTotals

DAY = 86_400.0
_QUANTILE = 1.6448536269514722  # of the normal distribution, for 95 % on one side


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits are what a node-day may be like at worst.

    Attributes:
        unmet_share: the share of the demand that stays unmet, 0 to 1.
        short_seconds: for how long the node is Scarce or Critical.
        target: the share of node-days that have to be within these limits, 0 to 1.
    """

    unmet_share: float = 0.001
    short_seconds: float = 300.0
    target: float = 0.99

    def hold(self, node_day: ReplayTotals) -> bool:
        """Whether a node-day is within the limits."""
        calm = node_day.short_seconds <= self.short_seconds
        return calm and node_day.unmet_share <= self.unmet_share and not node_day.killed


@dataclass(frozen=True, slots=True)
class RatioTrial:
    """A RatioTrial is what was counted at one overcommit ratio.

    Attributes:
        minimums: what each policy guarantees, percent of VMs' sizes; empty where that is as a file says.
        nodes: how many nodes the VMs need, rounded up, of all placements on average.
        node_days: what was counted on each node and day, of each placement.
    """

    ratio: float
    minimums: Mapping[str, int]
    nodes: int
    node_days: Sequence[Sequence[ReplayTotals]]


@dataclass(frozen=True, slots=True)
class RatioResult:
    """A RatioResult is how a ratio fared.

    Attributes:
        share: the share of node-days within the limits, over all placements, 0 to 1.
        confident_share: the share that is reached with 95 % confidence.
        observations: the node-days of one placement.
        totals: what was counted over all node-days.
        placements: how many placements were replayed.
        safe: whether this ratio and all lower ones reach the target.
        nodes_saved: how many nodes fewer there are than without overcommitment.
    """

    trial: RatioTrial
    share: float
    confident_share: float
    observations: int
    totals: ReplayTotals
    placements: int
    safe: bool
    nodes_saved: int

    def to_json(self, node_memory: int, price: float | None) -> dict[str, Any]:
        """Return the figures as scripts read them; keys are stable. Times and kills are those of one placement."""
        totals = self.totals
        figures: dict[str, Any] = {
            "overcommit": self.trial.ratio,
            "safe": self.safe,
            "node_days": self.observations,
            "within_limits_share": self.share,
            "within_limits_share_95": self.confident_share,
            "unmet_share": totals.unmet_share,
            "short_minutes": totals.short_seconds / 60 / self.placements,
            "vms_killed": totals.killed / self.placements,
            "nodes": self.trial.nodes,
            "nodes_saved": self.nodes_saved,
            "min_percent": dict(self.trial.minimums),
        }
        if price is not None:
            figures["saved_per_month"] = self.nodes_saved * node_memory / GIB * price
        return figures


def wilson_lower(share: float, observations: int) -> float:
    """Return the lower end of Wilson's 95 % interval, one-sided, for a share that was observed, 0 to 1."""
    if not observations:
        return 0.0
    z2 = _QUANTILE**2 / observations
    margin = _QUANTILE * math.sqrt(share * (1 - share) / observations + z2 / observations / 4)
    return max(0.0, (share + z2 / 2 - margin) / (1 + z2))


def judge_ratios(trials: Sequence[RatioTrial], limits: Limits, nodes_without: int) -> list[RatioResult]:
    """Judge ratios, in ascending order.

    Args:
        trials: what was counted at each ratio.
        limits: what a node-day may be like.
        nodes_without: how many nodes are needed without overcommitment.
    """
    results: list[RatioResult] = []
    safe = True
    for trial in sorted(trials, key=lambda each: each.ratio):
        days = [day for placement in trial.node_days for day in placement]
        share = sum(limits.hold(day) for day in days) / len(days)
        placements = len(trial.node_days)
        observations = round(len(days) / placements)
        safe = safe and share >= limits.target
        totals, lower = ReplayTotals.add_up(days), wilson_lower(share, observations)
        saved = max(0, nodes_without - trial.nodes)
        results.append(RatioResult(trial, share, lower, observations, totals, placements, safe, saved))
    return results


def highest_safe(results: Sequence[RatioResult]) -> RatioResult | None:
    """Return the highest safe ratio's result; None if no ratio is safe."""
    return max((each for each in results if each.safe), key=lambda each: each.trial.ratio, default=None)


def patches(result: RatioResult) -> list[dict[str, Any]]:
    """Make what to set for a ratio: the kind and name of each object, and a merge patch of it.

    KubeVirt's ``memoryOvercommit`` divides what pods of VMs without ``requests.memory`` request: without it the
    scheduler places no more VMs than before. It is a percentage: rounded down, so that no node takes more than was
    tried. The name of a policy that is empty stands for all policies.
    """
    overcommit = {
        "configuration": {
            "developerConfiguration": {"memoryOvercommit": math.floor(round(100 * result.trial.ratio, 6))}
        }
    }
    return [
        {"kind": "KubeVirt", "name": "kubevirt", "patch": {"spec": overcommit}},
        *(
            {"kind": "MemoryPolicy", "name": policy, "patch": {"spec": {"memory": {"min": f"{minimum}%"}}}}
            for policy, minimum in result.trial.minimums.items()
        ),
    ]
