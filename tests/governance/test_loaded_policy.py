"""Policies are translated for the core, and written on VMs, in whole."""

from __future__ import annotations

from dataclasses import replace

from kubeballoon.api.names import CONTROLLER_ANNOTATIONS
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.processors.model import Count, ProcessorTerms
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.governance.targets_in_force import VMRequest
from tests.support.cluster import memory_policy, processor_policy


def test_the_core_has_the_defaults_of_a_memory_policy() -> None:
    terms = MEMORY.load(memory_policy("p")).terms
    assert terms.minimum.limit == Amount(percent=100)
    assert replace(terms, minimum=replace(terms.minimum, limit=None)) == MemoryTerms("p")


def test_the_core_has_the_defaults_of_a_processor_policy() -> None:
    terms = PROCESSORS.load(processor_policy("p")).terms
    assert terms.minimum.limit == Count(percent=100)
    assert replace(terms, minimum=replace(terms.minimum, limit=None)) == ProcessorTerms("p")


def test_whatever_is_written_on_a_vm_is_removed_with_the_request() -> None:
    written = {name for each in (MEMORY, PROCESSORS) for name in each.annotations(VMRequest(), "")}
    assert written == set(CONTROLLER_ANNOTATIONS), "requests are withdrawn by the list in api/names.py"
