"""What remains of a VM's report that the API server refuses is what neither a guest nor a label can have spoiled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kubeballoon.agent.report import refused_report
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import FreedBy, GuestReport, ProcessorReport, VirtualMachineReport
from kubeballoon.vocabulary import Migratability, ReclaimMethod, SwapAbility
from tests.support.cluster import MIB

# Whatever a VM's report may say has its line here: what is kept, what is said instead, and what is left out.
KEPT: dict[str, Any] = {
    "uid": "1-2-3",
    "namespace": "shop",
    "name": "db",
    "size": 1024 * MIB,
    "resident": 900 * MIB,
    "overhead": 100 * MIB,
    "pod_request": 512 * MIB,
    "target": 600 * MIB,
    "emergency_target": 700 * MIB,
    "policy": "default",
    "eligible": False,
    "owner_excluded": True,
    "migratability": Migratability.MIGRATABLE,
}
REPLACED: dict[str, Any] = {
    "labels_cut": False,
    "responsive": True,
    "reason": AgentReason.PAUSED,
    "message": "it is paused",
}
LEFT_OUT: dict[str, Any] = {
    "labels": {"app": "shop"},
    "actual": 650 * MIB,
    "need": 500 * MIB,
    "present_need": 400 * MIB,
    "troubled": True,
    "swap_ability": SwapAbility.ABLE,
    "min": 512 * MIB,
    "target_since": datetime(2026, 1, 1, tzinfo=UTC),
    "requested_method": ReclaimMethod.GUEST_AGENT,
    "method": ReclaimMethod.GUEST_AGENT,
    "claimed": 100 * MIB,
    "freed_by": FreedBy.KSM,
    "guest": GuestReport(available=1000 * MIB),
    "processors": ProcessorReport(size=4),
}


def test_a_refused_report_keeps_all_that_is_certain_and_nothing_else() -> None:
    full = VirtualMachineReport(**KEPT, **REPLACED, **LEFT_OUT)
    refused = refused_report(full, "a number is too large")
    assert {name: getattr(refused, name) for name in KEPT} == KEPT
    assert (refused.labels_cut, refused.responsive, refused.reason) == (True, False, AgentReason.BAD_REPORT)
    assert refused.message == "what the agent sees of it does not fit into a report: a number is too large"
    fields = VirtualMachineReport.model_fields
    for name in LEFT_OUT:
        default = fields[name].get_default(call_default_factory=True)
        assert getattr(full, name) != default == getattr(refused, name)


def test_each_field_of_a_report_is_kept_replaced_or_left_out() -> None:
    assert sorted(VirtualMachineReport.model_fields) == sorted([*KEPT, *REPLACED, *LEFT_OUT])


def test_what_is_kept_fits_whatever_was_refused() -> None:
    absurd = dict.fromkeys(("size", "resident", "overhead", "pod_request", "target", "emergency_target"), 10**400)
    full = VirtualMachineReport.model_construct(**{**KEPT, **absurd, "policy": "x" * 1000})
    refused = refused_report(full, "everything " * 1000)
    assert max(getattr(refused, name) for name in absurd) < 1 << 63
    assert refused.policy is None
    assert refused.message is not None
    assert len(refused.message) <= 1024
