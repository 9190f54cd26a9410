"""The policies of one kind as the controller knows them, and the requests it wrote on VMs because of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from pydantic import ValidationError

from kubeballoon.api.meta import ApiModel, ObjectMeta, fault
from kubeballoon.api.v1alpha1 import Policy, PolicyStatus, VirtualMachineReport
from kubeballoon.core.decision import TargetChange
from kubeballoon.governance.loaded_policy import LoadedPolicy, P, Terms
from kubeballoon.governance.policy_types import PolicyType
from kubeballoon.governance.requests import LastRequest, VMRequest

_log = logging.getLogger(__name__)

CONFIRMATION = 30.0  # seconds until a written request that the VM's agent does not report counts as lost: a report is
# due within 60 s, but news of a changed VM within one


@dataclass(frozen=True, slots=True)
class WrittenRequest:
    """A WrittenRequest is what this controller last wrote on a VM, and how sure it is that this still holds.

    Attributes:
        request: what was written; what the agent reports, once that was seen.
        written_at: when, seconds.
        moved: when the target last moved, seconds, and whether up; None before its first move.
        confirmed: whether the agent has reported the request since.
    """

    request: VMRequest
    written_at: float
    moved: tuple[float, bool] | None = None
    confirmed: bool = False


class UnreadablePolicy(ApiModel):
    """An UnreadablePolicy is what is left of a policy that this version cannot read: it governs no VM."""

    kind: str
    metadata: ObjectMeta
    status: PolicyStatus | None = None
    fault: str


@dataclass(slots=True)
class PolicyStore(Generic[P, Terms]):
    """A PolicyStore keeps all policies of one kind, by name, and the requests written because of them, by VM uid."""

    policy_type: PolicyType[P, Terms]
    policies: dict[str, LoadedPolicy[P, Terms]] = field(default_factory=dict)
    unreadable: dict[str, UnreadablePolicy] = field(default_factory=dict)
    requests: dict[str, WrittenRequest] = field(default_factory=dict)

    def put(self, body: Mapping[str, Any]) -> bool:
        """Take a policy object in.

        Returns:
            Whether decisions may differ because of it.
        """
        policy = self._load(body)
        after = policy if isinstance(policy, UnreadablePolicy) else policy.resource
        name = after.metadata.name
        before = self._known(name)
        if before is not None and is_older(after.metadata, before.metadata):
            return False
        if isinstance(policy, UnreadablePolicy):
            self.policies.pop(name, None)
            self.unreadable[name] = policy
        else:
            self.unreadable.pop(name, None)
            self.policies[name] = policy
        changed = before is None or _decided_by(before) != _decided_by(after)
        if changed and isinstance(policy, UnreadablePolicy):
            _log.error("%s %s cannot be read: %s", policy.kind, name, policy.fault)
        return changed

    def _known(self, name: str) -> P | UnreadablePolicy | None:
        loaded = self.policies.get(name)
        return self.unreadable.get(name) if loaded is None else loaded.resource

    def _load(self, body: Mapping[str, Any]) -> LoadedPolicy[P, Terms] | UnreadablePolicy:
        try:
            return self.policy_type.load(body)
        except ValidationError as error:  # this version's CRD lets none through; that of another version may
            kind = self.policy_type.model.__name__
            return UnreadablePolicy(kind=kind, metadata=body["metadata"], status=_status(body), fault=fault(error))

    def set_status(self, name: str, uid: str, status: PolicyStatus) -> None:
        """Remember the status that was written of a policy, unless another has taken its name since."""
        loaded, unreadable = self.policies.get(name), self.unreadable.get(name)
        if loaded is not None and loaded.resource.metadata.uid == uid:
            resource = loaded.resource.model_copy(update={"status": status})
            self.policies[name] = replace(loaded, resource=resource)
        if unreadable is not None and unreadable.metadata.uid == uid:
            self.unreadable[name] = unreadable.model_copy(update={"status": status})

    def remove(self, name: str, uid: str) -> None:
        """Forget a policy, but not another that has taken its name since."""
        if name in self.policies and self.policies[name].resource.metadata.uid == uid:
            del self.policies[name]
        if name in self.unreadable and self.unreadable[name].metadata.uid == uid:
            del self.unreadable[name]

    def current_request(self, report: VirtualMachineReport) -> VMRequest:
        """Say what is requested of a VM now, as far as is known: as last written, else as its agent reports."""
        written = self.requests.get(report.uid)
        return self.policy_type.reported_request(report) if written is None else written.request

    def record(self, uid: str, before: VMRequest, after: VMRequest, now: float) -> None:
        """Remember what was written on a VM, and whether its target moved by that."""
        written = self.requests.get(uid)
        moved = None if written is None else written.moved
        if before.target is not None and after.target is not None and before.target != after.target:
            moved = now, after.target > before.target
        self.requests[uid] = WrittenRequest(after, now, moved)

    def written(self, reports: Iterable[VirtualMachineReport], now: float) -> dict[str, LastRequest]:
        """Say what was last written on each of these VMs, by uid; nothing of those on which nothing was."""
        return {
            report.uid: _last_request(self.requests[report.uid], now)
            for report in reports
            if report.uid in self.requests
        }

    def compare(self, report: VirtualMachineReport, now: float) -> None:
        """Believe the report over our own memory once our request has been seen there, or should have been."""
        written = self.requests.get(report.uid)
        if written is None:
            return
        reported = self.policy_type.reported_request(report)
        if reported == written.request or written.confirmed or now - written.written_at >= CONFIRMATION:
            self.requests[report.uid] = replace(written, request=reported, confirmed=True)

    def prune(self, uids: set[str]) -> None:
        """Forget the requests of other VMs than these."""
        self.requests = {uid: request for uid, request in self.requests.items() if uid in uids}


def _last_request(written: WrittenRequest, now: float) -> LastRequest:
    change = None if written.moved is None else TargetChange(up=written.moved[1], age=now - written.moved[0])
    return LastRequest(written.request.target, change)


def _decided_by(policy: Policy | UnreadablePolicy) -> tuple[object, ...]:
    """Pick what of a policy decisions depend on; of one that cannot be read, why it cannot."""
    if isinstance(policy, UnreadablePolicy):
        return (policy.fault,)
    metadata = policy.metadata
    return metadata.uid, policy.spec, metadata.deletion_timestamp is None, metadata.released


def _status(body: Mapping[str, Any]) -> PolicyStatus | None:
    """Read what a policy's status has in common with all kinds'; None where there is none, or it cannot be read."""
    try:
        return PolicyStatus.model_validate(body.get("status"))
    except ValidationError:
        return None


def is_older(metadata: ObjectMeta, known: ObjectMeta) -> bool:
    """Whether an object is an older version of a known one: lists and watches overtake each other."""
    versions = metadata.resource_version, known.resource_version
    return metadata.uid == known.uid and all(map(str.isdigit, versions)) and int(versions[0]) < int(versions[1])
