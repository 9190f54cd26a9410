"""This module keeps the policies of each kind: those that can be read, and those that cannot."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from pydantic import ValidationError

from kubeballoon.api.meta import ApiModel, ObjectMeta, fault
from kubeballoon.api.v1alpha1 import NodePolicy, NodePolicyStatus, Policy, PolicyStatus, Resource
from kubeballoon.cluster import paths
from kubeballoon.controller.written_requests import WrittenRequests
from kubeballoon.governance.loaded_policy import LoadedPolicy, P, Terms
from kubeballoon.governance.node_policies import LoadedNodePolicy, load_node_policy, select_node_policies
from kubeballoon.governance.policy_selection import Governance, PolicyIndex
from kubeballoon.governance.policy_types import PolicyType

_log = logging.getLogger(__name__)


class UnreadablePolicy(ApiModel):
    """An UnreadablePolicy is what remains of a policy that this version cannot read; it governs nothing.

    Attributes:
        fault: why it cannot be read, in one line.
    """

    kind: str
    metadata: ObjectMeta
    status: PolicyStatus | None = None
    fault: str


class _Loaded(Protocol):
    """A _Loaded is a policy object together with its translation for the core."""

    @property
    def resource(self) -> Any:
        """The object as the API server has it."""


L = TypeVar("L", bound=_Loaded)


@dataclass(slots=True, kw_only=True)
class PolicyCollection(ABC, Generic[L]):
    """A PolicyCollection keeps the policies of one kind.

    Attributes:
        policies: the policies that can be read, by name.
        unreadable: the policies that cannot be read, by name.
        epoch: a number that grows whenever another policy may govern a VM or node than before, or govern it otherwise.
    """

    policies: dict[str, L] = field(default_factory=dict)
    unreadable: dict[str, UnreadablePolicy] = field(default_factory=dict)
    epoch: int = 0

    @property
    @abstractmethod
    def model(self) -> type[Resource]:
        """The kind's API model."""

    @abstractmethod
    def _load(self, body: Mapping[str, Any]) -> L:
        """Read a policy object and translate it for the core.

        Raises:
            ValidationError: this version cannot read the object.
        """

    @property
    def path(self) -> str:
        """The path of the policies in the API."""
        return paths.ours(self.model.plural)

    def put(self, body: Mapping[str, Any]) -> bool:
        """Take in a policy object; one that is older than what is known is ignored.

        Returns:
            Whether decisions may differ because of it.
        """
        policy = self._read(body)
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
        self.epoch += 1

    def _known(self, name: str) -> Any:
        loaded = self.policies.get(name)
        return self.unreadable.get(name) if loaded is None else loaded.resource

    def _read(self, body: Mapping[str, Any]) -> L | UnreadablePolicy:
        try:
            return self._load(body)
        except ValidationError as error:  # this version's CRD lets no such policy through, but a newer version's may
            kind = self.model.__name__
            return UnreadablePolicy(kind=kind, metadata=body["metadata"], status=_status(body), fault=fault(error))

    def set_status(self, name: str, uid: str, status: PolicyStatus | NodePolicyStatus) -> None:
        """Remember the status that was written on a policy, unless another policy has its name now."""
        loaded, unreadable = self.policies.get(name), self.unreadable.get(name)
        if loaded is not None and loaded.resource.metadata.uid == uid:
            resource = loaded.resource.model_copy(update={"status": status})
            self.policies[name] = self._with_resource(loaded, resource)
        if unreadable is not None and unreadable.metadata.uid == uid:
            self.unreadable[name] = unreadable.model_copy(update={"status": status})

    @abstractmethod
    def _with_resource(self, loaded: L, resource: Any) -> L:
        """Return a policy with another object that has the same translation."""

    def remove(self, name: str, uid: str) -> None:
        """Forget a policy, unless another policy has its name now."""
        if name in self.policies and self.policies[name].resource.metadata.uid == uid:
            del self.policies[name]
        if name in self.unreadable and self.unreadable[name].metadata.uid == uid:
            del self.unreadable[name]
        self._outdate()


@dataclass(slots=True)
class PolicyStore(PolicyCollection[LoadedPolicy[P, Terms]], Generic[P, Terms]):
    """A PolicyStore keeps the policies of one type, beside the requests that were written because of them.

    Attributes:
        policy_type: the type of its policies.
        written: the requests that were written on VMs.
    """

    policy_type: PolicyType[P, Terms]
    written: WrittenRequests = field(init=False)
    _index: PolicyIndex[LoadedPolicy[P, Terms]] | None = None

    def __post_init__(self) -> None:
        """Begin without a written request."""
        self.written = WrittenRequests(self.policy_type.reported_request)

    @property
    def model(self) -> type[Resource]:
        """The kind's API model."""
        return self.policy_type.model

    def govern(
        self, labels: Mapping[str, str], namespace_labels: Mapping[str, str]
    ) -> Governance[LoadedPolicy[P, Terms]]:
        """Find the policies that select a VM by its labels and its namespace's labels."""
        if self._index is None:
            self._index = PolicyIndex(self.policies.values())
        return self._index.govern(labels, namespace_labels)

    def _outdate(self) -> None:
        self._index = None
        self.epoch += 1

    def _load(self, body: Mapping[str, Any]) -> LoadedPolicy[P, Terms]:
        return self.policy_type.load(body)

    def _with_resource(self, loaded: LoadedPolicy[P, Terms], resource: Any) -> LoadedPolicy[P, Terms]:
        return replace(loaded, resource=resource)


@dataclass(slots=True)
class NodePolicyStore(PolicyCollection[LoadedNodePolicy]):
    """A NodePolicyStore keeps the NodePolicies, and which of them select each node."""

    _selecting: dict[str, tuple[Mapping[str, str], list[LoadedNodePolicy]]] = field(default_factory=dict)

    @property
    def model(self) -> type[Resource]:
        """The kind's API model."""
        return NodePolicy

    def select(self, node: str, labels: Mapping[str, str]) -> list[LoadedNodePolicy]:
        """Find the policies that select a node by its labels, the governing one first."""
        known = self._selecting.get(node)
        if known is None or known[0] != labels:
            known = self._selecting[node] = labels, select_node_policies(self.policies.values(), labels)
        return known[1]

    def forget_node(self, node: str) -> None:
        """Forget a node that is gone."""
        self._selecting.pop(node, None)

    def _outdate(self) -> None:
        self._selecting.clear()
        self.epoch += 1

    def _load(self, body: Mapping[str, Any]) -> LoadedNodePolicy:
        return load_node_policy(NodePolicy.model_validate(body))

    def _with_resource(self, loaded: LoadedNodePolicy, resource: Any) -> LoadedNodePolicy:
        return replace(loaded, resource=resource)


def _decision_inputs(policy: Policy | NodePolicy | UnreadablePolicy) -> tuple[object, ...]:
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
