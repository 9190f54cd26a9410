"""``top``: the memory and processors of nodes and VMs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from kubeballoon.api.duration import format_duration
from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import NodePressure, NodePressureStatus
from kubeballoon.cli import processors
from kubeballoon.cli.arguments import Exit
from kubeballoon.cli.cluster_view import ClusterView, read_cluster
from kubeballoon.cli.output import Cell, Output, Style, size, warn
from kubeballoon.cli.processors import VMProcessors, percent
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.vocabulary import NodeState

_STYLES = {NodeState.TIGHT: Style.WARN, NodeState.SCARCE: Style.BAD, NodeState.CRITICAL: Style.BAD}


class NodeProcessorLine(ApiModel):
    """A node's processors: usage and stall in percent, and what its VMs were given and are without."""

    count: int
    usage: int
    stall: int
    size: int
    reclaimed: int
    shortfall: int


class NodeLine(ApiModel):
    """A node's memory, bytes, and processors, left out where not reported; the age of its report in seconds."""

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
    processors: NodeProcessorLine | None = None
    age: int
    silent: bool
    released: bool
    agent_version: str


class VirtualMachineLine(ApiModel):
    """A VM's memory, bytes, and processors; what is not known is left out."""

    namespace: str
    name: str
    node: str
    policy: str | None = None
    size: int
    actual: int | None = None
    resident: int | None = None
    target: int | None = None
    min: int
    demand: int | None = None
    reclaimed: int
    reason: str
    message: str
    processors: VMProcessors | None = None


class NodeList(ApiModel):
    """All nodes."""

    nodes: list[NodeLine]


class VirtualMachineList(ApiModel):
    """All VMs asked for."""

    virtual_machines: list[VirtualMachineLine]


def nodes(sight: ClusterView) -> Iterator[NodeLine]:
    """The nodes whose agents have reported."""
    for pressure, status in sight.reported():
        node = sight.core(pressure, status)
        plan = allocate_memory(node)
        memory, vms = status.memory, status.virtual_machines
        yield NodeLine(
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
            processors=_node_processors(sight, pressure, status),
            age=int(sight.age(status)),
            silent=sight.silent(status),
            released=pressure.metadata.released,
            agent_version=status.agent_version,
        )


def _node_processors(
    sight: ClusterView, pressure: NodePressure, status: NodePressureStatus
) -> NodeProcessorLine | None:
    node, seen, vms = sight.processors(pressure, status), status.processors, status.virtual_machines
    if node is None or seen is None:
        return None
    return NodeProcessorLine(
        count=seen.count,
        usage=seen.usage,
        stall=seen.stall,
        size=sum(vm.processors.size for vm in vms if vm.processors is not None),
        reclaimed=sum(vm.processors_reclaimed for vm in vms),
        shortfall=allocate_processors(node).shortfall,
    )


def vms(sight: ClusterView, namespace: str | None, node: str | None) -> Iterator[VirtualMachineLine]:
    """The VMs of a namespace, a node, or all (None)."""
    for pressure, status in sight.reported():
        if node not in (None, pressure.metadata.name):
            continue
        decisions = {decision.vm.uid: decision for decision in allocate_memory(sight.core(pressure, status)).decisions}
        cpus = processors.decisions(sight.processors(pressure, status))
        for report in status.virtual_machines:
            if namespace not in (None, report.namespace):
                continue
            decision: MemoryDecision = decisions[report.uid]
            yield VirtualMachineLine(
                namespace=report.namespace,
                name=report.name,
                node=pressure.metadata.name,
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
                processors=processors.view(report, cpus.get(report.uid)),
            )


_NODE_ORDERS: dict[str, Callable[[NodeLine], tuple[object, ...]]] = {
    "name": lambda node: (node.name,),
    "state": lambda node: (-NodeState(node.state).severity, node.available / max(1, node.total), node.name),
    "available": lambda node: (node.available, node.name),
    "reclaimed": lambda node: (-node.reclaimed, node.name),
    "cpu": lambda node: (*((0, 0) if (cpus := node.processors) is None else (-cpus.stall, -cpus.usage)), node.name),
}
_VM_ORDERS: dict[str, Callable[[VirtualMachineLine], tuple[object, ...]]] = {
    "name": lambda vm: (vm.namespace, vm.name),
    "size": lambda vm: (-vm.size, vm.namespace, vm.name),
    "demand": lambda vm: (-(vm.demand or 0), vm.namespace, vm.name),
    "reclaimed": lambda vm: (-vm.reclaimed, vm.namespace, vm.name),
    "cpu": lambda vm: (-((vm.processors.usage or 0) if vm.processors is not None else 0), vm.namespace, vm.name),
}


async def run(options: argparse.Namespace, cluster: ApiClient, output: Output) -> Exit:
    """Print nodes or VMs."""
    sight = await read_cluster(cluster)
    if options.thing == "nodes":
        _print_nodes(sorted(nodes(sight), key=_NODE_ORDERS[options.sort_by]), output)
        return Exit.DONE
    if options.node is not None and options.node not in {node.metadata.name for node in sight.nodes}:
        raise ApiError(f"no agent reports a node {options.node}")
    # A node's VMs are all meant unless a namespace is named.
    every = options.all_namespaces or (options.node is not None and options.namespace is None)
    namespace = None if every else options.namespace or cluster.namespace
    if options.policy not in (None, *(policy.metadata.name for policy in sight.every_policy)):
        raise ApiError(f"there is no policy {options.policy}")
    lines = [line for line in vms(sight, namespace, options.node) if options.policy in (None, *_policies(line))]
    _print_vms(sorted(lines, key=_VM_ORDERS[options.sort_by]), output)
    return Exit.DONE


def _policies(vm: VirtualMachineLine) -> Iterator[str | None]:
    """The policies that govern a VM, of either kind."""
    yield vm.policy
    yield None if vm.processors is None else vm.processors.policy


def _print_nodes(lines: list[NodeLine], output: Output) -> None:
    if output.document(NodeList(nodes=lines)):
        return
    if not lines:
        warn("no agent has reported: do agents run on the nodes?")
        return
    header = [
        "NODE",
        "STATE",
        "TOTAL",
        "AVAILABLE",
        "CAPACITY",
        "VMS",
        "SIZE",
        "RECLAIMED",
        "CPUS",
        "CPU USAGE",
        "CPU STALL",
        "REPORTED",
    ]
    if output.wide:
        header += [
            "OTHER",
            "RESERVE",
            "STALL",
            "SHORTFALL",
            "RISK",
            "CPUS RECLAIMED",
            "CPU SHORTFALL",
            "RELEASED",
            "AGENT",
        ]
    output.table(header, [_node_row(node, wide=output.wide) for node in lines])


def _node_row(node: NodeLine, *, wide: bool) -> list[str | Cell]:
    cpus = node.processors
    row: list[str | Cell] = [
        node.name,
        Cell(node.state, _STYLES.get(NodeState(node.state), Style.PLAIN)),
        *map(size, (node.total, node.available, node.capacity)),
        str(node.virtual_machines),
        *map(size, (node.size, node.reclaimed)),
        *(["-"] * 3 if cpus is None else [str(cpus.count), percent(cpus.usage), percent(cpus.stall)]),
        Cell(f"{format_duration(node.age)} ago", Style.BAD if node.silent else Style.PLAIN),
    ]
    if wide:
        row += [
            *map(size, (node.other, node.reserve)),
            f"{node.stall_some}%/{node.stall_full}%",
            Cell(size(node.shortfall), Style.BAD if node.shortfall else Style.PLAIN),
            size(node.risk),
            "-" if cpus is None else f"{cpus.reclaimed} of {cpus.size}",
            "-" if cpus is None else Cell(str(cpus.shortfall), Style.BAD if cpus.shortfall else Style.PLAIN),
            "yes" if node.released else "no",
            node.agent_version or "-",
        ]
    return row


def _print_vms(lines: list[VirtualMachineLine], output: Output) -> None:
    if output.document(VirtualMachineList(virtual_machines=lines)):
        return
    if not lines:
        warn("no such VM runs on a node with an agent (-A looks into all namespaces)")
        return
    header = ["NAMESPACE", "VM", "NODE", "SIZE", "ACTUAL", "TARGET", "MIN", "DEMAND", "REASON", *processors.HEADER]
    if output.wide:
        header += ["RESIDENT", "POLICY", *processors.WIDE_HEADER, "MESSAGE"]
    output.table(header, [_vm_row(vm, wide=output.wide) for vm in lines])


def _vm_row(vm: VirtualMachineLine, *, wide: bool) -> list[str | Cell]:
    bad = vm.reason == "Unresponsive"
    cpus, few = processors.row(vm.processors), len(processors.HEADER)
    row: list[str | Cell] = [
        *(vm.namespace, vm.name, vm.node),
        *map(size, (vm.size, vm.actual, vm.target)),
        "-" if vm.policy is None else size(vm.min),
        size(vm.demand),
        Cell(vm.reason, Style.WARN if bad else Style.PLAIN),
        *cpus[:few],
    ]
    return [*row, size(vm.resident), vm.policy or "-", *cpus[few:], vm.message] if wide else row
