"""Every reason that an agent may give is documented, and says what the agent does."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from hack.generate_docs import REFERENCE, render_reasons
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressureStatus, VirtualMachineReport
from kubeballoon.vocabulary import AgentAction


@pytest.mark.parametrize("reason", AgentReason)
def test_the_reference_lists_the_reason_and_what_the_agent_does(reason: AgentReason) -> None:
    row = f"| `{reason.value}` | {reason.memory.value} | {reason.processors.value} | {reason.meaning} |"
    assert row in REFERENCE.read_text().splitlines(), f"run `make generate`: the reference lacks the row {row}"


def test_the_reference_lists_no_other_reason() -> None:
    assert render_reasons() in REFERENCE.read_text()
    listed = re.findall(r"^\| `(\w+)` \| \w+ \| \w+ \|", render_reasons(), re.MULTILINE)
    assert listed == [reason.value for reason in AgentReason]


WITHOUT_CONSEQUENCE = {
    *("Unknown", "Hugepages", "DedicatedCPU", "Realtime", "NUMAPassthrough", "VFIO", "MemoryLocked", "LaunchSecurity"),
    *("Guaranteed", "BadRequest", "InternalError", "NoDriver", "StatisticsStale", "BalloonIneffective"),
    *("GuestProgramAbsent", "UnplugLost", "UnplugRefused", "NotRemovable", "NotOfflinable"),
}
"""The reasons from which nothing follows but the agent's action."""


def test_of_each_reason_it_is_decided_what_follows_from_it_besides_the_agent_s_action() -> None:
    plain = {
        reason.value
        for reason in AgentReason
        if not (reason.connection_lost or reason.no_reclaim_method or reason.is_passing)
        and not reason.is_offence
        and not (reason.guest_agent_answers or (reason.processors_stay and reason.processors is not AgentAction.HOLDS))
    }
    assert plain == WITHOUT_CONSEQUENCE, "add the new reason to the properties that hold for it, else to this set"


@pytest.mark.parametrize("reason", AgentReason)
def test_a_reason_is_one_word_that_a_condition_could_have(reason: AgentReason) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", reason.value)
    assert reason.meaning.strip()


def test_words_of_a_newer_agent_make_no_report_unreadable() -> None:
    processors = {"size": 1, "method": "Newer", "requestedMethod": "Newer", "reason": "Newer"}
    names = ("method", "requestedMethod", "freedBy", "swapAbility", "migratability")
    methods = dict.fromkeys(names, "Newer")
    vms = [
        {"uid": "u", "namespace": "n", "name": "newer", "size": 1, "processors": processors, **methods},
        {"uid": "w", "namespace": "n", "name": "well", "size": 1, "method": "Balloon"},
    ]
    memory = {"total": 4, "available": 2, "other": 1, "reserve": 1}
    status = {"observedAt": "2026-01-01T00:00:00Z", "memory": memory, "state": "Newer", "virtualMachines": vms}
    read = NodePressureStatus.model_validate({**status, "conditions": []})
    newer, well = read.virtual_machines
    assert (newer.method, newer.requested_method, newer.freed_by) == (None, "Auto", None)
    assert (newer.swap_ability, newer.migratability) == ("Unknown", None)
    assert newer.processors is not None
    assert (newer.processors.method, newer.processors.requested_method) == (None, "Auto")
    assert newer.processors.reason is AgentReason.UNKNOWN
    assert well.method == "Balloon"
    assert read.state == "Tight"
    for field in names:
        with pytest.raises(ValidationError):
            VirtualMachineReport.model_validate({**vms[1], field: 5})


def test_only_a_word_can_be_a_reason() -> None:
    vm = {"uid": "u", "namespace": "n", "name": "v", "size": 1}
    newer = VirtualMachineReport.model_validate({**vm, "reason": "SomethingNewer"})
    assert newer.reason is AgentReason.UNKNOWN
    with pytest.raises(ValidationError):
        VirtualMachineReport.model_validate({**vm, "reason": 5})


def test_a_report_of_more_vms_than_a_node_runs_is_refused() -> None:
    memory = {"total": "64Gi", "available": "1Gi", "other": "0", "reserve": "0"}
    vms = [{"uid": str(number), "namespace": "n", "name": "v", "size": "1Gi"} for number in range(1025)]
    status = {"observedAt": "2026-01-01T00:00:00Z", "memory": memory}
    assert len(NodePressureStatus.model_validate({**status, "virtualMachines": vms[1:]}).virtual_machines) == 1024
    with pytest.raises(ValidationError, match="at most 1024"):
        NodePressureStatus.model_validate({**status, "virtualMachines": vms})
