"""This module finds the policy that governs a VM, and says whether the VM has to follow that policy's requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kubeballoon.api.selector import LabelSelector, Operator
from kubeballoon.api.v1alpha1 import OwnerExclusion, Policy
from kubeballoon.governance.loaded_policy import AnyLoadedPolicy

L = TypeVar("L", bound=AnyLoadedPolicy)


@dataclass(frozen=True, slots=True)
class Governance(Generic[L]):
    """A Governance lists the policies that select a VM; the first of them governs it."""

    policies: tuple[L, ...] = ()

    @property
    def governing(self) -> L | None:
        """The policy that governs the VM; None if no policy selects it."""
        return self.policies[0] if self.policies else None

    @property
    def tied(self) -> tuple[L, ...]:
        """The policies with the highest priority if there are several, so that only its name lets one of them govern.

        Empty while one policy alone has the highest priority.
        """
        highest = tuple(each for each in self.policies if _priority(each) == _priority(self.policies[0]))
        return highest if len(highest) > 1 else ()


_Key = tuple[str, str | None]
"""A label's key and value; a value of None stands for all values."""


class PolicyIndex(Generic[L]):
    """A PolicyIndex finds the policies that select a VM without trying all of them: hundreds may select by labels.

    A policy is found by one label that a VM, or its namespace, must have for the policy to select the VM.
    """

    def __init__(self, policies: Iterable[L]) -> None:
        """Index policies; those that are being deleted govern nothing."""
        existing = (each for each in policies if each.resource.metadata.deletion_timestamp is None)
        self._policies = sorted(existing, key=lambda policy: (-_priority(policy), policy.name))
        self._others: list[int] = []  # positions of the policies that no single label tells apart
        self._by_label: dict[_Key, list[int]] = {}
        self._by_namespace_label: dict[_Key, list[int]] = {}
        for position, policy in enumerate(self._policies):
            selector = policy.resource.spec.selector
            keys, index = _necessary(selector.virtual_machine_selector), self._by_label
            if not keys:
                keys, index = _necessary(selector.namespace_selector), self._by_namespace_label
            for key in keys:
                index.setdefault(key, []).append(position)
            if not keys:
                self._others.append(position)

    def govern(self, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> Governance[L]:
        """Find the policies that select a VM by its labels and its namespace's labels; the first of them governs it."""
        found = {*self._others, *_found(self._by_label, labels), *_found(self._by_namespace_label, namespace_labels)}
        candidates = (self._policies[position] for position in sorted(found))
        return Governance(tuple(policy for policy in candidates if _selects(policy, labels, namespace_labels)))


def _necessary(selector: LabelSelector) -> list[_Key]:
    """List labels of which every selected object has at least one; empty if the selector asks for no label."""
    for label in selector.match_labels.items():
        return [label]
    for requirement in selector.match_expressions:
        if requirement.operator is Operator.IN:
            return [(requirement.key, value) for value in sorted(set(requirement.values))]
        if requirement.operator is Operator.EXISTS:
            return [(requirement.key, None)]
    return []


def _found(index: Mapping[_Key, list[int]], labels: Mapping[str, str]) -> Iterator[int]:
    if not index:
        return
    for key, value in labels.items():
        yield from index.get((key, value), ())
        yield from index.get((key, None), ())


def _selects(policy: AnyLoadedPolicy, labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> bool:
    selector = policy.resource.spec.selector
    selects: bool = selector.virtual_machine_selector.matches(labels) and selector.namespace_selector.matches(
        namespace_labels
    )
    return selects


def govern(policies: Sequence[L], labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> Governance[L]:
    """Find the policies that select a VM by its labels and its namespace's labels; the first of them governs it."""
    candidates = _candidates(policies, labels)
    return Governance(
        tuple(
            policy
            for policy in candidates
            if policy.resource.spec.selector.namespace_selector.matches(namespace_labels)
        )
    )


def may_govern(
    policies: Sequence[L], labels: Mapping[str, str], namespace_labels: Mapping[str, str] | None
) -> tuple[L, ...]:
    """Find the policies that may govern a VM; if any policy governs it, it is one of these.

    At most one policy is returned where the labels of the VM's namespace are known. Where they are not (None), all
    policies are returned that might govern, down to the first that selects VMs of every namespace.
    """
    if namespace_labels is not None:
        return govern(policies, labels, namespace_labels).policies[:1]
    candidates = _candidates(policies, labels)
    # One that selects VMs of every namespace governs for certain, so none after it can.
    certain = (index for index, policy in enumerate(candidates, 1) if policy.resource.spec.selector.any_namespace)
    return tuple(candidates[: next(certain, None)])


def _candidates(policies: Sequence[L], labels: Mapping[str, str]) -> list[L]:
    """Find the policies whose VM selector matches the labels: the highest priority first, then by name."""
    selecting = [
        policy
        for policy in policies
        if policy.resource.metadata.deletion_timestamp is None
        and policy.resource.spec.selector.virtual_machine_selector.matches(labels)
    ]
    selecting.sort(key=lambda policy: (-_priority(policy), policy.name))
    return selecting


def _priority(policy: AnyLoadedPolicy) -> int:
    priority: int = policy.resource.spec.priority
    return priority


def requires_following(policy: Policy, *, owner_excludes: bool) -> bool:
    """Whether a VM has to follow the requests of the policy that governs it, as far as policy and owner decide that."""
    enforced = not policy.spec.mode.only_observes and not policy.metadata.released
    return enforced and not is_excluded_by_owner(policy, owner_excludes=owner_excludes)


def is_excluded_by_owner(policy: Policy | None, *, owner_excludes: bool) -> bool:
    """Whether a VM is left alone because its owner wants that, and its policy, if it has one, allows it."""
    return owner_excludes and (policy is None or policy.spec.owner_exclusion is OwnerExclusion.ALLOW)
