"""A governed VM is left alone for a reason: each ExclusionReason has a cause, and so has an agent's reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import MemoryPolicy, ProcessorPolicy, VirtualMachineReport
from kubeballoon.governance.exclusion import Excluded, ExclusionReason, memory_exclusion, processor_exclusion
from tests.support.cluster import Object, memory_policy, processor_policy

RELEASED = {"annotations": {"kubeballoon.io/release": "true"}}
PROCESSORS = {"size": 4, "online": 4}


def memory(**spec: Any) -> MemoryPolicy:
    return MemoryPolicy.model_validate(memory_policy("all", **spec))


def processors(**spec: Any) -> ProcessorPolicy:
    return ProcessorPolicy.model_validate(processor_policy("all", **spec))


def released(policy: Object) -> Object:
    return {**policy, "metadata": {**policy["metadata"], **RELEASED}}


def report(**fields: Any) -> VirtualMachineReport:
    body: Object = {"uid": "a", "namespace": "shop", "name": "a", "size": "1Gi", "processors": PROCESSORS, **fields}
    return VirtualMachineReport.model_validate(body)


CAUSES: dict[ExclusionReason, list[Callable[[], Excluded | None]]] = {
    ExclusionReason.INELIGIBLE: [
        lambda: memory_exclusion(report(eligible=False), memory()),
        lambda: processor_exclusion(report(processors={**PROCESSORS, "eligible": False}), processors()),
    ],
    ExclusionReason.NOT_REPORTED: [lambda: processor_exclusion(report(processors=None), processors())],
    ExclusionReason.RELEASED: [
        lambda: memory_exclusion(report(), memory(), node_released=True),
        lambda: processor_exclusion(report(), processors(), node_released=True),
        lambda: memory_exclusion(report(), MemoryPolicy.model_validate(released(memory_policy("all")))),
        lambda: processor_exclusion(report(), ProcessorPolicy.model_validate(released(processor_policy("all")))),
    ],
    ExclusionReason.OWNER_EXCLUDED: [
        lambda: memory_exclusion(report(ownerExcluded=True), memory()),
        lambda: processor_exclusion(report(ownerExcluded=True), processors()),
        lambda: memory_exclusion(report(ownerExcluded=True), None),
    ],
}


@pytest.mark.parametrize("reason", ExclusionReason)
def test_each_reason_has_a_cause_and_a_message(reason: ExclusionReason) -> None:
    found = [exclusion() for exclusion in CAUSES[reason]]
    assert [each and each.reason for each in found] == [reason] * len(CAUSES[reason])
    assert all(each is not None and each.message for each in found)


def test_nothing_is_excluded_without_a_cause() -> None:
    assert memory_exclusion(report(), memory()) is None
    assert processor_exclusion(report(), processors()) is None


def test_the_agents_reason_and_message_win_over_our_own() -> None:
    paused = report(eligible=False, reason="Paused", message="it is paused", ownerExcluded=True)
    assert memory_exclusion(paused, memory()) == (AgentReason.PAUSED, "it is paused")
    its = {**PROCESSORS, "eligible": False, "reason": "Paused", "message": "it is paused"}
    assert processor_exclusion(report(processors=its), processors()) == (AgentReason.PAUSED, "it is paused")


def test_a_policy_that_wants_the_balloon_alone_leaves_a_vm_out_whose_guest_runs_the_program() -> None:
    program, driver = report(method="GuestAgent"), report(method="Balloon")
    found = memory_exclusion(program, memory(reclaim={"method": "Balloon"}))
    assert found == (AgentReason.NO_BALLOON, "it has no balloon that follows, and its policy asks for one")
    assert memory_exclusion(driver, memory(reclaim={"method": "Balloon"})) is None
    assert memory_exclusion(report(), memory(reclaim={"method": "Balloon"})) is None
    for method in ("Auto", "GuestAgent"):
        assert memory_exclusion(program, memory(reclaim={"method": method})) is None


def test_an_owner_excludes_nothing_where_the_policy_denies_it() -> None:
    assert memory_exclusion(report(ownerExcluded=True), memory(ownerExclusion="Deny")) is None
    assert processor_exclusion(report(ownerExcluded=True), processors(ownerExclusion="Deny")) is None
