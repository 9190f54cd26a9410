"""This module explains, for ``explain``, why a VM has the processors it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kubeballoon.api.meta import ApiModel
from kubeballoon.cli.cluster_view import ClusterView, ReportedVM
from kubeballoon.cli.output import Output, format_count, format_percent
from kubeballoon.cli.processor_view import VMProcessors, decide_processors, view_processors
from kubeballoon.cli.table import Column, number
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import ProcessorDecision, ProcessorNode, ProcessorPlan, ProcessorTerms


class GoverningProcessorPolicy(ApiModel):
    """A GoverningProcessorPolicy shows what the policy that governs a VM's processors means for this VM.

    Attributes:
        over: the policies that select the VM as well, and would govern it next.
        cool_down: seconds.
        stall_start: percent, as are the three fields below it.
    """

    name: str
    mode: str
    when: str
    priority: int
    over: list[str]
    min: int
    max: int
    shares: int
    method: str
    cool_down: float
    stall_start: int
    stall_end: int
    usage_start: int
    usage_end: int


class ProcessorExplanation(ApiModel):
    """A ProcessorExplanation says why a VM has the processors it has; the node's usage and stall are percentages."""

    node_count: int
    node_usage: int
    node_stall: int
    policy: GoverningProcessorPolicy | None = None
    current: VMProcessors
    why_not_more: list[str]
    why_not_fewer: list[str]


def explain_processors(view: ClusterView, vm: ReportedVM) -> ProcessorExplanation | None:
    """Explain why a VM has the processors it has; None if its agent does not report processors."""
    node = view.processor_node(vm.node, vm.node_status)
    decision = decide_processors(node).get(vm.report.uid)
    current = view_processors(vm.report, decision)
    node_report = vm.node_status.processors
    if node is None or decision is None or current is None or node_report is None:
        return None
    return ProcessorExplanation(
        node_count=node_report.count,
        node_usage=node_report.usage,
        node_stall=node_report.stall,
        policy=_governing_policy(view, vm, decision),
        current=current,
        why_not_more=list(_why_not_more(node, decision, current)),
        why_not_fewer=list(_why_not_fewer(node, decision, current)),
    )


def _governing_policy(
    view: ClusterView, reported: ReportedVM, decision: ProcessorDecision
) -> GoverningProcessorPolicy | None:
    governance = view.processor_governance(reported.report)
    terms, vm = decision.vm.policy, decision.vm
    if governance.governing is None or terms is None:
        return None
    spec, trigger = governance.governing.resource.spec, terms.trigger
    return GoverningProcessorPolicy(
        name=terms.name,
        mode=terms.mode,
        when=trigger.when,
        priority=spec.priority,
        over=[other.name for other in governance.policies[1:]],
        min=vm.minimum,
        max=vm.maximum,
        shares=terms.shares,
        method=spec.method,
        cool_down=terms.cool_down,
        stall_start=trigger.stall.start,
        stall_end=trigger.stall.end,
        usage_start=trigger.usage.start,
        usage_end=trigger.usage.end,
    )


# The reasons of VMs that take no part in the division of the node: the decision's message says all there is to say.
_NOT_DIVIDED = (DecisionReason.EXCLUDED, DecisionReason.NO_POLICY, DecisionReason.UNRESPONSIVE)


def _why_not_more(node: ProcessorNode, decision: ProcessorDecision, current: VMProcessors) -> Iterator[str]:
    """Say what keeps a VM from having more processors, the strongest reason first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _NOT_DIVIDED or policy is None:
        yield decision.message
    elif policy.mode.only_observes:
        yield f"its policy {policy.name} only observes, so nothing is reclaimed from it; else: {decision.message}"
    elif decision.target is None or decision.target >= vm.size:
        yield f"it may use all of its {vm.size}"
    elif decision.target >= vm.maximum:
        yield f"its policy's max is {vm.maximum}"
    else:
        yield f"the node's {node.count} processors are divided by shares: {_pressure(node)}"
        with_double_shares = _target_under(node, vm.uid, replace(policy, shares=2 * policy.shares))
        if with_double_shares > decision.target:
            yield f"with shares {2 * policy.shares}, all else the same, it would have {with_double_shares}"
    yield from _pending_change(decision, current, up=True)


def _why_not_fewer(node: ProcessorNode, decision: ProcessorDecision, current: VMProcessors) -> Iterator[str]:
    """Say what keeps a VM from having to give up more processors, the strongest reason first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _NOT_DIVIDED or policy is None:
        yield decision.message
    elif policy.mode.only_observes:
        yield f"its policy {policy.name} only observes: nothing is requested of it"
    elif decision.target is None or decision.target <= vm.minimum:
        are = "is" if vm.minimum == 1 else "are"
        yield f"{vm.minimum} {are} guaranteed to it by the min of its policy {policy.name}"
    elif decision.reason is DecisionReason.NOT_UNDER_PRESSURE:
        trigger = policy.trigger
        yield (
            f"the node is not short of processors: {_pressure(node)}; its policy reclaims some from usage "
            f"{trigger.usage.start} % with stall {trigger.stall.start} % on"
        )
    else:
        yield f"its shares buy this much of the node's {node.count} processors"
    yield from _pending_change(decision, current, up=False)


def _pressure(node: ProcessorNode) -> str:
    return f"usage {node.pressure.usage:.0f} %, stall {node.pressure.stall:.0f} %"


def _target_under(node: ProcessorNode, uid: str, policy: ProcessorTerms) -> int:
    """Compute how many processors a VM would have under another policy of the same name, all else the same."""
    vms = tuple(replace(vm, policy=policy) if vm.uid == uid else vm for vm in node.vms)
    plan: ProcessorPlan = allocate_processors(replace(node, vms=vms))
    return next(each.target or 0 for each in plan.decisions if each.vm.uid == uid)


def _pending_change(decision: ProcessorDecision, current: VMProcessors, *, up: bool) -> Iterator[str]:
    """Say which change in a direction is decided but not requested yet, or requested but not carried out yet.

    Args:
        decision: what would be decided now.
        current: what is requested and done.
        up: whether to speak of changes to more processors, or to fewer.
    """
    target, request, online = decision.target, current.target, current.online
    decided = decision.vm.policy is not None and target is not None and request is not None and target != request
    if decided and _is_upward(request, target) is up:
        yield f"{request} are requested of it: a change to {target} waits for its policy's coolDown"
    expected = decision.vm.size if request is None else request
    if online is not None and online != expected and _is_upward(online, expected) is up:
        yield f"its guest uses {online} and should use {expected}: {current.problem or 'that is under way'}"


def _is_upward(before: int | None, after: int | None) -> bool:
    return before is not None and after is not None and after > before


def print_processors(explanation: ProcessorExplanation, output: Output) -> None:
    """Print an explanation as tables and lists."""
    current = explanation.current
    output.print_table(
        [Column("PROCESSORS"), number(""), Column("")],
        [
            ("size", str(current.size), "what the VM was given"),
            ("online", format_count(current.online), "what its guest uses"),
            ("offlinable", format_count(current.offlinable), "of these, how many its guest could give up"),
            ("usage", format_percent(current.usage), "of one of the node's processors"),
            (
                "target",
                format_count(current.target),
                "nothing is requested" if current.target is None else "what is requested",
            ),
            ("method", current.method or "-", "how requests are carried out"),
            ("node", str(explanation.node_count), f"usage {explanation.node_usage}%, stall {explanation.node_stall}%"),
        ],
        headers=True,
    )
    output.print_line()
    output.print_line(f"{current.reason}: {current.message}")
    if current.problem is not None:
        output.print_line(current.problem)
    if explanation.policy is not None:
        output.print_line()
        _print_policy(explanation.policy, output)
    output.print_bullets("Why not more processors?", explanation.why_not_more)
    output.print_bullets("Why not fewer processors?", explanation.why_not_fewer)


def _print_policy(policy: GoverningProcessorPolicy, output: Output) -> None:
    over = f", over {', '.join(policy.over)}" if policy.over else ""
    output.print_table(
        [
            Column("PROCESSOR POLICY"),
            number(policy.name),
            Column(f"{policy.mode}, {policy.when}, priority {policy.priority}{over}"),
        ],
        [
            ("min", str(policy.min), "guaranteed whatever happens"),
            ("max", str(policy.max), "the most the VM may use"),
            ("shares", str(policy.shares), "the relative claim of each processor"),
            ("usage", f"{policy.usage_start}%", f"or more starts reclaiming, less than {policy.usage_end}% ends it"),
            ("stall", f"{policy.stall_start}%", f"or more starts reclaiming, less than {policy.stall_end}% ends it"),
            ("method", policy.method, "how processors are reclaimed"),
            ("coolDown", f"{policy.cool_down:g}s", "how long a change lasts at least"),
        ],
        headers=True,
    )
