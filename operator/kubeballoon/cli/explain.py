"""``explain``: why a VM has the memory and the processors it has, and why not more, nor less."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.cli import processors
from kubeballoon.cli.arguments import Exit
from kubeballoon.cli.cluster_view import ClusterView, ReportedVM, find_vm, read_cluster, split
from kubeballoon.cli.output import Cell, Output, Style, size, warn
from kubeballoon.cli.processors import ProcessorExplanation
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.core.decision import DecisionReason
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryTerms
from kubeballoon.core.wording import human
from kubeballoon.vocabulary import Mode

_CHANGES = 5  # events shown, the last
_FULL_TAX = 100


class VMEvent(ApiModel):
    """An event about the VM."""

    at: str
    reason: str
    note: str


class GoverningMemoryPolicy(ApiModel):
    """What the governing policy says of this VM; bytes."""

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
    """All of it; bytes. What is not known is left out."""

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
    demand: int | None = None
    idle: int | None = None
    reason: str
    message: str
    why_not_more: list[str]
    why_not_less: list[str]
    processors: ProcessorExplanation | None = None
    changes: list[VMEvent] = Field(default_factory=list)


def explain(sight: ClusterView, place: ReportedVM) -> Explanation:
    """All but the changes."""
    report = place.report
    node = sight.core(place.pressure, place.status)
    plan = allocate_memory(node)
    decision = next(each for each in plan.decisions if each.vm.uid == report.uid)
    vm = decision.vm
    held = vm.actual
    return Explanation(
        namespace=report.namespace,
        name=report.name,
        node=node.name,
        node_state=node.state,
        capacity=plan.capacity,
        policy=_settings(sight, place, decision),
        size=vm.size,
        actual=report.actual,
        resident=report.resident,
        target=vm.target,
        emergency_target=report.emergency_target,
        troubled=vm.troubled,
        entitlement=decision.entitlement,
        need=vm.need,
        demand=vm.demand,
        idle=None if vm.demand is None else max(0, held - vm.demand),
        reason=decision.reason,
        message=decision.message,
        why_not_more=[*helped(report, up=False), *why_not_more(node, plan, decision)],
        why_not_less=[*helped(report, up=True), *why_not_less(node, plan, decision)],
        processors=processors.explain(sight, place),
    )


def _settings(sight: ClusterView, place: ReportedVM, decision: MemoryDecision) -> GoverningMemoryPolicy | None:
    governance = sight.governance(place.report)
    policy, vm = decision.vm.policy, decision.vm
    if governance.governing is None or policy is None:
        return None
    return GoverningMemoryPolicy(
        name=policy.name,
        mode=policy.mode,
        when=policy.when,
        priority=governance.governing.resource.spec.priority,
        over=[other.name for other in governance.policies[1:]],
        min=vm.minimum,
        max=vm.maximum,
        headroom=policy.headroom.of(vm.size),
        shares_per_gib=policy.shares_per_gib,
        idle_tax=policy.idle_tax,
    )


def helped(report: VirtualMachineReport, *, up: bool) -> Iterator[str]:
    """What the node's agent does about a VM on its own, where that is more (``up``) or less than requested."""
    goal, request = report.emergency_target, report.target
    if goal is None or request is None or goal == request or (goal > request) is not up:
        return
    yield (
        f"the node or a guest on it is in trouble: without waiting for the controller the agent moves this VM to "
        f"{human(goal)}, in place of the {human(request)} requested"
    )


_ALONE = (DecisionReason.EXCLUDED, DecisionReason.NO_POLICY, DecisionReason.UNRESPONSIVE, DecisionReason.DEMAND_UNKNOWN)


def why_not_more(node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision) -> Iterator[str]:
    """What keeps the VM from having more; the strongest first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _ALONE or policy is None:
        yield decision.message
        return
    goal = decision.entitlement if decision.target is None else decision.target
    if goal >= vm.size:
        yield f"it may use all of its {human(vm.size)}"
    elif goal >= vm.maximum:
        yield f"its policy's max is {human(vm.maximum)}"
    elif decision.reason is DecisionReason.NOT_UNDER_PRESSURE:
        yield decision.message
    else:
        yield from _divided(node, plan, decision, policy)
    if vm.actual < goal - vm.dead_band:
        yield f"it holds {human(vm.actual)}: its guest has not taken the rest yet"


def _divided(node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision, policy: MemoryTerms) -> Iterator[str]:
    """Why a VM that shares the node does not have its maximum."""
    vm, demand = decision.vm, decision.vm.demand
    if decision.reason is DecisionReason.WAITING:
        yield decision.message
    if plan.shortfall:
        yield f"the minimums alone exceed the node's capacity by {human(plan.shortfall)}"
    yield f"the node's {human(plan.capacity)} for such VMs are all given out, in state {node.state}"
    if demand is not None and demand < vm.maximum and policy.idle_tax:
        price = _FULL_TAX / (_FULL_TAX - policy.idle_tax)
        yield (
            f"above its demand of {human(demand)} memory is idle, and at idleTax {policy.idle_tax} an idle byte costs "
            f"as much as {price:.3g} in use"
        )
    for change, other in (
        (f"shares {2 * policy.shares_per_gib}", replace(policy, shares_per_gib=2 * policy.shares_per_gib)),
        ("idleTax 0", replace(policy, idle_tax=0)),
    ):
        entitled = _entitled(node, vm.uid, other)
        if entitled - decision.entitlement > vm.dead_band:
            yield f"with {change}, all else the same, it would be entitled to {human(entitled)}"


def _entitled(node: MemoryNode, uid: str, policy: MemoryTerms) -> int:
    """What a VM would be entitled to under another policy, all else the same."""
    vms = tuple(replace(vm, policy=policy) if vm.uid == uid else vm for vm in node.vms)
    return next(each.entitlement for each in allocate_memory(replace(node, vms=vms)).decisions if each.vm.uid == uid)


def why_not_less(node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision) -> Iterator[str]:
    """What keeps the VM from having to give more; the strongest first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _ALONE or policy is None:
        yield decision.message
        return
    if policy.mode is Mode.OBSERVE:
        yield f"its policy {policy.name} only observes: nothing is requested of it"
    goal = decision.entitlement if decision.target is None else decision.target
    if goal <= vm.minimum:
        yield f"{human(vm.minimum)} are guaranteed to it by the min of its policy {policy.name}"
    elif decision.reason is DecisionReason.NOT_UNDER_PRESSURE:
        yield decision.message
    else:
        yield from _kept(node, plan, decision)
    if vm.actual > goal + vm.dead_band:
        yield f"it holds {human(vm.actual)}: its guest gives as fast as it was seen to follow"


def _kept(node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision) -> Iterator[str]:
    """Why a VM that shares the node has more than its minimum."""
    vm, demand = decision.vm, decision.vm.demand or 0
    goal = decision.entitlement if decision.target is None else decision.target
    demands = sum(each.vm.demand or 0 for each in plan.decisions if each.reason not in _ALONE)
    if demands > plan.capacity:
        yield "the VMs' demands do not all fit: each has what its shares buy"
    elif node.state.only_minimums_hold:
        yield f"in state {node.state} its shares still buy this much"
    elif goal - demand <= vm.dead_band:
        yield f"it demands {human(demand)}: while all demands fit no VM is taken below its own"
    else:
        yield f"nobody else needs it: all demands, {human(demands)}, fit into the node's {human(plan.capacity)}"
    if decision.target is not None and decision.target == vm.target and decision.target > decision.entitlement:
        small = decision.target - decision.entitlement <= vm.dead_band
        why = "is too small to be worth making" if small else "serves nobody: what nobody needs rests for a while"
        yield f"a move to its entitlement of {human(decision.entitlement)} {why}"


async def run(options: argparse.Namespace, cluster: ApiClient, output: Output) -> Exit:
    """Print it."""
    sight = await read_cluster(cluster)
    namespace, name = split(options.vm, options.namespace or cluster.namespace)
    place = await find_vm(cluster, sight, namespace, name)
    changes: list[VMEvent] = []
    try:
        changes = await _changes(cluster, namespace, place.report.uid)
    except ApiError as error:
        warn(f"without its last changes: {error}")
    said = explain(sight, place).model_copy(update={"changes": changes})
    if sight.silent(place.status):
        warn(f"this is {sight.age(place.status):.0f}s old: the agent of {said.node} is silent")
    if not output.document(said):
        _print(said, output)
    return Exit.DONE


async def _changes(cluster: ApiClient, namespace: str, uid: str) -> list[VMEvent]:
    answer = await cluster.get(paths.events(namespace), fieldSelector=f"regarding.uid={uid}")
    ours = [each for each in answer["items"] if each.get("reportingController") == "kubeballoon.io/controller"]
    ours.sort(key=_when)
    return [VMEvent(at=_when(each), reason=each["reason"], note=each.get("note", "")) for each in ours[-_CHANGES:]]


def _when(event: dict[str, Any]) -> str:
    return str(event.get("eventTime") or event["metadata"]["creationTimestamp"])


def _print(said: Explanation, output: Output) -> None:
    output.say(Cell(f"{said.namespace}/{said.name}", Style.STRONG), f" on node {said.node}, state {said.node_state}")
    output.say(f"{said.reason}: {said.message}")
    output.say()
    rows = [
        ("size", size(said.size), "what it was given"),
        ("actual", size(said.actual), "what its balloon leaves it"),
        ("resident", size(said.resident), "what its process holds of the node's memory"),
        ("target", size(said.target), "what is requested" if said.target is not None else "nothing is requested"),
        *(
            [("emergency_target", size(said.emergency_target), "what its agent moves it to instead")]
            if said.emergency_target is not None
            else []
        ),
        ("entitlement", size(said.entitlement), "what its policy and the node come to"),
        ("need", size(said.need), f"what its guest works with{', and it swaps or refaults' if said.troubled else ''}"),
        ("demand", size(said.demand), "need and headroom, within its bounds"),
        ("idle", size(said.idle), "what it holds above its demand"),
    ]
    output.table(["MEMORY", "", ""], rows)
    output.say()
    _print_policy(said.policy, output)
    for title, lines in (("Why not more?", said.why_not_more), ("Why not less?", said.why_not_less)):
        output.bullets(title, lines)
    if said.processors is not None:
        output.say()
        processors.show(said.processors, output)
    if said.changes:
        output.say()
        output.say(Cell("Last changes", Style.STRONG))
        output.table(["AT", "REASON", "WHY"], [(each.at, each.reason, each.note) for each in said.changes])


def _print_policy(policy: GoverningMemoryPolicy | None, output: Output) -> None:
    if policy is None:
        output.say("No MemoryPolicy selects it.")
        return
    over = f", over {', '.join(policy.over)}" if policy.over else ""
    output.table(
        ["POLICY", policy.name, f"{policy.mode}, {policy.when}, priority {policy.priority}{over}"],
        [
            ("min", size(policy.min), "guaranteed whatever happens"),
            ("max", size(policy.max), "the most it may use"),
            ("headroom", size(policy.headroom), "added to its need"),
            ("shares", str(policy.shares_per_gib), "the relative claim of each GiB"),
            ("idleTax", f"{policy.idle_tax}%", "the price of idle memory"),
        ],
    )
