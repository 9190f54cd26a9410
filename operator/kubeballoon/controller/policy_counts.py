"""This module counts the VMs of all nodes for each policy; what was counted of a node is kept until it changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic

from kubeballoon.api.v1alpha1 import NodePressure, VirtualMachineReport
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.policy_store import PolicyStore
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.governance.loaded_policy import AnyLoadedPolicy, P, Terms
from kubeballoon.governance.vm_counts import CountedVM, VMCounts, count_vms

_SLICE_SECONDS = 0.02
"""How long nodes are counted before other tasks of the event loop have their turn."""


@dataclass(slots=True)
class PolicyCounts:
    """PolicyCounts are what was counted for one policy.

    Attributes:
        matched: the VMs that the policy selects.
        vms: counts of the VMs that the policy governs.
        governed_by: the policies that govern VMs which this policy selects too.
        tied_with: the policies of the same priority that select VMs which this policy selects too.
        fully_requested: the governed VMs that are guaranteed all of their memory, because their pods have requested it.
    """

    matched: int = 0
    vms: VMCounts = field(default_factory=VMCounts)
    governed_by: set[str] = field(default_factory=set)
    tied_with: set[str] = field(default_factory=set)
    fully_requested: int = 0

    def add(self, other: PolicyCounts) -> None:
        """Add what was counted of other VMs."""
        self.matched += other.matched
        self.vms.add(other.vms)
        self.governed_by |= other.governed_by
        self.tied_with |= other.tied_with
        self.fully_requested += other.fully_requested


class PolicyCounter(Generic[P, Terms]):
    """A PolicyCounter counts VMs for the policies of one store, and keeps each node's counts until they may differ."""

    def __init__(self, state: ClusterState, store: PolicyStore[P, Terms]) -> None:
        """Count the VMs of ``state`` for the policies of ``store``."""
        self._state = state
        self._store: PolicyStore[P, Terms] = store
        self._epoch = -1
        self._by_node: dict[str, tuple[NodePressure, Mapping[str, PolicyCounts]]] = {}

    async def count(self) -> dict[str, PolicyCounts]:
        """Count the VMs of all nodes for each policy, by the policy's name; other tasks run meanwhile."""
        epoch = self._state.governance_epoch(self._store)
        if epoch != self._epoch:
            self._by_node, self._epoch = {}, epoch
        counts: dict[str, PolicyCounts] = {name: PolicyCounts() for name in self._store.policies}
        until = time.monotonic() + _SLICE_SECONDS
        for name, pressure in list(self._state.nodes.items()):
            for policy, of_node in self._node_counts(name, pressure).items():
                if policy in counts:
                    counts[policy].add(of_node)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + _SLICE_SECONDS
        self._by_node = {name: known for name, known in self._by_node.items() if name in self._state.nodes}
        return counts

    def _node_counts(self, name: str, pressure: NodePressure) -> Mapping[str, PolicyCounts]:
        known = self._by_node.get(name)
        if known is not None and known[0] is pressure:
            return known[1]
        counts = count_node(self._state, self._store, pressure)
        self._by_node[name] = pressure, counts
        return counts


def count_policies(state: ClusterState, store: PolicyStore[P, Terms]) -> dict[str, PolicyCounts]:
    """Count the VMs of all nodes for each policy of a store, by the policy's name."""
    counts = {name: PolicyCounts() for name in store.policies}
    for pressure in state.nodes.values():
        for name, of_node in count_node(state, store, pressure).items():
            counts[name].add(of_node)
    return counts


def count_node(state: ClusterState, store: PolicyStore[P, Terms], pressure: NodePressure) -> dict[str, PolicyCounts]:
    """Count the VMs of one node for each policy that selects some of them, by the policy's name."""
    counts: dict[str, PolicyCounts] = {}
    governed: dict[str, list[CountedVM[P]]] = {}
    for report in pressure.status.virtual_machines if pressure.status is not None else ():
        governance = state.governance(store, report)
        for policy in governance.policies:
            counts.setdefault(policy.name, PolicyCounts()).matched += 1
        governing = governance.governing
        if governing is None:
            continue
        governed.setdefault(governing.name, []).append(CountedVM(pressure, report, governing.resource))
        counts[governing.name].fully_requested += _is_fully_requested(governing, report)
        for other in governance.policies[1:]:
            counts[other.name].governed_by.add(governing.name)
        _count_ties(counts, [policy.name for policy in governance.tied])
    for name, vms in governed.items():
        counts[name].vms = count_vms(store.policy_type, vms)
    return counts


def _count_ties(counts: Mapping[str, PolicyCounts], names: Iterable[str]) -> None:
    tied = set(names)
    for name in tied:
        counts[name].tied_with |= tied - {name}


def _is_fully_requested(policy: AnyLoadedPolicy, report: VirtualMachineReport) -> bool:
    """Whether a policy guarantees a VM all of its memory because the VM's pod has requested all of it."""
    terms = policy.terms
    by_request = isinstance(terms, MemoryTerms) and terms.minimum.pod_request
    return by_request and (report.pod_request is None or report.pod_request >= report.size)
