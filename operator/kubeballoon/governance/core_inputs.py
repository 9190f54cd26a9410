"""This module translates a node's report into the core's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import NodePressureStatus, ProcessorReport, VirtualMachineReport
from kubeballoon.core.memory.model import COOL_DOWN, MemoryNode, MemoryVM
from kubeballoon.core.processors.model import ProcessorNode, ProcessorPressure, ProcessorVM
from kubeballoon.governance.exclusion import memory_exclusion, processor_exclusion
from kubeballoon.governance.loaded_policy import LoadedMemoryPolicy, LoadedProcessorPolicy
from kubeballoon.governance.report_bounds import clamp_memory, clamp_processors, clamp_to_size
from kubeballoon.governance.targets_in_force import TargetInForce, memory_in_force, processors_in_force
from kubeballoon.vocabulary import AgentAction

_NOTHING_WRITTEN: Mapping[str, TargetInForce] = {}


def memory_node(
    name: str,
    status: NodePressureStatus,
    governing: Callable[[VirtualMachineReport], LoadedMemoryPolicy | None],
    written: Mapping[str, TargetInForce] = _NOTHING_WRITTEN,
    cool_down: float = COOL_DOWN,
    *,
    released: bool = False,
) -> MemoryNode:
    """Translate a node and the memory of its VMs.

    Args:
        name: the node's name.
        status: what the node's agent reports.
        governing: finds the policy that governs a VM; None if none does.
        written: what the controller wrote last on VMs, by uid; for other VMs the report says what is requested.
        cool_down: seconds in which a target keeps its direction.
        released: whether an administrator released the node.
    """
    memory = status.memory
    return MemoryNode(
        name=name,
        total=clamp_memory(memory.total),
        available=clamp_memory(memory.available),
        other=clamp_memory(memory.other),
        reserve=clamp_memory(memory.reserve),
        state=status.state,
        cool_down=cool_down,
        vms=tuple(
            memory_vm(report, governing(report), written.get(report.uid), status.observed_at, node_released=released)
            for report in status.virtual_machines
        ),
    )


def memory_vm(
    report: VirtualMachineReport,
    policy: LoadedMemoryPolicy | None,
    written: TargetInForce | None = None,
    observed_at: datetime | None = None,
    *,
    node_released: bool = False,
) -> MemoryVM:
    """Translate the memory of one VM.

    Args:
        report: the VM as its node's agent reports it.
        policy: the policy that governs the VM; None if none does.
        written: what the controller wrote last on the VM; None if the report says what is requested.
        observed_at: the date of the report; None if it is not known.
        node_released: whether an administrator released the VM's node.
    """
    excluded = memory_exclusion(report, None if policy is None else policy.resource, node_released=node_released)
    in_force = memory_in_force(report, written, observed_at)
    size = clamp_memory(report.size)
    return MemoryVM(
        uid=report.uid,
        name=f"{report.namespace}/{report.name}",
        size=size,
        actual=clamp_memory(_held(report)),
        overhead=clamp_memory(report.overhead),
        need=clamp_to_size(report.need, size),
        present_need=clamp_to_size(report.present_need, size),
        target=clamp_to_size(in_force.target, size),
        troubled=report.troubled,
        excluded=None if excluded is None else excluded.message,
        responsive=report.responsive,
        policy=None if policy is None else policy.terms,
        last_change=in_force.change,
        agent_action=_memory_action(report),
        swap_ability=report.swap_ability,
        pod_request=clamp_to_size(report.pod_request, size),
        pooled=report.pooled,
        untouched=_untouched(report),
    )


def _untouched(report: VirtualMachineReport) -> int:
    """Say how much of what a VM is left its process does not hold, bytes; 0 where that is not known."""
    if report.actual is None or report.resident is None:
        return 0
    return max(0, clamp_memory(_held(report)) - max(0, clamp_memory(report.resident) - clamp_memory(report.overhead)))


def _memory_action(report: VirtualMachineReport) -> AgentAction:
    """Say what the agent does about a VM's memory, as the reason that it reports tells."""
    if not report.eligible:
        return AgentAction.RETURNS_ALL  # whatever the reason: the agent returns all memory to a VM it may not balloon
    return AgentAction.FOLLOWS if report.reason is None else report.reason.memory


def _held(report: VirtualMachineReport) -> int:
    """Say how much of the node's memory a VM holds, bytes; its whole size while its agent has not looked at it."""
    if report.actual is None:
        return report.size
    return report.held_of_node(report.actual, as_claimed=report.responsive)


def processor_node(
    name: str,
    status: NodePressureStatus,
    governing: Callable[[VirtualMachineReport], LoadedProcessorPolicy | None],
    written: Mapping[str, TargetInForce] = _NOTHING_WRITTEN,
    *,
    released: bool = False,
) -> ProcessorNode | None:
    """Translate a node and the processors of its VMs; None if the node's agent does not report processors.

    Args:
        name: the node's name.
        status: what the node's agent reports.
        governing: finds the policy that governs a VM; None if none does.
        written: what the controller wrote last on VMs, by uid; for other VMs the report says what is requested.
        released: whether an administrator released the node.
    """
    if status.processors is None:
        return None
    return ProcessorNode(
        name=name,
        count=clamp_processors(status.processors.count),
        pressure=ProcessorPressure(status.processors.stall, status.processors.usage),
        vms=tuple(
            _processor_vm(report, governing(report), written.get(report.uid), node_released=released)
            for report in status.virtual_machines
        ),
    )


def _processor_vm(
    report: VirtualMachineReport,
    policy: LoadedProcessorPolicy | None,
    written: TargetInForce | None,
    *,
    node_released: bool,
) -> ProcessorVM:
    processors = report.processors or ProcessorReport(size=1)  # a placeholder: such a VM is excluded in the next line
    size = clamp_processors(processors.size)
    excluded = processor_exclusion(report, None if policy is None else policy.resource, node_released=node_released)
    in_force = processors_in_force(report, written)
    return ProcessorVM(
        uid=report.uid,
        name=f"{report.namespace}/{report.name}",
        size=size,
        online=clamp_to_size(processors.online, size),
        target=clamp_to_size(in_force.target, size),
        excluded=None if excluded is None else excluded.message,
        dedicated=processors.reason is AgentReason.DEDICATED_CPU,
        responsive=processors.responsive,
        policy=None if policy is None else policy.terms,
        last_change=in_force.change,
    )
