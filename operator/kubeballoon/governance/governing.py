"""Which policy governs a VM, and whether the VM is to follow what is requested because of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from kubeballoon.api.v1alpha1 import OwnerExclusion, Policy
from kubeballoon.governance.loaded_policy import AnyLoadedPolicy
from kubeballoon.vocabulary import Mode

L = TypeVar("L", bound=AnyLoadedPolicy)


@dataclass(frozen=True, slots=True)
class Governance(Generic[L]):
    """Governance lists the policies that select a VM; the first of them governs it."""

    policies: tuple[L, ...] = ()

    @property
    def governing(self) -> L | None:
        """The policy that governs the VM; None where no policy selects it."""
        return self.policies[0] if self.policies else None

    @property
    def tied(self) -> tuple[L, ...]:
        """The policies that share the highest priority, where several do: only its name makes one of them govern."""
        highest = tuple(each for each in self.policies if _priority(each) == _priority(self.policies[0]))
        return highest if len(highest) > 1 else ()


def govern(policies: Sequence[L], labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> Governance[L]:
    """Find the policies that select a VM by its labels and its namespace's, in the order in which they would govern."""
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
    """Find the policies one of which governs a VM, if any does.

    They are more than one only where the labels of the VM's namespace are not known (None): then they are all that
    might govern, down to the first that selects VMs of any namespace.
    """
    if namespace_labels is not None:
        return govern(policies, labels, namespace_labels).policies[:1]
    candidates = _candidates(policies, labels)
    anywhere = (index for index, policy in enumerate(candidates, 1) if policy.resource.spec.selector.any_namespace)
    return tuple(candidates[: next(anywhere, None)])


def _candidates(policies: Sequence[L], labels: Mapping[str, str]) -> list[L]:
    """Find the policies whose VM selector takes these labels: the highest priority first, then by name."""
    selecting = (
        policy
        for policy in policies
        if policy.resource.metadata.deletion_timestamp is None
        and policy.resource.spec.selector.virtual_machine_selector.matches(labels)
    )
    return sorted(selecting, key=lambda policy: (-_priority(policy), policy.name))


def _priority(policy: AnyLoadedPolicy) -> int:
    priority: int = policy.resource.spec.priority
    return priority


def requires_following(policy: Policy, *, owner_excludes: bool) -> bool:
    """Whether a VM that the policy governs has to follow requests, so far as policy and owner decide that."""
    return policy.spec.mode is Mode.ENFORCE and not policy.metadata.released and not lets_out(policy, owner_excludes)


def lets_out(policy: Policy | None, owner_excludes: bool) -> bool:  # noqa: FBT001 - what is asked about
    """Whether a VM stays out because its owner wants that and its policy, if there is one, allows it."""
    return owner_excludes and (policy is None or policy.spec.owner_exclusion is OwnerExclusion.ALLOW)
