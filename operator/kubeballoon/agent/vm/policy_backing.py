"""This module finds which policy stands behind a VM's requests, whatever policy the VM's annotations name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from kubeballoon.agent.vm.vmi import Instance
from kubeballoon.api.v1alpha1 import MemoryPolicy
from kubeballoon.governance.loaded_policy import LoadedMemoryPolicy, load_memory_policy
from kubeballoon.governance.policy_selection import may_govern, requires_following


@dataclass(frozen=True, slots=True)
class PolicyBacking:
    """A PolicyBacking is the policy that governs a VM, and whether the agent must follow the requests on the VM.

    Attributes:
        policy: the policy that governs the VM; None if none is known to.
        binding: whether the VM's requests are to be followed.
    """

    policy: LoadedMemoryPolicy | None = None
    binding: bool = True

    def minimum(self, instance: Instance, size: int) -> int | None:
        """Find the bytes guaranteed to a VM of ``size`` bytes; annotations count only where no policy is known."""
        if self.policy is None:
            return instance.minimum
        return self.policy.terms.minimum.of(size, instance.pod_request)

    def governs(self, instance: Instance) -> bool:
        """Whether memory may be reclaimed from a VM; annotations count only where no policy is known."""
        return self.binding and (self.policy is not None or instance.target is not None)


class PolicyReader:
    """A PolicyReader reads the cluster's memory policies, and translates each version of a policy once."""

    def __init__(self) -> None:
        """Start with no policy read, so that each is read and translated at its first sight."""
        self._loaded: dict[tuple[str, str], LoadedMemoryPolicy | None] = {}  # by uid and resourceVersion

    def read(self, bodies: Iterable[Mapping[str, Any]]) -> KnownPolicies:
        """Read the policies from all of the cluster's MemoryPolicy objects."""
        # What is not among the objects any more is forgotten: a policy that was deleted, or an older version.
        self._loaded = {key: self._load(key, body) for key, body in ((_version(body), body) for body in bodies)}
        known = tuple(policy for policy in self._loaded.values() if policy is not None)
        return KnownPolicies(known, complete=len(known) == len(self._loaded))

    def _load(self, key: tuple[str, str], body: Mapping[str, Any]) -> LoadedMemoryPolicy | None:
        """Load a policy unless that was done before; None where it cannot be read."""
        if key in self._loaded:
            return self._loaded[key]
        try:
            return load_memory_policy(MemoryPolicy.model_validate(body))
        except ValidationError:
            return None


def _version(body: Mapping[str, Any]) -> tuple[str, str]:
    return body["metadata"]["uid"], body["metadata"]["resourceVersion"]


@dataclass(frozen=True, slots=True)
class KnownPolicies:
    """KnownPolicies are the memory policies that the agent could read.

    Attributes:
        complete: whether these are all policies of the cluster. They are not while the API server has not answered, or
            where a policy is of a newer version that cannot be read here.
    """

    known: tuple[LoadedMemoryPolicy, ...] = ()
    complete: bool = False

    def backing(self, instance: Instance, namespace: Mapping[str, str] | None) -> PolicyBacking:
        """Find how far the requests on a VM are believed.

        Args:
            instance: the VM.
            namespace: the labels of its namespace. Where they are not known (None), several policies may govern the VM:
                then the one that guarantees most counts, so that no VM goes below its guaranteed minimum.
        """
        possible = may_govern(self.known, instance.labels, namespace)
        size, pod_request = instance.size, instance.pod_request
        strongest = max(possible, key=lambda policy: policy.terms.minimum.of(size, pod_request), default=None)
        binding = any(
            requires_following(policy.resource, owner_excludes=instance.owner_excluded) for policy in possible
        )
        return PolicyBacking(strongest, binding or not self.complete)
