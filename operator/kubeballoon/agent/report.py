"""This module composes the agent's report of its node: what NodePressure says."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from kubeballoon import __version__
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.reported_labels import ReportedLabels, bound_labels
from kubeballoon.agent.vm.guest_worker import GuestWorker
from kubeballoon.agent.vm.memory_view import MemoryView
from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.agent.vm.vmi import Instance, UnreadableVM
from kubeballoon.api.conditions import ConditionReason, ConditionType
from kubeballoon.api.meta import LONGEST_MESSAGE, Condition, ConditionStatus, set_conditions
from kubeballoon.api.names import LONGEST_NAME
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import (
    GuestReport,
    NodeLimitsReport,
    NodeMemory,
    NodePressureStatus,
    NodeProcessors,
    ProcessorReport,
    Stall,
    VirtualMachineReport,
)
from kubeballoon.core.formatting import counted, human, listed
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.node_state import NodeLimits
from kubeballoon.governance.report_bounds import clamp_to_size
from kubeballoon.governance.targets_in_force import memory_in_force
from kubeballoon.vocabulary import Migratability, NodeState, ReclaimMethod

_LARGEST_COUNT = (1 << 63) - 1  # the largest number that an API server takes; a guest's driver may report more


@dataclass(frozen=True, slots=True)
class NodeObservation:
    """A NodeObservation is what the agent found out about the node itself.

    Attributes:
        memory: the node's memory.
        state: how short of memory the node is.
        limits: where the node's states begin, and what is kept free.
        processors: the node's processors; None if the kernel does not tell.
        limits_report: the limits as they are reported, and where they come from; None to leave them out.
        labels: the Node's labels.
    """

    memory: HostMemory
    state: NodeState
    limits: NodeLimits
    processors: NodeProcessors | None = None
    limits_report: NodeLimitsReport | None = None
    labels: ReportedLabels = field(default_factory=ReportedLabels)


def compose(
    node: NodeObservation,
    workers: Iterable[tuple[MemoryWorker, GuestWorker | None]],
    conditions: Iterable[Condition],
    now: datetime,
    selected_by: Collection[str] = frozenset(),
    unreadable: Iterable[UnreadableVM] = (),
) -> NodePressureStatus:
    """Compose a report.

    Args:
        node: what is known of the node.
        workers: the memory worker of each VM, and its guest worker if it has one.
        conditions: those of the last report.
        now: the time of the report.
        selected_by: the keys of labels by which policies select VMs.
        unreadable: the VMs that have no worker because their objects cannot be read.
    """
    # A VM of which nothing is known is left out: its memory counts already as memory that others use.
    known = [each for each in workers if each[0].view.known]
    for worker, _ in known:
        worker.read_resident()
    bounded = [bound_labels(worker.instance.labels, selected_by, len(known)) for worker, _ in known]
    readable = map(_vm_report, *zip(*known, strict=True), bounded) if known else ()
    vms = sorted([*readable, *map(_unreadable_report, unreadable)], key=lambda vm: vm.uid)
    held = sum(map(_held_by_process, vms))
    memory, stall = node.memory, node.memory.stall
    return NodePressureStatus(
        observed_at=now,
        agent_version=__version__,
        labels=dict(node.labels.labels),
        labels_cut=node.labels.cut,
        memory=NodeMemory(
            total=memory.total,
            available=memory.least_available,
            other=max(0, memory.total - memory.least_available - held),
            reserve=node.limits.reserve,
        ),
        limits=node.limits_report,
        processors=node.processors,
        stall=Stall(some=round(stall.some), full=round(stall.full)),
        state=NodeState(node.state),
        virtual_machines=vms,
        conditions=set_conditions(conditions, [_ready(vms, now)]),
    )


def _held_by_process(vm: VirtualMachineReport) -> int:
    """Compute the part of a VM's resident memory that does not count as used by others, bytes.

    A process can map one page many times, and would seem to hold more than it does. So no more is left out than the VM
    is counted with: what its balloon leaves it, or a target above that, which the guest may have reached meanwhile.
    """
    held = vm.size if vm.actual is None else vm.held_of_node(vm.actual, as_claimed=vm.responsive)
    promised = min(vm.size, memory_in_force(vm).target or 0)
    return min(vm.resident or 0, max(held, promised) + vm.overhead)


def _ready(vms: list[VirtualMachineReport], now: datetime) -> Condition:
    lost = [f"{vm.namespace}/{vm.name}" for vm in vms if vm.reason is not None and vm.reason.connection_lost]
    return Condition(
        type=ConditionType.READY,
        status=ConditionStatus.FALSE if lost else ConditionStatus.TRUE,
        reason=ConditionReason.VIRTUAL_MACHINES_UNREACHABLE if lost else ConditionReason.REPORTING,
        message=f"no connection to {listed(lost)}" if lost else f"{counted(len(vms), 'VM')} on this node",
        last_transition_time=now,
    )


def _vm_report(
    memory_worker: MemoryWorker, guest_worker: GuestWorker | None, bounded: ReportedLabels
) -> VirtualMachineReport:
    """Report one VM. A guest can make its agent see anything: what does not fit into a report must hide no other VM."""
    try:
        report = _memory_report(memory_worker)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        instance, resident = memory_worker.instance, memory_worker.view.resident
        eligible = instance.ineligibility is None
        report = _bad_report(instance, resident, memory_worker.emergency_target, str(error), eligible=eligible)
    report = report.model_copy(update={"labels": bounded.labels, "labels_cut": bounded.cut})
    if guest_worker is None:
        return report
    processors = _processor_report(guest_worker)
    return report.model_copy(update={"processors": processors, **_method_fields(report, guest_worker)})


def _memory_report(worker: MemoryWorker) -> VirtualMachineReport:
    """Report a VM's memory. While a VM cannot be reached its last sample holds: nobody moves its balloon meanwhile."""
    instance, view = worker.instance, worker.view
    sample = view.sample
    size = sample.size if sample is not None else instance.size
    return VirtualMachineReport(
        uid=instance.uid,
        namespace=instance.namespace,
        name=instance.name,
        size=size,
        actual=None if sample is None else sample.statistics.actual,
        resident=view.resident if sample is None else sample.resident,
        overhead=instance.overhead,
        pod_request=clamp_to_size(instance.pod_request, size),
        need=None if view.need is None else view.need.value,
        present_need=None if view.need is None else view.need.present,
        troubled=view.need is not None and view.need.troubled,
        swap_ability=view.working_set.ability,
        min=clamp_to_size(instance.minimum, size),
        target=clamp_to_size(instance.target, size),
        target_since=worker.target_since,
        emergency_target=worker.emergency_target,
        policy=instance.policy,
        eligible=instance.ineligibility is None,
        responsive=instance.hold is None and instance.return_all is None and view.responsive,
        reason=_reason(instance, view),
        message=_shorten(describe(instance, view, binding=worker.backing.binding)),
        owner_excluded=instance.owner_excluded,
        migratability=instance.migratability,
        guest=None if sample is None or view.need is None else _guest_report(sample.statistics),
    )


def _bad_report(
    vm: Instance | VirtualMachineReport, resident: int | None, emergency_target: int | None, why: str, *, eligible: bool
) -> VirtualMachineReport:
    """Report of a VM only what its object and the node's kernel say, for the rest does not fit into a report.

    Args:
        vm: the VM's object, or a report that was refused.
        resident: the node's memory that the VM's process holds, bytes; None if it is not known.
        emergency_target: the agent's own target, bytes. It is read back from the report: left out, it would end.
        why: what does not fit.
        eligible: whether the VM may be ballooned.
    """
    size = min(vm.size, _LARGEST_COUNT)
    return VirtualMachineReport(
        uid=vm.uid,
        namespace=vm.namespace,
        name=vm.name,
        size=size,
        resident=_clamp_count(resident),
        overhead=min(vm.overhead, _LARGEST_COUNT),
        pod_request=clamp_to_size(vm.pod_request, size),
        target=clamp_to_size(vm.target, size),
        emergency_target=clamp_to_size(emergency_target, size),
        policy=vm.policy if len(vm.policy or "") <= LONGEST_NAME else None,
        eligible=eligible,
        responsive=False,
        reason=AgentReason.BAD_REPORT,
        message=_shorten(f"what the agent sees of it does not fit into a report: {' '.join(why.split())}"),
        owner_excluded=vm.owner_excluded,
        migratability=vm.migratability,
    )


def _unreadable_report(vm: UnreadableVM) -> VirtualMachineReport:
    """Name a VM whose object cannot be read.

    It has no size, so that it claims nothing of the node. What its process holds counts as memory that others use.
    """
    reason, message = vm.problem
    return VirtualMachineReport(
        uid=vm.uid,
        namespace=vm.namespace,
        name=vm.name,
        labels_cut=True,
        size=0,
        eligible=False,
        responsive=False,
        reason=reason,
        message=_shorten(message),
        migratability=Migratability.NOT_MIGRATABLE,
    )


def refused_report(report: VirtualMachineReport, why: str) -> VirtualMachineReport:
    """Report of a VM only what is short and certain, because the API server refused the rest, or would."""
    bad = _bad_report(report, report.resident, report.emergency_target, why, eligible=report.eligible)
    return bad.model_copy(update={"labels_cut": True})


def _reason(instance: Instance, view: MemoryView) -> AgentReason | None:
    problem = instance.obstacle or view.problem
    if problem is not None:
        return problem.reason
    return None if view.pace.responsive else AgentReason.UNRESPONSIVE


def describe(instance: Instance, view: MemoryView, *, binding: bool) -> str | None:
    """Explain why a VM has the memory that it has; None if there is nothing to explain.

    Args:
        instance: the VM.
        view: what is known of its memory.
        binding: whether its requests are followed.
    """
    problem = instance.obstacle or view.problem
    if problem is not None:
        return problem.message
    held = view.sample.statistics.actual if view.sample is not None else 0
    if not view.pace.responsive:
        return f"its driver does not follow requests: it holds {human(held)}"
    if view.excess:
        return f"its guest has nothing more to give: it holds {human(held)}, {human(view.excess)} above its request"
    if instance.target is not None and not binding:
        return "no policy asks anything of it: its request is not followed"
    return instance.explanation


def _method_fields(report: VirtualMachineReport, worker: GuestWorker) -> dict[str, object]:
    """Report what reclaims a VM's memory, and how the node gets it back."""
    program = worker.guest_program
    fields: dict[str, object] = {"requested_method": worker.instance.method}
    if program.state.program_in_charge:
        return {
            **fields,
            "method": ReclaimMethod.GUEST_AGENT,
            "claimed": None if program.status is None else clamp_to_size(program.status.locked, report.size),
            "freed_by": program.freed_by,
        }
    if report.reason is not None and report.reason.no_reclaim_method:
        return {**fields, "eligible": False}
    return {**fields, "method": None if report.need is None else ReclaimMethod.BALLOON}


def _processor_report(worker: GuestWorker) -> ProcessorReport:
    instance, request, view = worker.instance, worker.instance.processors, worker.processors.view
    obstacle = instance.hold or request.unreadable or view.problem
    problem = request.ineligibility or obstacle
    message = request.explanation if problem is None else problem.message
    return ProcessorReport(
        size=request.size,
        online=view.online,
        offlinable=view.offlinable,
        usage=view.usage,
        target=clamp_to_size(request.target, request.size),
        returning=request.target is None and worker.processors.returning,
        policy=request.policy,
        requested_method=request.method,
        method=view.method,
        eligible=request.ineligibility is None,
        responsive=obstacle is None or not obstacle.reason.processors_stay,
        reason=None if problem is None else problem.reason,
        message=_shorten(message),
    )


def _guest_report(statistics: GuestStatistics) -> GuestReport:
    return GuestReport(
        available=statistics.available,
        usable=statistics.usable,
        unused=statistics.unused,
        disk_caches=statistics.disk_caches,
        swap_in=statistics.swap_in,
        swap_out=statistics.swap_out,
        major_faults=_clamp_count(statistics.major_faults),
    )


def _clamp_count(number: int | None) -> int | None:
    """Clamp a number to what the API server takes."""
    return None if number is None else min(number, _LARGEST_COUNT)


def _shorten(message: str | None) -> str | None:
    return None if message is None else message[:LONGEST_MESSAGE]
