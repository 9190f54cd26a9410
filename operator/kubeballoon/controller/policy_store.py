"""This module keeps the policies of one type: those that can be read, and those that cannot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from pydantic import ValidationError

from kubeballoon.api.meta import ApiModel, ObjectMeta, fault
from kubeballoon.api.v1alpha1 import Policy, PolicyStatus
from kubeballoon.controller.written_requests import WrittenRequests
from kubeballoon.governance.loaded_policy import LoadedPolicy, P, Terms
from kubeballoon.governance.policy_selection import Governance, PolicyIndex
from kubeballoon.governance.policy_types import PolicyType

_log = logging.getLogger(__name__)


class UnreadablePolicy(ApiModel):
    """An UnreadablePolicy is what remains of a policy that this version cannot read; it governs no VM.

    Attributes:
        fault: why it cannot be read, in one line.
    """

    kind: str
    metadata: ObjectMeta
    status: PolicyStatus | None = None
    fault: str


@dataclass(slots=True)
class PolicyStore(Generic[P, Terms]):
    """A PolicyStore keeps the policies of one type, beside the requests that were written because of them.

    Attributes:
        policy_type: the type of its policies.
        policies: the policies that can be read, by name.
        unreadable: the policies that cannot be read, by name.
        written: the requests that were written on VMs.
        epoch: a number that grows whenever another policy may govern a VM than before, or govern it otherwise.
    """

    policy_type: PolicyType[P, Terms]
    policies: dict[str, LoadedPolicy[P, Terms]] = field(default_factory=dict)
    unreadable: dict[str, UnreadablePolicy] = field(default_factory=dict)
    written: WrittenRequests = field(init=False)
    epoch: int = 0
    _index: PolicyIndex[LoadedPolicy[P, Terms]] | None = None

    def __post_init__(self) -> None:
        """Begin without a written request."""
        self.written = WrittenRequests(self.policy_type.reported_request)

    def govern(
        self, labels: Mapping[str, str], namespace_labels: Mapping[str, str]
    ) -> Governance[LoadedPolicy[P, Terms]]:
        """Find the policies that select a VM by its labels and its namespace's labels."""
        if self._index is None:
            self._index = PolicyIndex(self.policies.values())
        return self._index.govern(labels, namespace_labels)

    def put(self, body: Mapping[str, Any]) -> bool:
        """Take in a policy object; one that is older than what is known is ignored.

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
        changed = before is None or _decision_inputs(before) != _decision_inputs(after)
        if changed:
            self._outdate()
        if changed and isinstance(policy, UnreadablePolicy):
            _log.error("%s %s cannot be read: %s", policy.kind, name, policy.fault, extra={"policy": name})
        return changed

    def known(self) -> Mapping[str, object]:
        """Return all policies by name, those that cannot be read included."""
        return {**self.unreadable, **self.policies}

    def forget(self, name: str) -> None:
        """Forget the policy with a name, whatever its uid."""
        self.policies.pop(name, None)
        self.unreadable.pop(name, None)
        self._outdate()

    def _outdate(self) -> None:
        self._index = None
        self.epoch += 1

    def _known(self, name: str) -> P | UnreadablePolicy | None:
        loaded = self.policies.get(name)
        return self.unreadable.get(name) if loaded is None else loaded.resource

    def _load(self, body: Mapping[str, Any]) -> LoadedPolicy[P, Terms] | UnreadablePolicy:
        try:
            return self.policy_type.load(body)
        except ValidationError as error:  # this version's CRD lets no such policy through, but a newer version's may
            kind = self.policy_type.model.__name__
            return UnreadablePolicy(kind=kind, metadata=body["metadata"], status=_status(body), fault=fault(error))

    def set_status(self, name: str, uid: str, status: PolicyStatus) -> None:
        """Remember the status that was written on a policy, unless another policy has its name now."""
        loaded, unreadable = self.policies.get(name), self.unreadable.get(name)
        if loaded is not None and loaded.resource.metadata.uid == uid:
            resource = loaded.resource.model_copy(update={"status": status})
            self.policies[name] = replace(loaded, resource=resource)
        if unreadable is not None and unreadable.metadata.uid == uid:
            self.unreadable[name] = unreadable.model_copy(update={"status": status})

    def remove(self, name: str, uid: str) -> None:
        """Forget a policy, unless another policy has its name now."""
        if name in self.policies and self.policies[name].resource.metadata.uid == uid:
            del self.policies[name]
        if name in self.unreadable and self.unreadable[name].metadata.uid == uid:
            del self.unreadable[name]
        self._outdate()


def _decision_inputs(policy: Policy | UnreadablePolicy) -> tuple[object, ...]:
    """Pick the parts of a policy that decisions depend on; for an unreadable policy, why it cannot be read."""
    if isinstance(policy, UnreadablePolicy):
        return (policy.fault,)
    metadata = policy.metadata
    return metadata.uid, policy.spec, metadata.deletion_timestamp is None, metadata.released


def _status(body: Mapping[str, Any]) -> PolicyStatus | None:
    """Read the fields that all policies' statuses have in common; None without a status, or where it is unreadable."""
    try:
        return PolicyStatus.model_validate(body.get("status"))
    except ValidationError:
        return None


def is_older(metadata: ObjectMeta, known: ObjectMeta) -> bool:
    """Whether an object is an older version of a known one; lists and watches may overtake each other."""
    versions = metadata.resource_version, known.resource_version  # Kubernetes orders them; tests may leave them out
    return metadata.uid == known.uid and all(map(str.isdigit, versions)) and int(versions[0]) < int(versions[1])
