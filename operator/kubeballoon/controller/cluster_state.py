"""What the controller knows: policies, namespaces, nodes' reports, and what it asked of whom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    NodePressure,
    NodePressureStatus,
    ProcessorPolicy,
    VirtualMachineReport,
)
from kubeballoon.controller.policy_store import PolicyStore, is_older
from kubeballoon.core.memory.model import COOL_DOWN, MemoryNode, MemoryTerms
from kubeballoon.core.processors.model import ProcessorNode, ProcessorTerms
from kubeballoon.governance.governing import Governance, govern
from kubeballoon.governance.loaded_policy import LoadedPolicy, P, Terms
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.governance.translation import memory_node, processor_node

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ClusterState:
    """All of it, kept up to date by the handlers and the rounds; one event loop owns it.

    Attributes:
        cool_down: seconds in which a target does not change direction without need.
        today: the time of day, for reports that were written before this controller began.
    """

    cool_down: float = COOL_DOWN
    memory: PolicyStore[MemoryPolicy, MemoryTerms] = field(default_factory=lambda: PolicyStore(MEMORY))
    processors: PolicyStore[ProcessorPolicy, ProcessorTerms] = field(default_factory=lambda: PolicyStore(PROCESSORS))
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: dict[str, NodePressure] = field(default_factory=dict)
    today: Callable[[], datetime] = lambda: datetime.now(UTC)
    _heard: dict[str, float] = field(default_factory=dict)  # when each node's agent was last heard of, seconds

    @property
    def stores(self) -> tuple[PolicyStore[Any, Any], ...]:
        """One for each kind of policy."""
        return self.memory, self.processors

    def put_namespace(self, name: str, labels: Mapping[str, str]) -> bool:
        """Take a namespace's labels in; False when they are known."""
        labels = dict(labels)
        changed = self.namespaces.get(name) != labels
        self.namespaces[name] = labels
        return changed

    def put_node(self, body: Mapping[str, Any], now: float) -> bool:
        """Take a node's report in; False when it is not one, or no news."""
        try:
            pressure = NodePressure.model_validate(body)
        except ValidationError as error:
            _log.error("NodePressure %s cannot be read: %s", body.get("metadata", {}).get("name"), error.errors()[0])
            return False
        known = self.nodes.get(pressure.metadata.name)
        if known is not None and is_older(pressure.metadata, known.metadata):
            return False
        self.nodes[pressure.metadata.name] = pressure
        if pressure.status is not None:
            self._hear(pressure.metadata.name, None if known is None else known.status, pressure.status, now)
            for report in pressure.status.virtual_machines:
                for store in self.stores:
                    store.compare(report, now)
        return known is None or known.status != pressure.status or known.metadata.released != pressure.metadata.released

    def silence(self, name: str, now: float) -> float:
        """Seconds since the agent of the node ``name`` was last heard of."""
        return now - self._heard.get(name, -math.inf)

    def _hear(self, name: str, before: NodePressureStatus | None, status: NodePressureStatus, now: float) -> None:
        """An agent is heard of when its report changes; only of the first one its own date has to tell the age."""
        if before is None:
            age = (self.today() - status.observed_at).total_seconds()
            self._heard[name] = now - max(0.0, age)
        elif before.observed_at != status.observed_at:
            self._heard[name] = now

    def forget_node(self, name: str) -> None:
        """A node is gone."""
        self.nodes.pop(name, None)

    def governance(
        self, store: PolicyStore[P, Terms], report: VirtualMachineReport
    ) -> Governance[LoadedPolicy[P, Terms]]:
        """Find the policies of a kind that select a VM."""
        return govern(list(store.policies.values()), report.labels, self.namespaces.get(report.namespace, {}))

    def snapshot(self, name: str, status: NodePressureStatus, now: float) -> MemoryNode:
        """Translate one node, and the memory of its VMs, as of ``now`` seconds."""
        return memory_node(
            name,
            status,
            lambda report: self.governance(self.memory, report).governing,
            self.memory.written(status.virtual_machines, now),
            self.cool_down,
            released=self.is_released(name),
        )

    def processor_snapshot(self, name: str, status: NodePressureStatus, now: float) -> ProcessorNode | None:
        """One node's processors, immutable; None where they are not reported."""
        return processor_node(
            name,
            status,
            lambda report: self.governance(self.processors, report).governing,
            self.processors.written(status.virtual_machines, now),
            released=self.is_released(name),
        )

    def is_released(self, name: str) -> bool:
        """Whether an administrator released the node ``name``."""
        return name in self.nodes and self.nodes[name].metadata.released

    def prune(self) -> None:
        """Forget the requests of VMs that no node reports any more."""
        reported = {
            report.uid
            for pressure in self.nodes.values()
            if pressure.status is not None
            for report in pressure.status.virtual_machines
        }
        for store in self.stores:
            store.prune(reported)
        self._heard = {name: heard for name, heard in self._heard.items() if name in self.nodes}
