"""The agent's report: what NodePressure says, and whether it says anything new."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from kubeballoon import __version__
from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.problem import Problem
from kubeballoon.agent.vm import guest_worker
from kubeballoon.agent.vm.memory_worker import MemoryView, MemoryWorker, describe
from kubeballoon.api.meta import LONGEST_MESSAGE, Condition, Status, set_conditions
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import GuestReport, NodeMemory, NodePressureStatus, Stall, VirtualMachineReport
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.node_state import StateThresholds
from kubeballoon.core.wording import listed
from kubeballoon.vocabulary import NodeState

_NEWS = 100  # a figure is news when it moved by this part of its whole
_LOST = (AgentReason.HUNG, AgentReason.UNREACHABLE)
_LARGEST = (1 << 63) - 1  # number an API server takes; a driver may say more
BAD_REPORT = AgentReason.BAD_REPORT


def compose(
    memory: HostMemory,
    state: NodeState,
    limits: StateThresholds,
    vms: Iterable[MemoryWorker],
    conditions: Iterable[Condition],
    now: datetime,
) -> NodePressureStatus:
    """The report as of ``now``; ``conditions`` are those of the last one."""
    # One that nobody has looked at yet would count twice: as a whole, and in what others use.
    reports = sorted((_told(worker) for worker in vms if worker.view.known), key=lambda report: report.uid)
    held = sum((report.resident or 0) for report in reports)
    lost = [f"{report.namespace}/{report.name}" for report in reports if report.reason in _LOST]
    ready = Condition(
        type="Ready",
        status=Status.FALSE if lost else Status.TRUE,
        reason="VirtualMachinesUnreachable" if lost else "Reporting",
        message=f"no connection to {listed(lost)}" if lost else f"{len(reports)} VMs on this node",
        last_transition_time=now,
    )
    return NodePressureStatus(
        observed_at=now,
        agent_version=__version__,
        memory=NodeMemory(
            total=memory.total,
            available=memory.available,
            other=max(0, memory.total - memory.available - held),
            reserve=limits.ample,
        ),
        stall=Stall(some=round(memory.stall.some), full=round(memory.stall.full)),
        state=NodeState(state),
        virtual_machines=reports,
        conditions=set_conditions(conditions, [ready]),
    )


def is_news(before: NodePressureStatus | None, now: NodePressureStatus) -> bool:
    """Whether the controller could decide otherwise because of what changed."""
    if before is None or before.state is not now.state or before.conditions != now.conditions:
        return True
    if guest_worker.is_news(before, now):
        return True
    whole = now.memory.total
    figures = ("available", "other", "reserve", "total")
    if any(moved(getattr(before.memory, name), getattr(now.memory, name), whole) for name in figures):
        return True
    known = {report.uid: report for report in before.virtual_machines}
    return len(known) != len(now.virtual_machines) or any(
        _is_vm_news(known.get(report.uid), report) for report in now.virtual_machines
    )


def _is_vm_news(before: VirtualMachineReport | None, now: VirtualMachineReport) -> bool:
    if before is None:
        return True
    figures = ("actual", "resident", "need", "present_need")
    ignored = {*figures, "guest", "message", "processors"}
    if before.model_dump(exclude=ignored) != now.model_dump(exclude=ignored):
        return True
    return any(moved(getattr(before, name), getattr(now, name), now.size) for name in figures)


def moved(before: int | None, now: int | None, whole: int) -> bool:
    """Whether a figure is news, being a part of ``whole``."""
    if before is None or now is None:
        return before is not now
    return abs(before - now) * _NEWS > whole


def _told(worker: MemoryWorker) -> VirtualMachineReport:
    """One VM, whatever it makes its node's agent see: what cannot be told of one is told of no other."""
    try:
        return _vm(worker)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        instance = worker.instance
        return VirtualMachineReport(
            uid=instance.uid,
            namespace=instance.namespace,
            name=instance.name,
            labels=dict(instance.labels),
            size=instance.size,
            resident=worker.view.resident,
            overhead=instance.overhead,
            target=_within(instance.target, instance.size),
            policy=instance.policy,
            eligible=instance.ineligibility is None,
            responsive=False,
            reason=BAD_REPORT,
            message=f"what is seen of it cannot be reported: {' '.join(str(error).split())}"[:LONGEST_MESSAGE],
            owner_excluded=instance.owner_excluded,
        )


def _vm(worker: MemoryWorker) -> VirtualMachineReport:
    """One VM. Of one that cannot be reached the last that was seen holds: nobody moves its balloon meanwhile."""
    instance, view = worker.instance, worker.view
    sample = view.sample
    message = describe(instance, view, bound=worker.authorization.bound)
    kept = instance.hold or instance.return_all
    size = sample.size if sample is not None else instance.size
    return VirtualMachineReport(
        uid=instance.uid,
        namespace=instance.namespace,
        name=instance.name,
        labels=dict(instance.labels),
        size=size,
        actual=None if sample is None else sample.statistics.actual,
        resident=view.resident if sample is None else sample.resident,
        overhead=instance.overhead,
        need=None if view.need is None else view.need.value,
        present_need=None if view.need is None else view.need.present,
        troubled=view.need is not None and view.need.troubled,
        min=_within(instance.minimum, size),
        target=_within(instance.target, size),
        emergency_target=worker.emergency_target,
        policy=instance.policy,
        eligible=instance.ineligibility is None,
        responsive=kept is None and view.responsive,
        reason=_reason(view, instance.ineligibility or kept),
        message=None if message is None else message[:LONGEST_MESSAGE],
        owner_excluded=instance.owner_excluded,
        guest=None if sample is None or view.need is None else _guest(sample.statistics),
    )


def _within(request: int | None, size: int) -> int | None:
    """What a request comes to for a VM of ``size`` bytes: annotations may ask for anything."""
    return None if request is None else min(request, size)


def _reason(view: MemoryView, barred: Problem | None) -> AgentReason | None:
    if barred is not None:
        return barred.reason
    if view.problem is not None:
        return view.problem.reason
    return None if view.pace.responsive else AgentReason.UNRESPONSIVE


def _guest(statistics: GuestStatistics) -> GuestReport:
    return GuestReport(
        available=statistics.available,
        usable=statistics.usable,
        unused=statistics.unused,
        disk_caches=statistics.disk_caches,
        swap_in=statistics.swap_in,
        swap_out=statistics.swap_out,
        major_faults=None if statistics.major_faults is None else min(statistics.major_faults, _LARGEST),
    )
