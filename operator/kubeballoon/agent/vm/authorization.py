"""What stands behind the requests on a VM: the policy that governs it, whatever its annotations name."""

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
    """What a VM is held to.

    Attributes:
        policy: what governs it; None where none is known to.
        bound: whether requests on it are to be followed.
    """

    policy: LoadedMemoryPolicy | None = None
    bound: bool = True

    def minimum(self, instance: Instance, size: int) -> int | None:
        """What the VM, being of ``size`` bytes, is guaranteed; of its annotations only where no policy is known."""
        return instance.minimum if self.policy is None else self.policy.terms.minimum.of(size)


@dataclass(frozen=True, slots=True)
class KnownPolicies:
    """The policies as far as the API server tells them.

    Attributes:
        complete: whether these are all there are: none is unread, or of a newer version that cannot be read here.
    """

    known: tuple[LoadedMemoryPolicy, ...] = ()
    complete: bool = False

    @classmethod
    def read(cls, bodies: Iterable[Mapping[str, Any]]) -> Self:
        """Of all objects that there are."""
        known, complete = [], True
        for body in bodies:
            try:
                known.append(load_memory_policy(MemoryPolicy.model_validate(body)))
            except ValidationError:
                complete = False
        return cls(tuple(known), complete)

    def authorization(self, instance: Instance, namespace: Mapping[str, str] | None) -> Authorization:
        """What a VM is held to, given the labels of its namespace.

        Where these are not known (None) several policies may govern it: then the one of them that guarantees most
        counts, so that no VM goes below what it is guaranteed.
        """
        possible = may_govern(self.known, instance.labels, namespace)
        strongest = max(possible, key=lambda policy: policy.terms.minimum.of(instance.size), default=None)
        binding = any(
            requires_following(policy.resource, owner_excludes=instance.owner_excluded) for policy in possible
        )
        return Authorization(strongest, binding or not self.complete)
