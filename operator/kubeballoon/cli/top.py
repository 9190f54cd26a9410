"""This module is ``top``: it shows the memory and processors of nodes and VMs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus, VirtualMachineReport
from kubeballoon.cli.agent_words import FROM_THE_AGENT, decision_message
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.cluster_view import (
    ClusterView,
    parse_vm_name,
    read_node,
    read_nodes,
    read_policies,
)
from kubeballoon.cli.doubly_reported import without_false_reports
from kubeballoon.cli.output import Output, format_bytes, format_percent, warn
from kubeballoon.cli.processor_view import (
    HEADER,
    WIDE_HEADER,
    VMProcessors,
    decide_processors,
    processor_cells,
    view_processors,
)
from kubeballoon.cli.selector import parse_selector
from kubeballoon.cli.table import Cell, Column, Style, name, number
from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ApiError
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.vocabulary import NodeState

if TYPE_CHECKING:
    from kubeballoon.api.selector import LabelSelector
    from kubeballoon.cluster.reader import ApiReader
    from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan
    from kubeballoon.core.processors.model import ProcessorDecision

STATE_STYLES = {NodeState.TIGHT: Style.WARN, NodeState.SCARCE: Style.BAD, NodeState.CRITICAL: Style.BAD}


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
        node_policy: the NodePolicy that its agent carries out.
        shortfall: left out where it is not asked for, and so is ``risk``: both need a decision for all VMs.
        processors: left out if its agent does not report them.
        age: of its report, seconds.
    """

    name: str
    state: str
    node_policy: str | None = None
    total: int
    available: int
    other: int
    reserve: int
    capacity: int
    virtual_machines: int
    size: int
    reclaimed: int
    shortfall: int | None = None
    risk: int | None = None
    stall_some: int
    stall_full: int
    processors: NodeProcessorSummary | None = None
    age: int
    silent: bool
    released: bool
    agent_version: str


class VirtualMachineSummary(ApiModel):
    """A VirtualMachineSummary shows a VM's memory, bytes, and processors; fields that are not known are left out.

    Attributes:
        troubled: whether its guest swaps or refaults.
        problem: what the agent found wrong with it, in a word.
    """

    namespace: str
    name: str
    node: str
    policy: str | None = None
    size: int
    actual: int | None = None
    resident: int | None = None
    target: int | None = None
    troubled: bool
    problem: str | None = None
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


def summarize_nodes(view: ClusterView, *, decide: bool = True) -> Iterator[NodeSummary]:
    """Summarize each node whose agent has reported; without ``decide``, leave out what needs a decision."""
    for pressure, status in view.reporting_nodes():
        node = view.memory_node(pressure, status)
        plan = _decide_memory(node) if decide else None
        memory, vms = status.memory, status.virtual_machines
        yield NodeSummary(
            name=pressure.metadata.name,
            state=status.state,
            node_policy=None if status.limits is None else status.limits.policy,
            total=memory.total,
            available=memory.available,
            other=memory.other,
            reserve=memory.reserve,
            capacity=node.capacity,
            virtual_machines=len(vms),
            size=sum(vm.size for vm in vms),
            reclaimed=sum(vm.reclaimed for vm in vms),
            shortfall=None if plan is None else plan.shortfall,
            risk=None if plan is None else plan.risk,
            stall_some=status.stall.some,
            stall_full=status.stall.full,
            processors=_summarize_processors(view, pressure, status),
            age=int(view.report_age(status)),
            silent=view.is_silent(status),
            released=pressure.metadata.released,
            agent_version=status.agent_version,
        )


def _decide_memory(node: MemoryNode) -> MemoryPlan:
    from kubeballoon.core.memory.allocation import allocate_memory  # noqa: PLC0415 - numpy takes long to import

    return allocate_memory(node)


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
        shortfall=node.shortfall,
    )


def summarize_vms(
    view: ClusterView, namespace: str | None = None, policy: str | None = None, selector: LabelSelector | None = None
) -> Iterator[VirtualMachineSummary]:
    """Summarize the VMs of a namespace, that a policy governs, and that a selector selects; None stands for all."""
    for pressure, status in view.reporting_nodes():
        decisions = {each.vm.uid: each for each in _decide_memory(view.memory_node(pressure, status)).decisions}
        processor_decisions = decide_processors(view.processor_node(pressure, status))
        for report in status.virtual_machines:
            if namespace not in (None, report.namespace):
                continue
            if selector is not None and not selector.matches(report.labels):
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
        troubled=report.troubled,
        problem=None if report.reason is None else str(report.reason),
        min=decision.vm.minimum,
        demand=decision.vm.demand,
        reclaimed=report.reclaimed,
        reason=decision.reason,
        message=decision_message(report, decision),
        processors=view_processors(report, processor_decision),
    )


def _by_available(node: NodeSummary) -> tuple[object, ...]:
    return node.available, node.name


NODE_ORDERS: Mapping[str, Callable[[NodeSummary], tuple[object, ...]]] = {
    "name": lambda node: (node.name,),
    "state": lambda node: (-NodeState(node.state).severity, node.available / max(1, node.total), node.name),
    "available": _by_available,
    "memory": _by_available,
    "reclaimed": lambda node: (-node.reclaimed, node.name),
    "cpu": lambda node: (*((0, 0) if (cpus := node.processors) is None else (-cpus.stall, -cpus.usage)), node.name),
}

# What a VM's owner would call trouble, the worst first; other reasons are none.
_TROUBLES = (
    DecisionReason.UNRESPONSIVE,
    DecisionReason.WAITING,
    DecisionReason.WITHHOLDING,
    DecisionReason.DEMAND_UNKNOWN,
    DecisionReason.AT_MINIMUM,
)


def trouble(vm: VirtualMachineSummary) -> int:
    """Rank a VM by its trouble: 0 is the worst, and a VM whose guest swaps is worse than any that does not."""
    if vm.troubled:
        return 0
    reason = DecisionReason(vm.reason)
    return 1 + (_TROUBLES.index(reason) if reason in _TROUBLES else len(_TROUBLES))


VM_ORDERS: Mapping[str, Callable[[VirtualMachineSummary], tuple[object, ...]]] = {
    "name": lambda vm: (vm.namespace, vm.name),
    "trouble": lambda vm: (trouble(vm), -vm.reclaimed, vm.namespace, vm.name),
    "size": lambda vm: (-vm.size, vm.namespace, vm.name),
    "demand": lambda vm: (-vm.demand, vm.namespace, vm.name),
    "memory": lambda vm: (-(vm.size if vm.actual is None else vm.actual), vm.namespace, vm.name),
    "reclaimed": lambda vm: (-vm.reclaimed, vm.namespace, vm.name),
    "cpu": lambda vm: (-((vm.processors.usage or 0) if vm.processors is not None else 0), vm.namespace, vm.name),
}


def run(options: argparse.Namespace, reader: ApiReader, output: Output) -> ExitStatus:
    """Print nodes or VMs.

    Raises:
        ApiError: the cluster cannot be read, or there is no such node, VM or policy.
        WrongOptionError: the selector cannot be read.
    """
    selector = None if options.selector is None else parse_selector(options.selector)
    view = read_policies(reader)
    if options.resource == "nodes":
        decide = output.output_format not in (None, "name")  # the plain table shows nothing that needs a decision
        summaries = list(_read_node_summaries(options, reader, view, decide=decide))
        _print_nodes(sorted(summaries, key=NODE_ORDERS[options.sort_by]), output)
        return ExitStatus.DONE
    if options.policy not in (None, *(policy.metadata.name for policy in view.policies)):
        raise ApiError(f"there is no policy {options.policy}")
    vms, false_reports = without_false_reports(reader, _read_vm_summaries(options, reader, view, selector))
    for each in false_reports:
        warn(f"warning: {each}")
    is_document = output.output_format not in (None, "wide")
    _print_vms(sorted(vms, key=VM_ORDERS[options.sort_by or ("name" if is_document else "trouble")]), output)
    return ExitStatus.DONE


def _read_node_summaries(
    options: argparse.Namespace, reader: ApiReader, view: ClusterView, *, decide: bool
) -> Iterator[NodeSummary]:
    """Read and summarize the nodes that the options name or select, a page at a time, so that no report is kept."""
    selected: Collection[str] | None = None
    if options.selector is not None:  # reports have no labels of nodes
        selected = reader.names(paths.NODES, labelSelector=options.selector)
    for node in _read_named(options.names, reader):
        if selected is None or node.metadata.name in selected:
            yield from summarize_nodes(replace(view, nodes=(node,)), decide=decide)


def _read_named(names: Sequence[str], reader: ApiReader) -> Iterator[NodePressure]:
    """Read the NodePressures of these nodes; without names, of all.

    Raises:
        ApiError: no agent reports such a node.
    """
    if not names:
        yield from read_nodes(reader)
    for each in names:
        yield read_node(reader, each.rpartition("/")[2])


def _read_vm_summaries(
    options: argparse.Namespace, reader: ApiReader, view: ClusterView, selector: LabelSelector | None
) -> Iterator[VirtualMachineSummary]:
    """Read and summarize the VMs that the options name or select, a page at a time, so that no report is kept.

    Raises:
        ApiError: no agent reports such a node, or such a VM.
    """
    namespace = options.namespace or reader.namespace
    wanted = {parse_vm_name(each, namespace) for each in options.names}
    missing = set(wanted)
    # --node alone means all VMs of the node, not only those of the context's namespace.
    every = options.all_namespaces or wanted or (options.node is not None and options.namespace is None)
    for node in _read_named([] if options.node is None else [options.node], reader):
        for vm in summarize_vms(replace(view, nodes=(node,)), None if every else namespace, options.policy, selector):
            if not wanted or (vm.namespace, vm.name) in wanted:
                missing.discard((vm.namespace, vm.name))
                yield vm
    if missing:
        raise ApiError(f"no VM {' or '.join(map('/'.join, sorted(missing)))} runs on a node with an agent")


_NODE_HEADER = (
    *(name("NODE"), Column("STATE"), number("TOTAL", 3), number("AVAIL"), number("CAPACITY", 2), number("VMS")),
    *(number("SIZE"), number("RECLAIMED"), number("CPUS", 4), number("CPU%", 1), number("STALL%", 5), number("AGE")),
)
_WIDE_NODE_HEADER = (
    *(number("OTHER"), number("RESERVE"), number("MEM-STALL"), number("SHORTFALL"), number("RISK")),
    *(number("CPUS-RECLAIMED"), number("CPU-SHORTFALL"), Column("RELEASED"), Column("NODE-POLICY"), Column("AGENT")),
)


def _print_nodes(nodes: list[NodeSummary], output: Output) -> None:
    if output.print_document(NodeList(nodes=nodes), [f"node/{node.name}" for node in nodes]):
        return
    if not nodes:
        warn("no agent has reported such a node: do agents run on the nodes?")
        return
    header = [*_NODE_HEADER, *(_WIDE_NODE_HEADER if output.wide else ())]
    output.print_table(header, [_node_cells(node, wide=output.wide) for node in nodes])


def _node_cells(node: NodeSummary, *, wide: bool) -> list[str | Cell]:
    cpus = node.processors
    cells: list[str | Cell] = [
        node.name,
        Cell(node.state, STATE_STYLES.get(NodeState(node.state), Style.PLAIN)),
        *map(format_bytes, (node.total, node.available, node.capacity)),
        str(node.virtual_machines),
        *map(format_bytes, (node.size, node.reclaimed)),
        *(["-"] * 3 if cpus is None else [str(cpus.count), format_percent(cpus.usage), format_percent(cpus.stall)]),
        Cell(_format_age(node.age), Style.BAD if node.silent else Style.PLAIN),
    ]
    if wide:
        cells += [
            *map(format_bytes, (node.other, node.reserve)),
            f"{node.stall_some}%/{node.stall_full}%",
            Cell(format_bytes(node.shortfall), Style.BAD if node.shortfall else Style.PLAIN),
            format_bytes(node.risk),
            "-" if cpus is None else f"{cpus.reclaimed}/{cpus.size}",
            "-" if cpus is None else Cell(str(cpus.shortfall), Style.BAD if cpus.shortfall else Style.PLAIN),
            "yes" if node.released else "no",
            node.node_policy or "-",
            node.agent_version or "-",
        ]
    return cells


def _format_age(seconds: int) -> str:
    """Write an age as kubectl does: with the largest unit alone once it is two or more."""
    for unit, factor in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * factor:
            return f"{seconds // factor}{unit}"
    return f"{seconds}s"


_VM_HEADER = (
    *(name("NAMESPACE"), name("VM"), name("NODE", 5), number("SIZE"), number("ACTUAL"), number("TARGET", 1)),
    *(number("MIN", 3), number("DEMAND"), Column("REASON"), *HEADER),
)
_WIDE_VM_HEADER = (number("RESIDENT"), Column("POLICY"), *WIDE_HEADER, Column("MESSAGE"))


def _print_vms(vms: list[VirtualMachineSummary], output: Output) -> None:
    names = [f"virtualmachineinstance.kubevirt.io/{vm.name}" for vm in vms]
    if output.print_document(VirtualMachineList(virtual_machines=vms), names):
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
        Cell(reason_cell(vm), (Style.BAD, Style.WARN, Style.PLAIN)[min(2, trouble(vm))]),
        *cpu_cells[: len(HEADER)],
    ]
    if wide:
        cells += [format_bytes(vm.resident), vm.policy or "-", *cpu_cells[len(HEADER) :], vm.message]
    return cells


def reason_cell(vm: VirtualMachineSummary) -> str:
    """Say in a word how a VM fares: that it is troubled, what its agent found wrong, or its decision's reason."""
    if vm.troubled:
        return "Troubled"
    return vm.problem if vm.problem is not None and vm.reason in FROM_THE_AGENT else vm.reason
