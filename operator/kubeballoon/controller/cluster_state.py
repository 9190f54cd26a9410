"""This module keeps what the controller knows of the cluster: policies, namespaces, and agents' reports."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from kubeballoon.api.meta import fault
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    NodePressure,
    NodePressureStatus,
    ProcessorPolicy,
    VirtualMachineReport,
)
from kubeballoon.controller.policy_store import NodePolicyStore, PolicyCollection, PolicyStore, is_older
from kubeballoon.core.memory.model import COOL_DOWN, MemoryNode, MemoryTerms
from kubeballoon.core.migration import MigrationPlan
from kubeballoon.core.migration_arrival import Arrival
from kubeballoon.core.processors.model import ProcessorNode, ProcessorTerms
from kubeballoon.governance.core_inputs import memory_node, processor_node
from kubeballoon.governance.loaded_policy import LoadedPolicy, P, Terms
from kubeballoon.governance.node_policies import governed_nodes
from kubeballoon.governance.policy_selection import Governance
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.governance.report_bounds import held_until
from kubeballoon.vocabulary import TaintEffect

_log = logging.getLogger(__name__)

MIGRATIONS_AT_ONCE = 4
"""How many migrations may be under way in the cluster by default: of KubeVirt's five one is left to others."""


@dataclass(slots=True)
class ClusterState:
    """The ClusterState is what the controller knows; handlers and rounds keep it up to date, in one event loop.

    Attributes:
        cool_down: seconds in which a VM's target keeps its direction while nobody is in need.
        memory: the MemoryPolicies, and the requests written because of them.
        processors: the ProcessorPolicies, and the requests written because of them.
        node_policies: the NodePolicies.
        namespaces: the labels of each namespace.
        nodes: each node's NodePressure, by the node's name.
        taints: the effect of the taint that each node is to have, or would have where that is only observed.
        taints_enabled: whether the installation allows the controller to taint nodes.
        taint_fault: why a taint could not be written, in one line; None if none failed lately.
        migration_plans: the migrations that would mend contended nodes, or are under way where the policy enforces
            them, by the NodePolicy that seeks them.
        migrations_enabled: whether the installation allows the controller to migrate VMs.
        migrations_at_once: how many migrations may be under way in the cluster, whoever began them, when one is begun.
        arrivals: what VMs that are migrated, or are about to be, may use where they go, by their namespace and name.
        room_needed: what nodes have to have free before VMs are migrated there, bytes, by the node's name.
        migration_faults: what is wrong with migrations, in one line, by the NodePolicy that enforces them.
        utc_now: the time of day, for the age of reports that were written before this controller began.
    """

    cool_down: float = COOL_DOWN
    memory: PolicyStore[MemoryPolicy, MemoryTerms] = field(default_factory=lambda: PolicyStore(MEMORY))
    processors: PolicyStore[ProcessorPolicy, ProcessorTerms] = field(default_factory=lambda: PolicyStore(PROCESSORS))
    node_policies: NodePolicyStore = field(default_factory=NodePolicyStore)
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: dict[str, NodePressure] = field(default_factory=dict)
    taints: Mapping[str, TaintEffect] = field(default_factory=dict)
    taints_enabled: bool = False
    taint_fault: str | None = None
    migration_plans: Mapping[str, MigrationPlan] = field(default_factory=dict)
    migrations_enabled: bool = False
    migrations_at_once: int = MIGRATIONS_AT_ONCE
    arrivals: Mapping[str, Arrival] = field(default_factory=dict)
    room_needed: Mapping[str, int] = field(default_factory=dict)
    migration_faults: Mapping[str, str] = field(default_factory=dict)
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _namespace_epoch: int = 0
    _reported_at: dict[str, float] = field(default_factory=dict)  # when each node's agent last reported, seconds
    # What each agent's Lease said last, and when each agent last said that its report holds, seconds.
    _heartbeats: dict[str, tuple[datetime, float]] = field(default_factory=dict)

    @property
    def stores(self) -> tuple[PolicyStore[Any, Any], ...]:
        """The stores of both types of policy for VMs."""
        return self.memory, self.processors

    @property
    def collections(self) -> tuple[PolicyCollection[Any], ...]:
        """The policies of all kinds."""
        return *self.stores, self.node_policies

    def put_namespace(self, name: str, labels: Mapping[str, str]) -> bool:
        """Take in a namespace's labels.

        Returns:
            Whether the labels have changed.
        """
        labels = dict(labels)
        changed = self.namespaces.get(name) != labels
        if changed:
            self.namespaces[name] = labels
            self._namespace_epoch += 1
        return changed

    def forget_namespace(self, name: str) -> None:
        """Forget a namespace that is gone."""
        if self.namespaces.pop(name, None) is not None:
            self._namespace_epoch += 1

    def put_node(self, body: Mapping[str, Any], now: float) -> bool:
        """Take in a NodePressure that was read at ``now`` seconds; one that cannot be read is logged and ignored.

        Returns:
            Whether a decision may differ because of it.
        """
        try:
            pressure = NodePressure.model_validate(body)
        except ValidationError as error:
            name = body.get("metadata", {}).get("name")
            _log.error("NodePressure %s cannot be read: %s", name, fault(error), extra={"node": name})
            return False
        known = self.nodes.get(pressure.metadata.name)
        if known is not None and is_older(pressure.metadata, known.metadata):
            return False
        self.nodes[pressure.metadata.name] = pressure
        if pressure.status is not None:
            self._record_report(pressure.metadata.name, None if known is None else known.status, pressure.status, now)
            for report in pressure.status.virtual_machines:
                for store in self.stores:
                    store.written.reconcile(pressure.metadata.name, report, now)
        return known is None or known.status != pressure.status or known.metadata.released != pressure.metadata.released

    def seconds_since_report(self, name: str, now: float) -> float:
        """Say how many seconds before ``now`` the agent of the node ``name`` last reported."""
        return now - self._reported_at.get(name, -math.inf)

    def seconds_since_heard(self, name: str, now: float) -> float:
        """Say how many seconds before ``now`` the agent of a node last reported, or said that its report holds."""
        _, beaten_at = self._heartbeats.get(name, (None, -math.inf))
        return min(self.seconds_since_report(name, now), now - beaten_at)

    def put_heartbeat(self, name: str, moment: datetime, now: float) -> None:
        """Take in that an agent says that its report holds, as of ``moment`` by its own clock.

        The first heartbeat of an agent is as old as its date says; later ones are timed by the controller's own clock.
        """
        known = self._heartbeats.get(name)
        if known is None:
            self._heartbeats[name] = moment, now - max(0.0, (self.utc_now() - moment).total_seconds())
        elif known[0] != moment:
            self._heartbeats[name] = moment, now

    def _record_report(
        self, name: str, before: NodePressureStatus | None, status: NodePressureStatus, now: float
    ) -> None:
        """Record that an agent reported, if its report has changed.

        Reports are timed by the controller's own clock, because nodes' clocks differ. Only the first report that a
        controller reads is as old as its own date says: it may have been written long before.
        """
        if before is None:
            age = (self.utc_now() - status.observed_at).total_seconds()
            self._reported_at[name] = now - max(0.0, age)
        elif before.observed_at != status.observed_at:
            self._reported_at[name] = now

    def forget_node(self, name: str) -> None:
        """Forget a node that is gone."""
        self.nodes.pop(name, None)
        self.node_policies.forget_node(name)

    def pools(self) -> dict[str, list[str]]:
        """Find the nodes that each NodePolicy governs, by the policy's name; a policy that governs none is left out."""
        return governed_nodes(
            (name, self.node_policies.select(name, pressure.status.labels))
            for name, pressure in self.nodes.items()
            if pressure.status is not None
        )

    def governance(
        self, store: PolicyStore[P, Terms], report: VirtualMachineReport
    ) -> Governance[LoadedPolicy[P, Terms]]:
        """Find the policies of a store that select a VM."""
        return store.govern(report.labels, self.namespaces.get(report.namespace, {}))

    def governance_epoch(self, store: PolicyStore[P, Terms]) -> int:
        """Return a number that grows whenever the governance of a VM with the same labels may differ."""
        return store.epoch + self._namespace_epoch

    def severity(self, name: str) -> int:
        """Say how short of memory a node is: 0 for not at all, up to 3 for Critical; a guest in trouble counts as 1."""
        status = self.nodes[name].status if name in self.nodes else None
        if status is None:
            return 0
        return max(status.state.severity, int(any(report.troubled for report in status.virtual_machines)))

    def snapshot(self, name: str, status: NodePressureStatus, now: float) -> MemoryNode:
        """Translate a node and the memory of its VMs for the core, as of ``now`` seconds."""
        moment, _ = self._heartbeats.get(name, (None, None))
        return memory_node(
            name,
            # A target's age counts until the report last held: where nothing moves, reports are rare.
            status if moment is None else held_until(status, moment),
            lambda report: self.governance(self.memory, report).governing,
            self.memory.written.last_requests(name, status.virtual_machines, now),
            self.cool_down,
            released=self.is_released(name),
        )

    def processor_snapshot(self, name: str, status: NodePressureStatus, now: float) -> ProcessorNode | None:
        """Translate a node and its processors for the core, as of ``now`` seconds; None if none are reported."""
        return processor_node(
            name,
            status,
            lambda report: self.governance(self.processors, report).governing,
            self.processors.written.last_requests(name, status.virtual_machines, now),
            released=self.is_released(name),
        )

    def requested_memory(self, name: str, uid: str) -> int | None:
        """Say what memory is requested of a VM of the node ``name`` now, bytes; None if nothing is."""
        status = self.nodes[name].status if name in self.nodes else None
        reports = () if status is None else status.virtual_machines
        report = next((each for each in reports if each.uid == uid), None)
        return None if report is None else self.memory.written.current_request(name, report).target

    def is_released(self, name: str) -> bool:
        """Whether an administrator released the node ``name``."""
        return name in self.nodes and self.nodes[name].metadata.released

    def prune(self) -> None:
        """Forget the requests of VMs that no node reports any more, and the reports' times of nodes that are gone."""
        reported = {
            (name, report.uid)
            for name, pressure in self.nodes.items()
            if pressure.status is not None
            for report in pressure.status.virtual_machines
        }
        for store in self.stores:
            store.written.prune(reported)
        self._reported_at = {name: moment for name, moment in self._reported_at.items() if name in self.nodes}
        self._heartbeats = {name: each for name, each in self._heartbeats.items() if name in self.nodes}
