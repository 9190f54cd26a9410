"""This module finds which policy stands behind a VM's requests, whatever policy the VM's annotations name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from kubeballoon.agent.vm.instance import Instance
from kubeballoon.api.v1alpha1 import MemoryPolicy
from kubeballoon.governance.governing import may_govern, requires_following
from kubeballoon.governance.loaded_policy import LoadedMemoryPolicy, load_memory_policy


@dataclass(frozen=True, slots=True)
class Authorization:
    """An Authorization says how far the requests on a VM are believed.

    Attributes:
        policy: the policy that governs the VM; None where none is known to.
        binding: whether the VM's requests are to be followed.
    """

    policy: LoadedMemoryPolicy | None = None
    binding: bool = True

    def minimum(self, instance: Instance, size: int) -> int | None:
        """Find the bytes guaranteed to a VM of ``size`` bytes; annotations count only where no policy is known."""
        return instance.minimum if self.policy is None else self.policy.terms.minimum.of(size)


@dataclass(frozen=True, slots=True)
class KnownPolicies:
    """KnownPolicies are the memory policies that the agent could read.

    Attributes:
        complete: whether these are all policies of the cluster. They are not while the API server has not answered, or
            where a policy is of a newer version that cannot be read here.
    """

    known: tuple[LoadedMemoryPolicy, ...] = ()
    complete: bool = False

    @classmethod
    def read(cls, bodies: Iterable[Mapping[str, Any]]) -> Self:
        """Read the policies from all of the cluster's MemoryPolicy objects."""
        known, complete = [], True
        for body in bodies:
            try:
                known.append(load_memory_policy(MemoryPolicy.model_validate(body)))
            except ValidationError:
                complete = False
        return cls(tuple(known), complete)

    def authorization(self, instance: Instance, namespace: Mapping[str, str] | None) -> Authorization:
        """Find how far the requests on a VM are believed.

        Args:
            instance: the VM.
            namespace: the labels of its namespace. Where they are not known (None), several policies may govern the VM:
                then the one that guarantees most counts, so that no VM goes below its guaranteed minimum.
        """
        possible = may_govern(self.known, instance.labels, namespace)
        strongest = max(possible, key=lambda policy: policy.terms.minimum.of(instance.size), default=None)
        binding = any(
            requires_following(policy.resource, owner_excludes=instance.owner_excluded) for policy in possible
        )
        return Authorization(strongest, binding or not self.complete)
