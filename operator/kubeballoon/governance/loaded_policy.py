"""This module translates policies for the core: once when a policy is read, instead of once for every VM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from kubeballoon.api.duration import parse_duration
from kubeballoon.api.quantity import parse_amount, parse_count, parse_minimum
from kubeballoon.api.v1alpha1 import MemoryPolicy, Policy, ProcessorPolicy, Threshold
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.processors.model import Count, Hysteresis, ProcessorTerms, ProcessorTrigger
from kubeballoon.vocabulary import DEFAULT_MINIMUM_PERCENT

P = TypeVar("P", bound=Policy)
Terms = TypeVar("Terms", MemoryTerms, ProcessorTerms)


@dataclass(frozen=True, slots=True)
class LoadedPolicy(Generic[P, Terms]):
    """A LoadedPolicy is a policy object together with its translation for the core.

    Attributes:
        resource: the object as the API server has it.
        terms: the object's spec in the core's values.
    """

    resource: P
    terms: Terms

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.resource.metadata.name


AnyLoadedPolicy = LoadedPolicy[Any, Any]
LoadedMemoryPolicy = LoadedPolicy[MemoryPolicy, MemoryTerms]
LoadedProcessorPolicy = LoadedPolicy[ProcessorPolicy, ProcessorTerms]


def load_memory_policy(policy: MemoryPolicy) -> LoadedMemoryPolicy:
    """Translate a MemoryPolicy for the core."""
    memory, reclaim = policy.spec.memory, policy.spec.reclaim
    maximum = Amount(*parse_amount(memory.max))
    terms = MemoryTerms(
        name=policy.metadata.name,
        minimum=Amount(percent=DEFAULT_MINIMUM_PERCENT, limit=maximum)
        if memory.min is None
        else Amount(*parse_minimum(memory.min)),
        maximum=maximum,
        headroom=Amount(*parse_amount(memory.headroom)),
        shares_per_gib=memory.shares,
        idle_tax=memory.idle_tax,
        mode=policy.spec.mode,
        when=reclaim.when,
        max_rate=reclaim.max_rate,
        working_set=reclaim.working_set,
        working_set_delay=parse_duration(reclaim.working_set_delay),
    )
    return LoadedPolicy(policy, terms)


def load_processor_policy(policy: ProcessorPolicy) -> LoadedProcessorPolicy:
    """Translate a ProcessorPolicy for the core."""
    settings, trigger = policy.spec.processors, policy.spec.trigger
    maximum = Count(*parse_count(settings.max))
    terms = ProcessorTerms(
        name=policy.metadata.name,
        minimum=Count(percent=DEFAULT_MINIMUM_PERCENT, limit=maximum)
        if settings.min is None
        else Count(*parse_count(settings.min)),
        maximum=maximum,
        shares=settings.shares,
        mode=policy.spec.mode,
        trigger=ProcessorTrigger(trigger.when, _hysteresis(trigger.stall), _hysteresis(trigger.usage)),
        cool_down=parse_duration(policy.spec.cool_down),
    )
    return LoadedPolicy(policy, terms)


def _hysteresis(threshold: Threshold) -> Hysteresis:
    return Hysteresis(threshold.start, threshold.end)
