"""Nodes whose VMs demand half as much again as there is: how far shares hold, how soon minimums come, and who is named.

Nobody can have all that it demands there. Guests that swap are taken to their shares; what guests without swap keep
beyond theirs is withheld, and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hack.testbed.workloads import CONTENDED_FROM, claimed_minimums, contended
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.replay.node_replay import NodeReplay, Recording
from kubeballoon.replay.node_workload import GuestAssumptions, NodeWorkload
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Workload

_EXCESS = 1.5  # how many times the node's capacity its VMs demand
_POINT_SECONDS = 2.0  # between two looks at the node
_RESERVE_SHARE = 0.06  # of a node is kept free
_VMS = 20

IRON = MemoryTerms("iron", minimum=Amount(percent=25))
GOLD = replace(IRON, name="gold", shares_per_gib=2 * IRON.shares_per_gib)


@dataclass(frozen=True, slots=True)
class ContendedNode:
    """A ContendedNode is a replayed node whose VMs demand more than it has, and what was seen of it.

    Attributes:
        node: what was replayed.
        recording: the node over time.
        totals: what was counted.
    """

    node: NodeWorkload
    recording: Recording
    totals: ReplayTotals

    @classmethod
    def play(
        cls,
        workload: Workload,
        policy: MemoryTerms,
        *,
        swap_share: float = 1.0,
        policies: Mapping[str, MemoryTerms] | None = None,
        starts: Mapping[str, float] | None = None,
    ) -> ContendedNode:
        """Replay a workload on a node with two thirds of the memory that its VMs demand in the end."""
        demanded = sum(int(trace.demand[-1]) for trace in workload.traces)
        node = NodeWorkload(
            "node",
            int(demanded / _EXCESS / (1 - _RESERVE_SHARE)),
            workload.traces,
            policy,
            workload.seconds,
            guests=GuestAssumptions(swap_share=swap_share),
            policies=policies or {},
            starts=starts or {},
        )
        recording = Recording(_POINT_SECONDS, workload.seconds)
        return cls(node, recording, NodeReplay(node, recording=recording).run())

    @property
    def share_error_percent(self) -> float:
        """By how many percent the VM that is worst off has less, in the end, than its shares entitle it to."""
        weights = [trace.size * self.node.policy_of(trace).shares_per_gib for trace in self.node.traces]
        entitled = [self.node.capacity * weight / sum(weights) for weight in weights]
        held = self.recording.points[-1].held
        return max(100 * (1 - each / part) for each, part in zip(held, entitled, strict=True))

    @property
    def short_seconds(self) -> float:
        """For how long after the last rise of demand the node has less free than it reserves, seconds."""
        rise = max(float(trace.times[-1]) for trace in self.node.traces)
        points = self.recording.points
        short = [point.at for point in points if point.available < self.node.thresholds.ample]
        return max(0.0, max(short, default=0.0) - rise)

    @property
    def named_seconds(self) -> float:
        """Seconds from the rise of demand until it is said that memory is withheld; infinite if it is not."""
        named = [point.at for point in self.recording.points if point.at >= CONTENDED_FROM and point.withheld]
        return min(named, default=float("inf")) - CONTENDED_FROM

    @property
    def waiting(self) -> int:
        """How many VMs wait, in the end, for memory of others."""
        return sum(decision.reason is DecisionReason.WAITING for decision in self.recording.decisions)


def shares(swap_share: float) -> ContendedNode:
    """Let twenty busy VMs share a node, of which every second has twice the shares of the others."""
    policies = {f"vm{index}": GOLD for index in range(0, _VMS, 2)}
    return ContendedNode.play(contended(_VMS), IRON, swap_share=swap_share, policies=policies)


def minimums() -> ContendedNode:
    """Let four VMs start, and claim the half of their size that they are guaranteed, where twelve use all there is."""
    starts = {f"claims{index}": CONTENDED_FROM for index in range(4)}
    return ContendedNode.play(claimed_minimums(12, 4), MemoryTerms("half"), starts=starts)


def rows() -> list[dict[str, Any]]:
    """Measure; one row per scene, with what its figure may be at most."""
    all_swap, half_swap, claimed = shares(1.0), shares(0.5), minimums()
    scenes = [
        (all_swap, {"scene": "shares, all swap", "share_error_percent": all_swap.share_error_percent}),
        (half_swap, {"scene": "shares, half swap", "named_seconds": half_swap.named_seconds}),
        (claimed, {"scene": "minimums claimed", "short_seconds": claimed.short_seconds}),
    ]
    return [
        {
            **row,
            "waiting": scene.waiting,
            "vms_killed": scene.totals.killed,
            "below_min_seconds": scene.totals.below_min_seconds,
        }
        for scene, row in scenes
    ]
