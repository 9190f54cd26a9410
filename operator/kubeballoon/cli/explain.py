"""This module is ``explain``: it says why a VM has the memory and the processors it has, and not more or less."""

from __future__ import annotations

import argparse
from dataclasses import replace

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.cli.agent_words import agent_words, decision_message
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.cluster_view import (
    ClusterView,
    ReportedVM,
    find_vm,
    parse_vm_name,
    read_node,
    read_nodes,
    read_policies,
)
from kubeballoon.cli.explain_memory import explain_emergency, why_not_less, why_not_more
from kubeballoon.cli.explain_owned import explain_owned, print_owned
from kubeballoon.cli.explain_processors import ProcessorExplanation, explain_processors, print_processors
from kubeballoon.cli.output import Output, format_bytes, warn
from kubeballoon.cli.table import Cell, Column, Style, number
from kubeballoon.cli.vm_events import VMEvent, print_events, read_events
from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ApiError, ForbiddenError, NotFoundError, Object
from kubeballoon.cluster.reader import ApiReader
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision


class GoverningMemoryPolicy(ApiModel):
    """A GoverningMemoryPolicy shows what the policy that governs a VM's memory means for this VM, bytes.

    Attributes:
        over: the policies that select the VM as well, and would govern it next.
        idle_tax: percent.
    """

    name: str
    mode: str
    when: str
    priority: int
    over: list[str]
    min: int
    max: int
    headroom: int
    shares_per_gib: int
    idle_tax: int


class Explanation(ApiModel):
    """An Explanation says why a VM has what it has, bytes; fields that are not known are left out.

    Attributes:
        node_policy: the NodePolicy that says when the node is in which state.
        problem: what the node's agent found wrong with the VM.
    """

    namespace: str
    name: str
    node: str
    node_state: str
    node_policy: str | None = None
    capacity: int
    policy: GoverningMemoryPolicy | None = None
    size: int
    actual: int | None = None
    resident: int | None = None
    target: int | None = None
    emergency_target: int | None = None
    troubled: bool
    entitlement: int
    need: int | None = None
    demand: int
    idle: int
    reason: str
    message: str
    problem: str | None = None
    why_not_more: list[str]
    why_not_less: list[str]
    processors: ProcessorExplanation | None = None
    changes: list[VMEvent] = Field(default_factory=list)


def explain(view: ClusterView, reported: ReportedVM) -> Explanation:
    """Explain why a VM has what it has; ``changes`` stays empty, since events are not part of the view."""
    report = reported.report
    node = view.memory_node(reported.node, reported.node_status)
    plan = allocate_memory(node)
    decision = next(each for each in plan.decisions if each.vm.uid == report.uid)
    vm = decision.vm
    return Explanation(
        namespace=report.namespace,
        name=report.name,
        node=node.name,
        node_state=node.state,
        node_policy=None if reported.node_status.limits is None else reported.node_status.limits.policy,
        capacity=plan.capacity,
        policy=_governing_policy(view, reported, decision),
        size=vm.size,
        actual=report.actual,
        resident=report.resident,
        target=report.target,  # vm.target is the emergency target while the agent follows that instead
        emergency_target=report.emergency_target,
        troubled=vm.troubled,
        entitlement=decision.entitlement,
        need=vm.need,
        demand=vm.demand,
        idle=max(0, vm.actual - vm.demand),
        reason=decision.reason,
        message=decision_message(report, decision),
        problem=agent_words(report),
        why_not_more=[*explain_emergency(report, up=False), *why_not_more(report, node, plan, decision)],
        why_not_less=[*explain_emergency(report, up=True), *why_not_less(report, node, plan, decision)],
        processors=explain_processors(view, reported),
    )


def _governing_policy(
    view: ClusterView, reported: ReportedVM, decision: MemoryDecision
) -> GoverningMemoryPolicy | None:
    governance = view.memory_governance(reported.report)
    terms, vm = decision.vm.policy, decision.vm
    if governance.governing is None or terms is None:
        return None
    return GoverningMemoryPolicy(
        name=terms.name,
        mode=terms.mode,
        when=terms.when,
        priority=governance.governing.resource.spec.priority,
        over=[other.name for other in governance.policies[1:]],
        min=vm.minimum,
        max=vm.maximum,
        headroom=terms.headroom.of(vm.size),
        shares_per_gib=terms.shares_per_gib,
        idle_tax=terms.idle_tax,
    )


def run(options: argparse.Namespace, reader: ApiReader, output: Output) -> ExitStatus:
    """Explain the VM that the options name.

    Raises:
        ApiError: the cluster cannot be read, or no agent reports the VM.
    """
    namespace, name = parse_vm_name(options.vm, options.namespace or reader.namespace)
    instance = _read_instance(reader, namespace, name)
    try:
        view = _read_view(reader, instance)
    except ForbiddenError as error:
        if instance is None:
            raise
        return _run_owned(reader, instance, error, output)
    vm = find_vm(reader, view, namespace, name)
    explanation = explain(view, vm).model_copy(update={"changes": _read_changes(reader, namespace, vm.report.uid)})
    if view.is_silent(vm.node_status):
        warn(f"this is {view.report_age(vm.node_status):.0f}s old: the agent of {explanation.node} is silent")
    if not output.print_document(explanation):
        print_explanation(explanation, output)
    return ExitStatus.DONE


def _read_instance(reader: ApiReader, namespace: str, name: str) -> Object | None:
    """Read a VirtualMachineInstance; None where there is none, or where it may not be read."""
    try:
        return reader.get(paths.instance(namespace, name))
    except (NotFoundError, ForbiddenError):
        return None


def _read_view(reader: ApiReader, instance: Object | None) -> ClusterView:
    """Read the policies, and the report of the VM's node alone where that node is known.

    Raises:
        ApiError: the cluster cannot be read; a ForbiddenError names what the user may not read.
    """
    view = read_policies(reader)
    node = None if instance is None else instance.get("status", {}).get("nodeName")
    if node is None:
        return replace(view, nodes=tuple(read_nodes(reader)))
    try:
        return replace(view, nodes=(read_node(reader, node),))
    except ForbiddenError:
        raise
    except ApiError:
        return view


def _read_changes(reader: ApiReader, namespace: str, uid: str) -> list[VMEvent]:
    try:
        return read_events(reader, namespace, uid)
    except ApiError as error:
        warn(f"without its last changes: {error}")
        return []


def _run_owned(reader: ApiReader, instance: Object, error: ForbiddenError, output: Output) -> ExitStatus:
    """Explain a VM to somebody who may read the VM, but neither policies nor reports."""
    metadata = instance["metadata"]
    explanation = explain_owned(instance, _read_changes(reader, metadata["namespace"], metadata["uid"]), str(error))
    if not output.print_document(explanation):
        print_owned(explanation, output)
    return ExitStatus.DONE


def print_explanation(explanation: Explanation, output: Output) -> None:
    """Print an explanation as tables and lists."""
    full_name = f"{explanation.namespace}/{explanation.name}"
    by = "" if explanation.node_policy is None else f" (NodePolicy {explanation.node_policy})"
    where = f" on node {explanation.node}, state {explanation.node_state}{by}"
    output.print_line(Cell(full_name, Style.STRONG), where)
    output.print_line(f"{explanation.reason}: {explanation.message}")
    if explanation.problem is not None and explanation.problem not in explanation.message:
        output.print_line(Cell(f"Its agent: {explanation.problem}", Style.WARN))
    output.print_line()
    output.print_table([Column("MEMORY"), number(""), Column("")], _memory_rows(explanation), headers=True)
    output.print_line()
    _print_policy(explanation.policy, output)
    output.print_bullets("Why not more?", explanation.why_not_more)
    output.print_bullets("Why not less?", explanation.why_not_less)
    if explanation.processors is not None:
        output.print_line()
        print_processors(explanation.processors, output)
    print_events(explanation.changes, output)


def _memory_rows(explanation: Explanation) -> list[tuple[str, str, str]]:
    """List the VM's amounts of memory: what they are called, how much, and what they mean."""
    needs = "what its guest works with" + (", and it swaps or refaults" if explanation.troubled else "")
    emergency = [
        ("emergency target", format_bytes(explanation.emergency_target), "what its agent moves it to instead"),
    ]
    return [
        ("size", format_bytes(explanation.size), "what the VM was given"),
        ("actual", format_bytes(explanation.actual), "what its balloon leaves it"),
        ("resident", format_bytes(explanation.resident), "what its process holds of the node's memory"),
        (
            "target",
            format_bytes(explanation.target),
            "nothing is requested" if explanation.target is None else "what is requested",
        ),
        *(emergency if explanation.emergency_target is not None else []),
        ("entitlement", format_bytes(explanation.entitlement), "its share under its policy and the node's load"),
        ("need", format_bytes(explanation.need), needs),
        ("demand", format_bytes(explanation.demand), "need and headroom, within its min and max"),
        ("idle", format_bytes(explanation.idle), "what it holds above its demand"),
    ]


def _print_policy(policy: GoverningMemoryPolicy | None, output: Output) -> None:
    if policy is None:
        output.print_line("No MemoryPolicy selects it.")
        return
    over = f", over {', '.join(policy.over)}" if policy.over else ""
    output.print_table(
        [
            Column("POLICY"),
            number(policy.name),
            Column(f"{policy.mode}, {policy.when}, priority {policy.priority}{over}"),
        ],
        [
            ("min", format_bytes(policy.min), "guaranteed whatever happens"),
            ("max", format_bytes(policy.max), "the most the VM may use"),
            ("headroom", format_bytes(policy.headroom), "added to its need"),
            ("shares", str(policy.shares_per_gib), "the relative claim of each GiB"),
            ("idleTax", f"{policy.idle_tax}%", "the price of idle memory"),
        ],
        headers=True,
    )
