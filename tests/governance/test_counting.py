"""VMs are counted alike for controller and CLI."""

from __future__ import annotations

from typing import Any

import pytest

from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressure, ProcessorPolicy, VirtualMachineReport
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.governance.vm_counts import CountedVM, count_vms
from tests.support.cluster import MIB, Object, memory_policy, processor_policy

ALL = MemoryPolicy.model_validate(memory_policy("all"))


def pressure(name: str, **annotations: str) -> NodePressure:
    return NodePressure.model_validate({"metadata": {"name": name, "annotations": annotations}})


HERE, THERE = pressure("here"), pressure("there")
RELEASED = pressure("released", **{"kubeballoon.io/release": "true"})


def report(name: str, **fields: Any) -> VirtualMachineReport:
    body: Object = {"uid": name, "namespace": "shop", "name": name, "size": "1Gi", "actual": "768Mi", **fields}
    return VirtualMachineReport.model_validate(body)


def test_governed_excluded_and_unresponsive_vms_are_counted_with_what_is_reclaimed() -> None:
    counts = count_vms(
        MEMORY,
        [
            CountedVM(HERE, report("plain"), ALL),
            CountedVM(THERE, report("stuck", responsive=False), ALL),
            CountedVM(HERE, report("pinned", eligible=False, reason="VFIO", actual="1Gi"), ALL),
            CountedVM(RELEASED, report("let-go"), ALL),
        ],
    )
    assert counts.governed == 4
    assert dict(counts.excluded) == {"VFIO": 1, "Released": 1}
    assert counts.unresponsive == ["shop/stuck"]
    assert counts.reclaimed == 3 * 256 * MIB
    assert counts.nodes == {"here", "there", "released"}


def test_a_vm_without_a_policy_is_neither_governed_nor_excluded_but_may_not_respond() -> None:
    counts = count_vms(
        MEMORY,
        [
            CountedVM(HERE, report("free", responsive=False), None),
            CountedVM(HERE, report("pinned", eligible=False, reason="VFIO", responsive=False), None),
        ],
    )
    assert (counts.governed, dict(counts.excluded), counts.nodes) == (0, {}, set())
    assert counts.unresponsive == ["shop/free"], "one that is left alone is not asked to respond"
    assert counts.reclaimed == 2 * 256 * MIB


@pytest.mark.parametrize("reason", ["Migrating", "Paused", "MemoryHotplug", "MethodChanging"])
def test_a_vm_that_cannot_follow_for_a_while_is_not_unresponsive(reason: str) -> None:
    held = {"responsive": False, "reason": reason}
    assert count_vms(MEMORY, [CountedVM(HERE, report("held", **held), ALL)]).unresponsive == []
    policy = ProcessorPolicy.model_validate(processor_policy("all"))
    processors = {"size": 4, "online": 3, **held}
    assert count_vms(PROCESSORS, [CountedVM(HERE, report("held", processors=processors), policy)]).unresponsive == []


def test_processors_are_counted_by_the_same_function() -> None:
    policy = ProcessorPolicy.model_validate(processor_policy("all"))
    processors = {"size": 4, "online": 3}
    counts = count_vms(
        PROCESSORS,
        [
            CountedVM(HERE, report("plain", processors=processors), policy),
            CountedVM(HERE, report("stuck", processors={**processors, "responsive": False}), policy),
            CountedVM(HERE, report("unreported"), policy),
        ],
    )
    assert (counts.governed, dict(counts.excluded)) == (3, {"NotReported": 1})
    assert (counts.unresponsive, counts.reclaimed) == (["shop/stuck"], 2)
