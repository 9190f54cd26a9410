"""A VM's processors as commands show them, and why it has as many as it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import ProcessorReport, VirtualMachineReport
from kubeballoon.cli.cluster_view import ClusterView, ReportedVM
from kubeballoon.cli.output import Cell, Output, Style
from kubeballoon.core.decision import DecisionReason
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import ProcessorDecision, ProcessorNode, ProcessorPlan, ProcessorTerms
from kubeballoon.vocabulary import Mode


class VMProcessors(ApiModel):
    """A VM's processors; ``usage`` in percent of one of the node's. What is not known is left out."""

    policy: str | None = None
    size: int
    online: int | None = None
    offlinable: int | None = None
    usage: int | None = None
    target: int | None = None
    min: int
    max: int
    method: str | None = None
    reason: str
    message: str
    problem: str | None = None


class GoverningProcessorPolicy(ApiModel):
    """What the governing ProcessorPolicy says of a VM; ``cool_down`` in seconds, thresholds in percent."""

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
    """Why a VM has the processors it has; the node's ``usage`` and ``stall`` in percent."""

    node_count: int
    node_usage: int
    node_stall: int
    policy: GoverningProcessorPolicy | None = None
    current: VMProcessors
    why_not_more: list[str]
    why_not_fewer: list[str]


def decisions(node: ProcessorNode | None) -> Mapping[str, ProcessorDecision]:
    """What would be decided of a node's VMs now, by uid; nothing where its agent does not report processors."""
    return {} if node is None else {decision.vm.uid: decision for decision in allocate_processors(node).decisions}


def view(report: VirtualMachineReport, decision: ProcessorDecision | None) -> VMProcessors | None:
    """A VM's processors; None where they are not reported."""
    seen = report.processors
    if seen is None or decision is None:
        return None
    return VMProcessors(
        policy=None if decision.vm.policy is None else decision.vm.policy.name,
        size=seen.size,
        online=seen.online,
        offlinable=seen.offlinable,
        usage=seen.usage,
        target=seen.target,
        min=decision.vm.minimum,
        max=decision.vm.maximum,
        method=seen.method,
        reason=decision.reason,
        message=decision.message,
        problem=_problem(seen),
    )


def _problem(seen: ProcessorReport) -> str | None:
    """What keeps its agent from having it done; why it is left alone is the decision's to say."""
    if seen.reason is None or not seen.eligible:
        return None
    return seen.reason if seen.message is None else f"{seen.reason}: {seen.message}"


def explain(sight: ClusterView, place: ReportedVM) -> ProcessorExplanation | None:
    """Why the VM has the processors it has; None where they are not reported."""
    node = sight.processors(place.pressure, place.status)
    decision = decisions(node).get(place.report.uid)
    current = view(place.report, decision)
    status = place.status.processors
    if node is None or decision is None or current is None or status is None:
        return None
    return ProcessorExplanation(
        node_count=status.count,
        node_usage=status.usage,
        node_stall=status.stall,
        policy=_settings(sight, place, decision),
        current=current,
        why_not_more=list(why_not_more(node, decision, current)),
        why_not_fewer=list(why_not_fewer(node, decision, current)),
    )


def _settings(sight: ClusterView, place: ReportedVM, decision: ProcessorDecision) -> GoverningProcessorPolicy | None:
    governance = sight.processor_governance(place.report)
    policy, vm = decision.vm.policy, decision.vm
    if governance.governing is None or policy is None:
        return None
    spec, trigger = governance.governing.resource.spec, policy.trigger
    return GoverningProcessorPolicy(
        name=policy.name,
        mode=policy.mode,
        when=trigger.when,
        priority=spec.priority,
        over=[other.name for other in governance.policies[1:]],
        min=vm.minimum,
        max=vm.maximum,
        shares=policy.shares,
        method=spec.method,
        cool_down=policy.cool_down,
        stall_start=trigger.stall.start,
        stall_end=trigger.stall.end,
        usage_start=trigger.usage.start,
        usage_end=trigger.usage.end,
    )


_ALONE = (DecisionReason.EXCLUDED, DecisionReason.NO_POLICY, DecisionReason.UNRESPONSIVE)


def why_not_more(node: ProcessorNode, decision: ProcessorDecision, current: VMProcessors) -> Iterator[str]:
    """What keeps the VM from having more processors; the strongest first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _ALONE or policy is None:
        yield decision.message
    elif policy.mode is Mode.OBSERVE:
        yield f"its policy {policy.name} only observes, so nothing is taken from it; else: {decision.message}"
    elif decision.target is None or decision.target >= vm.size:
        yield f"it may use all of its {vm.size}"
    elif decision.target >= vm.maximum:
        yield f"its policy's max is {vm.maximum}"
    else:
        yield f"the node's {node.count} processors are divided by shares: {_pressure(node)}"
        more = _with(node, vm.uid, replace(policy, shares=2 * policy.shares))
        if more > decision.target:
            yield f"with shares {2 * policy.shares}, all else the same, it would have {more}"
    yield from _under_way(decision, current, up=True)


def why_not_fewer(node: ProcessorNode, decision: ProcessorDecision, current: VMProcessors) -> Iterator[str]:
    """What keeps the VM from having to give more processors; the strongest first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _ALONE or policy is None:
        yield decision.message
    elif policy.mode is Mode.OBSERVE:
        yield f"its policy {policy.name} only observes: nothing is requested of it"
    elif decision.target is None or decision.target <= vm.minimum:
        are = "is" if vm.minimum == 1 else "are"
        yield f"{vm.minimum} {are} guaranteed to it by the min of its policy {policy.name}"
    elif decision.reason is DecisionReason.NOT_UNDER_PRESSURE:
        trigger = policy.trigger
        yield (
            f"the node is not short of processors: {_pressure(node)}; its policy takes some from usage "
            f"{trigger.usage.start} % with stall {trigger.stall.start} % on"
        )
    else:
        yield f"its shares buy this much of the node's {node.count} processors"
    yield from _under_way(decision, current, up=False)


def _pressure(node: ProcessorNode) -> str:
    return f"usage {node.pressure.usage:.0f} %, stall {node.pressure.stall:.0f} %"


def _with(node: ProcessorNode, uid: str, policy: ProcessorTerms) -> int:
    """How many processors a VM would have under another policy of the same name, all else the same."""
    vms = tuple(replace(vm, policy=policy) if vm.uid == uid else vm for vm in node.vms)
    plan: ProcessorPlan = allocate_processors(replace(node, vms=vms))
    return next(each.target or 0 for each in plan.decisions if each.vm.uid == uid)


def _under_way(decision: ProcessorDecision, current: VMProcessors, *, up: bool) -> Iterator[str]:
    """What is decided but not requested yet, and requested but not done yet."""
    goal, request, online, policy = decision.target, current.target, current.online, decision.vm.policy
    if policy is not None and None not in (goal, request) and goal != request and ((goal or 0) > (request or 0)) is up:
        yield f"{request} are requested of it: a change to {goal} waits for its policy's coolDown"
    wanted = decision.vm.size if request is None else request
    if online is not None and online != wanted and (wanted > online) is up:
        yield f"its guest uses {online}, {wanted} are wanted: {current.problem or 'that is under way'}"


def show(said: ProcessorExplanation, output: Output) -> None:
    """Print it."""
    current = said.current
    output.table(
        ["PROCESSORS", "", ""],
        [
            ("size", str(current.size), "what it was given"),
            ("online", number(current.online), "what its guest uses"),
            ("offlinable", number(current.offlinable), "of those its guest could give up"),
            ("usage", percent(current.usage), "of one of the node's processors"),
            (
                "target",
                number(current.target),
                "nothing is requested" if current.target is None else "what is requested",
            ),
            ("method", current.method or "-", "what carries requests out"),
            ("node", str(said.node_count), f"usage {said.node_usage}%, stall {said.node_stall}%"),
        ],
    )
    output.say()
    output.say(f"{current.reason}: {current.message}")
    if current.problem is not None:
        output.say(current.problem)
    if said.policy is not None:
        output.say()
        _show_policy(said.policy, output)
    for title, lines in (
        ("Why not more processors?", said.why_not_more),
        ("Why not fewer processors?", said.why_not_fewer),
    ):
        output.bullets(title, lines)


def _show_policy(policy: GoverningProcessorPolicy, output: Output) -> None:
    over = f", over {', '.join(policy.over)}" if policy.over else ""
    output.table(
        ["PROCESSOR POLICY", policy.name, f"{policy.mode}, {policy.when}, priority {policy.priority}{over}"],
        [
            ("min", str(policy.min), "guaranteed whatever happens"),
            ("max", str(policy.max), "the most it may use"),
            ("shares", str(policy.shares), "the relative claim of each of them"),
            ("usage", f"{policy.usage_start}%", f"and more begins to take some, below {policy.usage_end}% ends it"),
            ("stall", f"{policy.stall_start}%", f"and more begins to take some, below {policy.stall_end}% ends it"),
            ("method", policy.method, "how they are taken"),
            ("coolDown", f"{policy.cool_down:g}s", "how long a change lasts at least"),
        ],
    )


def number(count: int | None) -> str:
    """A count for a person; "-" where it is not known."""
    return "-" if count is None else str(count)


def percent(share: int | None) -> str:
    """A percentage for a person; "-" where it is not known."""
    return "-" if share is None else f"{share}%"


HEADER = ("CPUS", "CPU TARGET")
WIDE_HEADER = ("CPU OFFLINABLE", "CPU USAGE", "CPU METHOD", "CPU POLICY", "CPU REASON", "CPU MESSAGE")


def row(seen: VMProcessors | None) -> list[str | Cell]:
    """A VM's cells of HEADER and WIDE_HEADER."""
    if seen is None:
        return ["-"] * (len(HEADER) + len(WIDE_HEADER))
    return [
        f"{number(seen.online)}/{seen.size}",
        number(seen.target),
        number(seen.offlinable),
        percent(seen.usage),
        seen.method or "-",
        seen.policy or "-",
        Cell(seen.reason, Style.WARN if seen.problem is not None else Style.PLAIN),
        seen.message if seen.problem is None else f"{seen.message}; {seen.problem}",
    ]
