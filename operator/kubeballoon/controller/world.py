"""What the controller knows: policies, namespaces, nodes' reports, and what it asked of whom."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic

from pydantic import ValidationError

from kubeballoon.api.meta import ApiModel, ObjectMeta, fault
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    NodePressure,
    NodePressureStatus,
    Policy,
    PolicyStatus,
    ProcessorPolicy,
    VirtualMachineReport,
)
from kubeballoon.cluster.snapshot import Governance, P, Requested, core_node, core_processor_node, govern, in_force
from kubeballoon.controller.kinds import MEMORY, PROCESSORS, Asked, Kind
from kubeballoon.core.model import COOL_DOWN, Change, Node
from kubeballoon.core.processors import Node as ProcessorNode

_log = logging.getLogger(__name__)

CONFIRMATION = 30.0  # seconds until a request that its agent still does not report counts as lost


@dataclass(frozen=True, slots=True)
class Request:
    """What this controller wrote on a VM.

    Attributes:
        written: when, seconds.
        moved: when the target last moved, seconds, and whether up; None before its first move.
        confirmed: its agent has reported it since.
    """

    asked: Asked
    written: float
    moved: tuple[float, bool] | None = None
    confirmed: bool = False


class Unread(ApiModel):
    """What is left of a policy that this version cannot read: it governs no VM, whatever it said before."""

    kind: str
    metadata: ObjectMeta
    status: PolicyStatus | None = None
    fault: str


@dataclass(slots=True)
class Book(Generic[P]):
    """The policies of one kind, and what was written on VMs because of them."""

    kind: Kind[P]
    policies: dict[str, P] = field(default_factory=dict)
    unread: dict[str, Unread] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)

    def put(self, body: Mapping[str, Any]) -> bool:
        """Take a policy in; False when it does not change anything that is decided by."""
        policy = self._read(body)
        name = policy.metadata.name
        known = self.policies.get(name) or self.unread.get(name)
        if known is not None and _is_older(policy.metadata, known.metadata):
            return False
        if isinstance(policy, Unread):
            self.policies.pop(name, None)
            self.unread[name] = policy
        else:
            self.unread.pop(name, None)
            self.policies[name] = policy
        changed = known is None or _decides(known) != _decides(policy)
        if changed and isinstance(policy, Unread):
            _log.error("%s %s cannot be read: %s", policy.kind, name, policy.fault)
        return changed

    def _read(self, body: Mapping[str, Any]) -> P | Unread:
        try:
            return self.kind.model.model_validate(body)
        except ValidationError as error:  # this version's CRD lets none through; that of another may
            kind = self.kind.model.__name__
            return Unread(kind=kind, metadata=body["metadata"], status=_status(body), fault=fault(error))

    def settle(self, name: str, uid: str, status: PolicyStatus) -> None:
        """A policy's status was written."""
        for policies in self._having(name, uid):
            policies[name] = policies[name].model_copy(update={"status": status})

    def drop(self, name: str, uid: str) -> None:
        """Forget a policy, but not another that has taken its name meanwhile."""
        for policies in self._having(name, uid):
            del policies[name]

    def _having(self, name: str, uid: str) -> list[dict[str, Any]]:
        places: tuple[dict[str, Any], ...] = (self.policies, self.unread)
        return [each for each in places if name in each and each[name].metadata.uid == uid]

    def asked(self, report: VirtualMachineReport) -> Asked:
        """What is asked of a VM by now, as far as is known."""
        request = self.requests.get(report.uid)
        return self.kind.reported(report) if request is None else request.asked

    def record(self, uid: str, before: Asked, asked: Asked, now: float) -> None:
        """Remember what was written on a VM, and whether its target moved by that."""
        known = self.requests.get(uid)
        moved = None if known is None else known.moved
        if before.target is not None and asked.target is not None and before.target != asked.target:
            moved = now, asked.target > before.target
        self.requests[uid] = Request(asked, now, moved)

    def requested(self, reports: Iterable[VirtualMachineReport], now: float) -> dict[str, Requested]:
        """What is requested of each of the VMs, by uid."""
        return {report.uid: self._requested(report, now) for report in reports}

    def compare(self, report: VirtualMachineReport, now: float) -> None:
        """Believe the report over our own memory once our request has been seen, or should have been."""
        request = self.requests.get(report.uid)
        if request is None:
            return
        reported = self.kind.reported(report)
        if reported == request.asked or request.confirmed or now - request.written >= CONFIRMATION:
            self.requests[report.uid] = replace(request, asked=reported, confirmed=True)

    def prune(self, uids: set[str]) -> None:
        """Forget the requests of other VMs than these."""
        self.requests = {uid: request for uid, request in self.requests.items() if uid in uids}

    def _requested(self, report: VirtualMachineReport, now: float) -> Requested:
        request = self.requests.get(report.uid)
        if request is None:
            return Requested(self.kind.reported(report).target)
        moved = request.moved
        change = None if moved is None else Change(up=moved[1], age=now - moved[0])
        return Requested(request.asked.target, change)


@dataclass(slots=True)
class World:
    """All of it, kept up to date by the handlers and the rounds; one event loop owns it.

    Attributes:
        cool_down: seconds in which a target does not change direction without need.
        today: the time of day, for reports that were written before this controller began.
    """

    cool_down: float = COOL_DOWN
    memory: Book[MemoryPolicy] = field(default_factory=lambda: Book(MEMORY))
    processors: Book[ProcessorPolicy] = field(default_factory=lambda: Book(PROCESSORS))
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    nodes: dict[str, NodePressure] = field(default_factory=dict)
    today: Callable[[], datetime] = lambda: datetime.now(UTC)
    _heard: dict[str, float] = field(default_factory=dict)  # when each node's agent was last heard of, seconds

    @property
    def books(self) -> tuple[Book[Any], ...]:
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
        if known is not None and _is_older(pressure.metadata, known.metadata):
            return False
        self.nodes[pressure.metadata.name] = pressure
        if pressure.status is not None:
            self._hear(pressure.metadata.name, None if known is None else known.status, pressure.status, now)
            for report in pressure.status.virtual_machines:
                for book in self.books:
                    book.compare(report, now)
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

    def governance(self, book: Book[P], report: VirtualMachineReport) -> Governance[P]:
        """Which policies of a kind select a VM."""
        return govern(list(book.policies.values()), report.labels, self.namespaces.get(report.namespace, {}))

    def snapshot(self, name: str, status: NodePressureStatus, now: float) -> Node:
        """One node, immutable, as of ``now`` seconds.

        What an agent decided on its own counts as requested, so that it is confirmed or corrected, and not left beside
        a request that is near enough to stay.
        """
        requested = self.memory.requested(status.virtual_machines, now)
        return core_node(
            name,
            status,
            lambda report: self.governance(self.memory, report).governing,
            {report.uid: in_force(report, requested[report.uid]) for report in status.virtual_machines},
            self.cool_down,
            released=self.is_released(name),
        )

    def processor_snapshot(self, name: str, status: NodePressureStatus, now: float) -> ProcessorNode | None:
        """One node's processors, immutable; None where they are not reported."""
        return core_processor_node(
            name,
            status,
            lambda report: self.governance(self.processors, report).governing,
            self.processors.requested(status.virtual_machines, now),
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
        for book in self.books:
            book.prune(reported)
        self._heard = {name: heard for name, heard in self._heard.items() if name in self.nodes}


def _decides(policy: Policy | Unread) -> tuple[object, ...]:
    """What of a policy decisions depend on; of one that cannot be read, why not."""
    if isinstance(policy, Unread):
        return (policy.fault,)
    metadata = policy.metadata
    return metadata.uid, policy.spec, metadata.deletion_timestamp is None, metadata.released


def _status(body: Mapping[str, Any]) -> PolicyStatus | None:
    """A policy's status as far as all kinds have it; None where there is none, or it cannot be read."""
    try:
        return PolicyStatus.model_validate(body.get("status"))
    except ValidationError:
        return None


def _is_older(metadata: ObjectMeta, known: ObjectMeta) -> bool:
    """Whether an object is an older version of a known one: lists and watches overtake each other."""
    versions = metadata.resource_version, known.resource_version
    return metadata.uid == known.uid and all(map(str.isdigit, versions)) and int(versions[0]) < int(versions[1])
