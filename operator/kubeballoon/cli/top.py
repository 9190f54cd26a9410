"""This module is ``top``: it shows the memory and processors of nodes and VMs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from kubeballoon.api.duration import format_duration
from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, VirtualMachineReport
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.cluster_view import ClusterView, read_cluster
from kubeballoon.cli.output import Cell, Output, Style, format_bytes, format_percent, warn
from kubeballoon.cli.processor_view import (
    HEADER,
    WIDE_HEADER,
    VMProcessors,
    decide_processors,
    processor_cells,
    view_processors,
)
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import ProcessorDecision
from kubeballoon.vocabulary import NodeState

_STYLES = {NodeState.TIGHT: Style.WARN, NodeState.SCARCE: Style.BAD, NodeState.CRITICAL: Style.BAD}


class NodeProcessorSummary(ApiModel):
    """A NodeProcessorSummary shows a node's processors in one row; usage and stall are percentages.

    Attributes:
        count: the node's processors.
        size: the processors that its VMs were given.
        reclaimed: how many of these the VMs are without.
    """

    count: int
    usage: int
    stall: int
    size: int
    reclaimed: int
    shortfall: int


class NodeSummary(ApiModel):
    """A NodeSummary shows a node's memory in one row, bytes.

    Attributes:
        processors: left out if its agent does not report them.
        age: of its report, seconds.
    """

    name: str
    state: str
    total: int
    available: int
    other: int
    reserve: int
    capacity: int
    virtual_machines: int
    size: int
    reclaimed: int
    shortfall: int
    risk: int
    stall_some: int
    stall_full: int
    processors: NodeProcessorSummary | None = None
    age: int
    silent: bool
    released: bool
    agent_version: str


class VirtualMachineSummary(ApiModel):
    """A VirtualMachineSummary shows a VM's memory, bytes, and processors; fields that are not known are left out."""

    namespace: str
    name: str
    node: str
    policy: str | None = None
    size: int
    actual: int | None = None
    resident: int | None = None
    target: int | None = None
    min: int
    demand: int
    reclaimed: int
    reason: str
    message: str
    processors: VMProcessors | None = None


class NodeList(ApiModel):
    """A NodeList is the document that ``top nodes`` prints."""

    nodes: list[NodeSummary]


class VirtualMachineList(ApiModel):
    """A VirtualMachineList is the document that ``top vms`` prints."""

    virtual_machines: list[VirtualMachineSummary]


def summarize_nodes(view: ClusterView) -> Iterator[NodeSummary]:
    """Summarize each node whose agent has reported."""
    for pressure, status in view.reporting_nodes():
        node = view.memory_node(pressure, status)
        plan = allocate_memory(node)
        memory, vms = status.memory, status.virtual_machines
        yield NodeSummary(
            name=pressure.metadata.name,
            state=status.state,
            total=memory.total,
            available=memory.available,
            other=memory.other,
            reserve=memory.reserve,
            capacity=node.capacity,
            virtual_machines=len(vms),
            size=sum(vm.size for vm in vms),
            reclaimed=sum(vm.reclaimed for vm in vms),
            shortfall=plan.shortfall,
            risk=plan.risk,
            stall_some=status.stall.some,
            stall_full=status.stall.full,
            processors=_summarize_processors(view, pressure, status),
            age=int(view.report_age(status)),
            silent=view.is_silent(status),
            released=pressure.metadata.released,
            agent_version=status.agent_version,
        )


def _summarize_processors(
    view: ClusterView, pressure: NodePressure, status: NodePressureStatus
) -> NodeProcessorSummary | None:
    node, report, vms = view.processor_node(pressure, status), status.processors, status.virtual_machines
    if node is None or report is None:
        return None
    return NodeProcessorSummary(
        count=report.count,
        usage=report.usage,
        stall=report.stall,
        size=sum(vm.processors.size for vm in vms if vm.processors is not None),
        reclaimed=sum(vm.processors_reclaimed for vm in vms),
        shortfall=allocate_processors(node).shortfall,
    )


def summarize_vms(
    view: ClusterView, namespace: str | None, node: str | None, policy: str | None
) -> Iterator[VirtualMachineSummary]:
    """Summarize the VMs of a namespace, on a node, that a policy governs; None stands for all."""
    for pressure, status in view.reporting_nodes():
        if node not in (None, pressure.metadata.name):
            continue
        decisions = {each.vm.uid: each for each in allocate_memory(view.memory_node(pressure, status)).decisions}
        processor_decisions = decide_processors(view.processor_node(pressure, status))
        for report in status.virtual_machines:
            if namespace not in (None, report.namespace):
                continue
            vm = _summarize_vm(
                report, pressure.metadata.name, decisions[report.uid], processor_decisions.get(report.uid)
            )
            if policy in (None, vm.policy, None if vm.processors is None else vm.processors.policy):
                yield vm


def _summarize_vm(
    report: VirtualMachineReport, node: str, decision: MemoryDecision, processor_decision: ProcessorDecision | None
) -> VirtualMachineSummary:
    return VirtualMachineSummary(
        namespace=report.namespace,
        name=report.name,
        node=node,
        policy=None if decision.vm.policy is None else decision.vm.policy.name,
        size=report.size,
        actual=report.actual,
        resident=report.resident,
        target=report.target,
        min=decision.vm.minimum,
        demand=decision.vm.demand,
        reclaimed=report.reclaimed,
        reason=decision.reason,
        message=decision.message,
        processors=view_processors(report, processor_decision),
    )


_NODE_ORDERS: dict[str, Callable[[NodeSummary], tuple[object, ...]]] = {
    "name": lambda node: (node.name,),
    "state": lambda node: (-NodeState(node.state).severity, node.available / max(1, node.total), node.name),
    "available": lambda node: (node.available, node.name),
    "reclaimed": lambda node: (-node.reclaimed, node.name),
    "cpu": lambda node: (*((0, 0) if (cpus := node.processors) is None else (-cpus.stall, -cpus.usage)), node.name),
}
_VM_ORDERS: dict[str, Callable[[VirtualMachineSummary], tuple[object, ...]]] = {
    "name": lambda vm: (vm.namespace, vm.name),
    "size": lambda vm: (-vm.size, vm.namespace, vm.name),
    "demand": lambda vm: (-vm.demand, vm.namespace, vm.name),
    "reclaimed": lambda vm: (-vm.reclaimed, vm.namespace, vm.name),
    "cpu": lambda vm: (-((vm.processors.usage or 0) if vm.processors is not None else 0), vm.namespace, vm.name),
}


async def run(options: argparse.Namespace, client: ApiClient, output: Output) -> ExitStatus:
    """Print nodes or VMs.

    Raises:
        ApiError: the cluster cannot be read, or there is no such node or policy.
    """
    view = await read_cluster(client)
    if options.resource == "nodes":
        _print_nodes(sorted(summarize_nodes(view), key=_NODE_ORDERS[options.sort_by]), output)
        return ExitStatus.DONE
    if options.node is not None and options.node not in {node.metadata.name for node in view.nodes}:
        raise ApiError(f"no agent reports a node {options.node}")
    if options.policy not in (None, *(policy.metadata.name for policy in view.policies)):
        raise ApiError(f"there is no policy {options.policy}")
    # --node alone means all VMs of the node, not only those of the context's namespace.
    every_namespace = options.all_namespaces or (options.node is not None and options.namespace is None)
    namespace = None if every_namespace else options.namespace or client.namespace
    vms = summarize_vms(view, namespace, options.node, options.policy)
    _print_vms(sorted(vms, key=_VM_ORDERS[options.sort_by]), output)
    return ExitStatus.DONE


_NODE_HEADER = (
    *("NODE", "STATE", "TOTAL", "AVAILABLE", "CAPACITY", "VMS", "SIZE", "RECLAIMED"),
    *("CPUS", "CPU USAGE", "CPU STALL", "REPORTED"),
)
_WIDE_NODE_HEADER = (
    *("OTHER", "RESERVE", "STALL", "SHORTFALL", "RISK"),
    *("CPUS RECLAIMED", "CPU SHORTFALL", "RELEASED", "AGENT"),
)


def _print_nodes(nodes: list[NodeSummary], output: Output) -> None:
    if output.print_document(NodeList(nodes=nodes)):
        return
    if not nodes:
        warn("no agent has reported: do agents run on the nodes?")
        return
    header = [*_NODE_HEADER, *(_WIDE_NODE_HEADER if output.wide else ())]
    output.print_table(header, [_node_cells(node, wide=output.wide) for node in nodes])


def _node_cells(node: NodeSummary, *, wide: bool) -> list[str | Cell]:
    cpus = node.processors
    cells: list[str | Cell] = [
        node.name,
        Cell(node.state, _STYLES.get(NodeState(node.state), Style.PLAIN)),
        *map(format_bytes, (node.total, node.available, node.capacity)),
        str(node.virtual_machines),
        *map(format_bytes, (node.size, node.reclaimed)),
        *(["-"] * 3 if cpus is None else [str(cpus.count), format_percent(cpus.usage), format_percent(cpus.stall)]),
        Cell(f"{format_duration(node.age)} ago", Style.BAD if node.silent else Style.PLAIN),
    ]
    if wide:
        cells += [
            *map(format_bytes, (node.other, node.reserve)),
            f"{node.stall_some}%/{node.stall_full}%",
            Cell(format_bytes(node.shortfall), Style.BAD if node.shortfall else Style.PLAIN),
            format_bytes(node.risk),
            "-" if cpus is None else f"{cpus.reclaimed} of {cpus.size}",
            "-" if cpus is None else Cell(str(cpus.shortfall), Style.BAD if cpus.shortfall else Style.PLAIN),
            "yes" if node.released else "no",
            node.agent_version or "-",
        ]
    return cells


_VM_HEADER = ("NAMESPACE", "VM", "NODE", "SIZE", "ACTUAL", "TARGET", "MIN", "DEMAND", "REASON", *HEADER)
_WIDE_VM_HEADER = ("RESIDENT", "POLICY", *WIDE_HEADER, "MESSAGE")


def _print_vms(vms: list[VirtualMachineSummary], output: Output) -> None:
    if output.print_document(VirtualMachineList(virtual_machines=vms)):
        return
    if not vms:
        warn("no such VM runs on a node with an agent (-A looks into all namespaces)")
        return
    header = [*_VM_HEADER, *(_WIDE_VM_HEADER if output.wide else ())]
    output.print_table(header, [_vm_cells(vm, wide=output.wide) for vm in vms])


def _vm_cells(vm: VirtualMachineSummary, *, wide: bool) -> list[str | Cell]:
    cpu_cells = processor_cells(vm.processors)
    cells: list[str | Cell] = [
        *(vm.namespace, vm.name, vm.node),
        *map(format_bytes, (vm.size, vm.actual, vm.target)),
        "-" if vm.policy is None else format_bytes(vm.min),
        format_bytes(vm.demand),
        Cell(vm.reason, Style.WARN if vm.reason == DecisionReason.UNRESPONSIVE else Style.PLAIN),
        *cpu_cells[: len(HEADER)],
    ]
    if wide:
        cells += [format_bytes(vm.resident), vm.policy or "-", *cpu_cells[len(HEADER) :], vm.message]
    return cells
