"""Whatever the agent knows of a VM, and a report has a field for, is reported."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.report import NodeObservation, compose
from kubeballoon.agent.vm.guest_processors import ProcessorView
from kubeballoon.agent.vm.memory_view import MemoryView
from kubeballoon.agent.vm.vmi import Instance, InstanceProcessors
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import (
    FreedBy,
    GuestReport,
    NodeMemory,
    ProcessorMethod,
    ProcessorReport,
    VirtualMachineReport,
)
from kubeballoon.core.memory.demand import GuestStatistics, Need
from kubeballoon.core.memory.node_state import MemoryStall, NodeLimits, StateThresholds
from kubeballoon.core.memory.reclaim_state import ReclaimState
from kubeballoon.core.memory.working_set import WorkingSetPace
from kubeballoon.vocabulary import Migratability, NodeState, ReclaimMethod, SwapAbility

GIB = 1 << 30
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
PINNED = Problem(AgentReason.VFIO, "a device is passed through")
INSTANCE = Instance(
    uid="u",
    namespace="shop",
    name="a",
    labels={"app": "shop"},
    pods=("p",),
    size=16 * GIB,
    overhead=GIB,
    pod_request=3 * GIB,
    target=6 * GIB,
    minimum=2 * GIB,
    policy="default",
    ineligibility=PINNED,
    hold=Problem(AgentReason.PAUSED, "it is paused"),
    owner_excluded=True,
    migratability=Migratability.EXTERNAL,
    method=ReclaimMethod.GUEST_AGENT,
    processors=InstanceProcessors(8, 6, "cpus", method=ProcessorMethod.DRIVER, ineligibility=PINNED),
)
STATISTICS = GuestStatistics(
    7 * GIB, 5.0, usable=1, unused=2, available=3, disk_caches=4, swap_in=5, swap_out=6, major_faults=7
)
VIEW = MemoryView(
    sample=DomainSample(size=16 * GIB, resident=9 * GIB, running=True, balloon=True, statistics=STATISTICS),
    need=Need(present=4 * GIB, fast=5.0 * GIB, slow=1.0, updated=5.0, troubled=True),
    working_set=WorkingSetPace(ability=SwapAbility.UNABLE),
)
EXPECTED = VirtualMachineReport(
    uid="u",
    namespace="shop",
    name="a",
    labels={"app": "shop"},
    size=16 * GIB,
    actual=7 * GIB,
    resident=9 * GIB,
    overhead=GIB,
    pod_request=3 * GIB,
    need=5 * GIB,
    present_need=4 * GIB,
    troubled=True,
    swap_ability=SwapAbility.UNABLE,
    min=2 * GIB,
    target=6 * GIB,
    target_since=SINCE,
    emergency_target=8 * GIB,
    policy="default",
    eligible=False,
    responsive=False,
    reason=AgentReason.VFIO,
    message="a device is passed through",
    owner_excluded=True,
    migratability=Migratability.EXTERNAL,
    requested_method=ReclaimMethod.GUEST_AGENT,
    method=ReclaimMethod.GUEST_AGENT,
    claimed=GIB // 2,
    freed_by=FreedBy.KSM,
    guest=GuestReport(available=3, usable=1, unused=2, disk_caches=4, swap_in=5, swap_out=6, major_faults=7),
    processors=ProcessorReport(
        size=8,
        online=7,
        offlinable=5,
        usage=250,
        target=6,
        policy="cpus",
        requested_method=ProcessorMethod.DRIVER,
        method=ProcessorMethod.GUEST_AGENT,
        eligible=False,
        responsive=False,
        reason=AgentReason.VFIO,
        message="a device is passed through",
    ),
)
# A VM has either all of its labels reported or not; and processors come back only where none are requested.
OF_OTHER_VMS = {"labels_cut", "returning"}


def reported() -> VirtualMachineReport:
    """The VM as the agent reports it; the two workers are stand-ins that know all that there is to know."""
    worker: Any = SimpleNamespace(
        instance=INSTANCE,
        view=VIEW,
        target_since=SINCE,
        emergency_target=8 * GIB,
        backing=SimpleNamespace(binding=True),
        read_resident=lambda: None,
    )
    program = SimpleNamespace(
        state=ReclaimState.PROGRAM_RECLAIMS, status=SimpleNamespace(locked=GIB // 2), freed_by=FreedBy.KSM
    )
    processors = SimpleNamespace(view=ProcessorView(7, 5, 250, ProcessorMethod.GUEST_AGENT), returning=True)
    guest_worker: Any = SimpleNamespace(instance=INSTANCE, guest_program=program, processors=processors)
    memory = HostMemory(64 * GIB, 32 * GIB, MemoryStall())
    node = NodeObservation(memory, NodeState.AMPLE, NodeLimits(StateThresholds(4, 3, 2, 1), reserve=4))
    (report,) = compose(node, [(worker, guest_worker)], [], SINCE).virtual_machines
    return report


def test_each_field_of_a_report_says_what_it_is_meant_for() -> None:
    assert reported() == EXPECTED


def test_each_figure_of_a_node_is_what_it_is_meant_for() -> None:
    memory = HostMemory(64 * GIB, 32 * GIB, MemoryStall(some=31.6, full=7.2), kubelet_available=30 * GIB)
    limits = NodeLimits(StateThresholds(4, 3, 2, 1), reserve=5)
    status = compose(NodeObservation(memory, NodeState.SCARCE, limits), [], [], SINCE)
    expected = NodeMemory(total=64 * GIB, available=30 * GIB, other=34 * GIB, reserve=5)
    assert (status.memory, status.state) == (expected, NodeState.SCARCE), "the kubelet evicts before the kernel swaps"
    assert (status.stall.some, status.stall.full) == (32, 7)


def test_no_field_of_a_report_is_forgotten() -> None:
    """What is expected has no default left: a field that is added, and filled nowhere, fails here."""
    for each in (EXPECTED, EXPECTED.guest, EXPECTED.processors):
        assert each is not None
        assert {
            name
            for name, field in type(each).model_fields.items()
            if not field.is_required() and getattr(each, name) == field.get_default(call_default_factory=True)
        } <= OF_OTHER_VMS
