"""An agent's reason steers what the controller decides, for every reason that there is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressure, VirtualMachineReport
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.governance.core_inputs import memory_node, memory_vm
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.governance.policy_types import MEMORY
from kubeballoon.vocabulary import AgentAction
from tests.support.cluster import MIB, Object, memory_policy

SIZE, ACTUAL, TARGET = 4096 * MIB, 1024 * MIB, 512 * MIB
POLICY = MEMORY.load(memory_policy("all"))
NEWER = "Levitating"
"""A reason that an agent of a newer version may give."""


def vm(name: str, **report: Any) -> Object:
    return {"uid": name, "namespace": "shop", "name": name, "size": str(SIZE), "actual": str(ACTUAL), **report}


def node(*vms: Object) -> Object:
    memory = {"total": str(8192 * MIB), "available": str(1024 * MIB), "other": "0", "reserve": "0"}
    status = {"observedAt": datetime.now(UTC).isoformat(), "memory": memory, "virtualMachines": list(vms)}
    return {"metadata": {"name": "n", "uid": "n", "resourceVersion": "1"}, "status": status}


@pytest.mark.parametrize("reason", AgentReason)
def test_the_controller_sets_aside_what_the_agent_will_leave_the_vm(reason: AgentReason) -> None:
    report = VirtualMachineReport.model_validate(vm("vm", reason=reason.value, responsive=False))
    translated = memory_vm(report, POLICY)
    set_aside = {target: translated.charge(target) for target in (None, TARGET)}
    assert (
        set_aside
        == {
            AgentAction.FOLLOWS: {None: SIZE, TARGET: ACTUAL},  # without a request the agent returns everything
            AgentAction.HOLDS: {None: ACTUAL, TARGET: ACTUAL},
            AgentAction.RETURNS_ALL: {None: SIZE, TARGET: SIZE},
        }[reason.memory]
    )


@pytest.mark.parametrize("reason", [each for each in AgentReason if each is not AgentReason.HUGEPAGES])
def test_a_vm_that_may_not_be_ballooned_counts_as_its_size_whatever_the_reason(reason: AgentReason) -> None:
    report = VirtualMachineReport.model_validate(vm("vm", reason=reason.value, eligible=False))
    translated = memory_vm(report, POLICY)
    assert translated.excluded is not None
    assert {translated.charge(target) for target in (None, TARGET)} == {SIZE}


def test_a_vm_in_a_pool_of_hugepages_takes_nothing_from_the_others() -> None:
    """32 of the node's 64 GiB are a pool, with a VM of 24 GiB in it; four others of 8 GiB hold 4 GiB each."""
    overhead, other, reserve = 96 * MIB, 2048 * MIB, 1966 * MIB
    plain = [vm(f"plain-{index}", size="8Gi", actual="8Gi", need="3Gi", overhead="96Mi") for index in range(4)]
    huge = vm("huge", size="24Gi", actual="24Gi", overhead="96Mi", eligible=False, reason="Hugepages")
    memory = {"total": "32Gi", "available": "1Gi", "other": str(other), "reserve": str(reserve)}
    body = node(*plain, huge)
    body["status"]["memory"] = memory
    status = NodePressure.model_validate(body).status
    assert status is not None
    plan = allocate_memory(memory_node("n", status, lambda _: POLICY))
    assert plan.sharers_capacity == 32 * 1024 * MIB - other - reserve - 5 * overhead
    assert plan.shortfall == 0


@pytest.mark.parametrize("reason", AgentReason)
def test_a_reason_is_read_from_a_report_as_it_was_written(reason: AgentReason) -> None:
    read = NodePressure.model_validate(node(vm("vm", reason=reason.value, processors={"size": 4, "reason": reason})))
    assert read.status is not None
    (report,) = read.status.virtual_machines
    assert report.reason is reason
    assert report.processors is not None
    assert report.processors.reason is reason
    assert report.to_wire()["reason"] == reason.value


def test_a_newer_agent_s_reason_costs_only_the_vm_that_has_it() -> None:
    state = ClusterState()
    state.memory.put(memory_policy("all"))
    strange = vm("strange", reason=NEWER, responsive=False)
    assert state.put_node(node(strange, vm("plain", need=str(512 * MIB), actual=str(SIZE))), 0.0)
    status = state.nodes["n"].status
    assert status is not None
    assert status.virtual_machines[0].reason is AgentReason.UNKNOWN
    plan = allocate_memory(state.snapshot("n", status, 0.0))
    decisions = {decision.vm.uid: decision for decision in plan.decisions}
    assert decisions["strange"].target is None
    assert decisions["strange"].vm.charge(None) == SIZE, "its agent may be giving it everything for that reason"
    assert decisions["plain"].target is not None


def test_a_newer_agent_s_reason_for_processors_is_unknown_too() -> None:
    report = VirtualMachineReport.model_validate(vm("vm", processors={"size": 4, "reason": NEWER}))
    assert report.processors is not None
    assert report.processors.reason is AgentReason.UNKNOWN


def test_policies_are_loaded_by_their_type_as_by_hand() -> None:
    assert load_memory_policy(POLICY.resource) == POLICY
