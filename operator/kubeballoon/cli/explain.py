"""This module is ``explain``: it says why a VM has the memory and the processors it has, and not more or less."""

from __future__ import annotations

import argparse
from typing import Any

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.cluster_view import ClusterView, ReportedVM, find_vm, parse_vm_name, read_cluster
from kubeballoon.cli.explain_memory import explain_emergency, why_not_less, why_not_more
from kubeballoon.cli.explain_processors import ProcessorExplanation, explain_processors, print_processors
from kubeballoon.cli.output import Cell, Output, Style, format_bytes, warn
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision

_LATEST = 5  # events shown


class VMEvent(ApiModel):
    """A VMEvent is an event that the controller recorded about a VM."""

    at: str
    reason: str
    note: str


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
    """An Explanation says why a VM has what it has, bytes; fields that are not known are left out."""

    namespace: str
    name: str
    node: str
    node_state: str
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
        message=decision.message,
        why_not_more=[*explain_emergency(report, up=False), *why_not_more(node, plan, decision)],
        why_not_less=[*explain_emergency(report, up=True), *why_not_less(node, plan, decision)],
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


async def run(options: argparse.Namespace, client: ApiClient, output: Output) -> ExitStatus:
    """Explain the VM that the options name.

    Raises:
        ApiError: the cluster cannot be read, or no agent reports the VM.
    """
    view = await read_cluster(client)
    namespace, name = parse_vm_name(options.vm, options.namespace or client.namespace)
    vm = await find_vm(client, view, namespace, name)
    changes: list[VMEvent] = []
    try:
        changes = await _read_events(client, namespace, vm.report.uid)
    except ApiError as error:
        warn(f"without its last changes: {error}")
    explanation = explain(view, vm).model_copy(update={"changes": changes})
    if view.is_silent(vm.node_status):
        warn(f"this is {view.report_age(vm.node_status):.0f}s old: the agent of {explanation.node} is silent")
    if not output.print_document(explanation):
        _print_explanation(explanation, output)
    return ExitStatus.DONE


async def _read_events(client: ApiClient, namespace: str, uid: str) -> list[VMEvent]:
    """Read the controller's latest events about a VM, the latest last."""
    events = (await client.get(paths.events(namespace), fieldSelector=f"regarding.uid={uid}"))["items"]
    ours = [each for each in events if each.get("reportingController") == "kubeballoon.io/controller"]
    ours.sort(key=_event_time)
    return [VMEvent(at=_event_time(each), reason=each["reason"], note=each.get("note", "")) for each in ours[-_LATEST:]]


def _event_time(event: dict[str, Any]) -> str:
    """Return when an event, or the last of a series, was recorded, RFC 3339; such times sort as text."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def _print_explanation(explanation: Explanation, output: Output) -> None:
    full_name = f"{explanation.namespace}/{explanation.name}"
    output.print_line(Cell(full_name, Style.STRONG), f" on node {explanation.node}, state {explanation.node_state}")
    output.print_line(f"{explanation.reason}: {explanation.message}")
    output.print_line()
    output.print_table(["MEMORY", "", ""], _memory_rows(explanation))
    output.print_line()
    _print_policy(explanation.policy, output)
    output.print_bullets("Why not more?", explanation.why_not_more)
    output.print_bullets("Why not less?", explanation.why_not_less)
    if explanation.processors is not None:
        output.print_line()
        print_processors(explanation.processors, output)
    if explanation.changes:
        output.print_line()
        output.print_line(Cell("Last changes", Style.STRONG))
        rows = [(event.at, event.reason, event.note) for event in explanation.changes]
        output.print_table(["AT", "REASON", "WHY"], rows)


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
        ["POLICY", policy.name, f"{policy.mode}, {policy.when}, priority {policy.priority}{over}"],
        [
            ("min", format_bytes(policy.min), "guaranteed whatever happens"),
            ("max", format_bytes(policy.max), "the most the VM may use"),
            ("headroom", format_bytes(policy.headroom), "added to its need"),
            ("shares", str(policy.shares_per_gib), "the relative claim of each GiB"),
            ("idleTax", f"{policy.idle_tax}%", "the price of idle memory"),
        ],
    )
