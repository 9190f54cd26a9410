"""This module counts VMs: how many are governed, left alone, or do not follow their requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple

from kubeballoon.api.v1alpha1 import NodePressure, VirtualMachineReport
from kubeballoon.governance.loaded_policy import P, Terms
from kubeballoon.governance.policy_types import PolicyType


class CountedVM(NamedTuple, Generic[P]):
    """A CountedVM is a VM with the node whose agent reports it, and the policy that governs it, if one does."""

    pressure: NodePressure
    report: VirtualMachineReport
    policy: P | None


@dataclass(slots=True)
class VMCounts:
    """VMCounts are what was counted of some VMs, for one type of policy.

    Attributes:
        governed: the VMs that a policy governs.
        excluded: the governed VMs that are left alone, by reason.
        unresponsive: "namespace/name" of the VMs that are not left alone and do not follow requests; those that cannot
            for a while, as during a migration, are left out.
        reclaimed: bytes or processors reclaimed from all VMs.
        nodes: the nodes on which governed VMs run.
    """

    governed: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    unresponsive: list[str] = field(default_factory=list)
    reclaimed: int = 0
    nodes: set[str] = field(default_factory=set)

    def add(self, other: VMCounts) -> None:
        """Add what was counted of other VMs."""
        self.governed += other.governed
        self.excluded.update(other.excluded)
        self.unresponsive += other.unresponsive
        self.reclaimed += other.reclaimed
        self.nodes |= other.nodes


def count_vms(policy_type: PolicyType[P, Terms], vms: Iterable[CountedVM[P]]) -> VMCounts:
    """Count VMs; controller and CLI both count by this function, so that their figures agree."""
    counts = VMCounts()
    for pressure, report, policy in vms:
        excluded = policy_type.exclusion(report, policy, node_released=pressure.metadata.released)
        if policy is not None:
            counts.governed += 1
            counts.nodes.add(pressure.metadata.name)
            if excluded is not None:
                counts.excluded[excluded.reason] += 1
        if excluded is None and not policy_type.responsive(report):
            counts.unresponsive.append(f"{report.namespace}/{report.name}")
        counts.reclaimed += policy_type.reclaimed(report)
    return counts
