"""This module is ``status``: it says whether all is well, and what needs attention."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kubeballoon.api.conditions import ConditionType
from kubeballoon.api.meta import ApiModel, Condition, ConditionStatus
from kubeballoon.api.names import CONTROLLER_LEASE, UNINSTALLER_PREFIX
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    NodePolicy,
    NodePolicyStatus,
    Policy,
    PolicyStatus,
    ProcessorPolicy,
    VirtualMachineReport,
)
from kubeballoon.cli.agent_words import agent_words
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.cluster_view import ClusterView, read_cluster, read_node_policies
from kubeballoon.cli.migration_advice import advise_migrations
from kubeballoon.cli.output import Output, format_bytes
from kubeballoon.cli.table import Cell, Column, Style, name, number
from kubeballoon.cluster import paths
from kubeballoon.cluster.errors import ForbiddenError, Object
from kubeballoon.cluster.reader import ApiReader
from kubeballoon.core.formatting import counted, human, listed
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.governance.node_policies import LoadedNodePolicy
from kubeballoon.governance.offences import find_offence
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.governance.vm_counts import CountedVM, VMCounts, count_vms
from kubeballoon.vocabulary import Mode, NodeState

_NOT_SEEN = "NotSeenByController"  # in the place of a condition's reason, of a policy that has no condition yet
# A policy's other conditions repeat what _node_problems says of the nodes.
_FAULTS_OF_POLICIES = (ConditionType.DEGRADED, ConditionType.CONFLICTED, ConditionType.SELF_SERVICE)
_CLOCK_SKEW = 60.0  # seconds by which this machine's clock may be ahead of the controller's


class PolicySummary(ApiModel):
    """A PolicySummary shows a policy in one row.

    Attributes:
        governed: how many VMs it governs; of a NodePolicy, how many nodes.
        reclaimed: bytes; of a MemoryPolicy only.
        processors_reclaimed: of a ProcessorPolicy only.
    """

    kind: str
    name: str
    mode: str
    priority: int
    governed: int
    excluded: int
    reclaimed: int | None = None
    processors_reclaimed: int | None = None
    ready: str
    reason: str


class ProcessorOverview(ApiModel):
    """A ProcessorOverview shows the cluster's processors at a glance.

    Attributes:
        excluded: how many governed VMs are left alone, by reason.
        usage: percent, the highest that any node reports; so is ``stall``.
    """

    governed: int
    excluded: dict[str, int]
    unresponsive: int
    size: int
    reclaimed: int
    usage: int
    stall: int


class Overview(ApiModel):
    """An Overview shows the cluster at a glance; amounts of memory are in bytes.

    Attributes:
        leader: the controller that leads; left out if none does, or if Leases may not be read.
        silent: how many nodes' reports are too old to decide by.
        states: how many nodes are in each state.
        excluded: how many governed VMs are left alone, by reason.
        requested: what the VMs' pods have requested for their guests; more is the VMs' claim by their size alone.
        attention: what an administrator should look at.
    """

    leader: str | None = None
    nodes: int
    silent: int
    states: dict[str, int]
    virtual_machines: int
    governed: int
    excluded: dict[str, int]
    unresponsive: int
    size: int
    requested: int
    reclaimed: int
    processors: ProcessorOverview
    policies: list[PolicySummary]
    attention: list[str]


def _count_memory(view: ClusterView) -> VMCounts:
    vms = (
        CountedVM(vm.node, vm.report, None if policy is None else policy.resource)
        for vm in view.reported_vms()
        for policy in [view.memory_governance(vm.report).governing]
    )
    return count_vms(MEMORY, vms)


def _count_processors(view: ClusterView) -> VMCounts:
    """Count VMs by their processors; of agents that report none nothing is counted."""
    vms = (
        CountedVM(vm.node, vm.report, None if policy is None else policy.resource)
        for vm in view.reported_vms()
        if vm.report.processors is not None
        for policy in [view.processor_governance(vm.report).governing]
    )
    return count_vms(PROCESSORS, vms)


@dataclass(frozen=True, slots=True)
class Leadership:
    """Leadership says which controller leads, or what is wrong; both are None if Leases may not be read."""

    leader: str | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class _LeaseHolder:
    """A _LeaseHolder is who holds, or last held, a Lease; ``age`` in seconds since the Lease was last renewed."""

    identity: str
    age: float
    holds: bool


def leadership(leases: Sequence[Object], now: datetime) -> Leadership:
    """Find the controller that leads, from the Leases of all namespaces in which controllers run or ran."""
    latest_first = sorted(
        (_lease_holder(lease["spec"], now) for lease in leases if "renewTime" in lease["spec"]),
        key=lambda holder: (not holder.holds, holder.age),
    )
    for holder in latest_first:
        if holder.holds and not holder.identity.startswith(UNINSTALLER_PREFIX):
            return Leadership(holder.identity)
    if not latest_first:
        return Leadership(None, "no controller has led yet: does one run?")
    last = latest_first[0]
    if last.holds:
        return Leadership(None, "no controller leads: an uninstallation gives everything back")
    who = f"{last.identity} did" if last.identity else "the last one ended"
    return Leadership(None, f"no controller leads: {who} {last.age:.0f}s ago, and requests stand still")


def _lease_holder(spec: Object, now: datetime) -> _LeaseHolder:
    identity = spec.get("holderIdentity") or ""
    age = (now - datetime.fromisoformat(spec["renewTime"])).total_seconds()
    return _LeaseHolder(identity, age, bool(identity) and age <= spec.get("leaseDurationSeconds", 0) + _CLOCK_SKEW)


def overview(view: ClusterView, leadership: Leadership) -> Overview:
    """Put together the cluster's state at a glance."""
    memory = _count_memory(view)
    reports = [vm.report for vm in view.reported_vms()]
    statuses = [status for _, status in view.reporting_nodes()]
    return Overview(
        leader=leadership.leader,
        nodes=len(view.nodes),
        silent=sum(map(view.is_silent, statuses)),
        states={state: sum(status.state is state for status in statuses) for state in NodeState},
        virtual_machines=len(reports),
        governed=memory.governed,
        excluded=dict(sorted(memory.excluded.items())),
        unresponsive=len(memory.unresponsive),
        size=sum(report.size for report in reports),
        requested=sum(map(_requested, reports)),
        reclaimed=sum(report.reclaimed for report in reports),
        processors=_processor_overview(view),
        policies=[
            *(_summarize_policy(policy) for policy in sorted(view.policies, key=_policy_order)),
            *(_summarize_node_policy(each.resource) for each in sorted(view.node_policies, key=_node_policy_order)),
        ],
        attention=[*([leadership.fault] if leadership.fault is not None else []), *attention(view)],
    )


def _requested(report: VirtualMachineReport) -> int:
    """Find what a VM's pod has requested for the guest, bytes."""
    return report.size if report.pod_request is None else min(report.pod_request, report.size)


def _processor_overview(view: ClusterView) -> ProcessorOverview:
    count = _count_processors(view)
    reports = [vm.report for vm in view.reported_vms()]
    nodes = [status.processors for _, status in view.reporting_nodes() if status.processors is not None]
    return ProcessorOverview(
        governed=count.governed,
        excluded=dict(sorted(count.excluded.items())),
        unresponsive=len(count.unresponsive),
        size=sum(report.processors.size for report in reports if report.processors is not None),
        reclaimed=sum(report.processors_reclaimed for report in reports),
        usage=max((node.usage for node in nodes), default=0),
        stall=max((node.stall for node in nodes), default=0),
    )


def _policy_order(policy: Policy) -> tuple[str, int, str]:
    return policy.kind, -policy.spec.priority, policy.metadata.name


def _summarize_policy(policy: Policy) -> PolicySummary:
    status = policy.status or PolicyStatus()
    memory, processors = None, None
    if isinstance(policy, MemoryPolicy):
        memory = 0 if policy.status is None else policy.status.reclaimed
    if isinstance(policy, ProcessorPolicy):
        processors = 0 if policy.status is None else policy.status.reclaimed
    return PolicySummary(
        kind=policy.kind,
        name=policy.metadata.name,
        mode=policy.spec.mode,
        priority=policy.spec.priority,
        governed=status.governed,
        excluded=sum(each.count for each in status.excluded),
        reclaimed=memory,
        processors_reclaimed=processors,
        **_readiness(status.conditions),
    )


def _node_policy_order(policy: LoadedNodePolicy) -> tuple[int, str]:
    return -policy.resource.spec.priority, policy.name


def _summarize_node_policy(policy: NodePolicy) -> PolicySummary:
    status = policy.status or NodePolicyStatus()
    return PolicySummary(
        kind=policy.kind,
        name=policy.metadata.name,
        mode=Mode.ENFORCE,
        priority=policy.spec.priority,
        governed=status.governed,
        excluded=0,
        **_readiness(status.conditions),
    )


def _readiness(conditions: Sequence[Condition]) -> dict[str, str]:
    """Find whether a policy is ready, and why, as fields of its summary."""
    ready = next((each for each in conditions if each.type == ConditionType.READY), None)
    if ready is None:
        return {"ready": ConditionStatus.UNKNOWN, "reason": _NOT_SEEN}
    return {"ready": ready.status, "reason": ready.reason}


def attention(view: ClusterView) -> Iterator[str]:
    """List what an administrator should look at, one line each, the worst first."""
    if not view.nodes:
        yield "no agent has reported: do agents run on the nodes?"
    yield from _node_problems(view)
    yield from _policy_problems(view)
    yield from _name_unresponsive_vms(view)
    yield from _name_offenders(view)
    yield from _name_vms("VMs whose guests do not follow requests for processors", view, _processors_are_unresponsive)


def _memory_is_unresponsive(report: VirtualMachineReport) -> bool:
    return report.eligible and not report.responsive


def _processors_are_unresponsive(report: VirtualMachineReport) -> bool:
    processors = report.processors
    return (
        processors is not None and processors.target is not None and processors.eligible and not processors.responsive
    )


def _name_vms(title: str, view: ClusterView, condition: Callable[[VirtualMachineReport], bool]) -> Iterator[str]:
    """Name the VMs that meet a condition, in one line; no line if there are none."""
    names = [vm.full_name for vm in view.reported_vms() if condition(vm.report)]
    if names:
        yield f"{title}: {listed(names)}"


def _name_unresponsive_vms(view: ClusterView) -> Iterator[str]:
    """Name the VMs that do not follow, a line for each thing that agents found wrong, the most frequent first.

    Those that _name_offenders names are left out.
    """
    by_words: dict[str, list[str]] = {}
    for vm in view.reported_vms():
        if _memory_is_unresponsive(vm.report) and find_offence(vm.report) is None:
            by_words.setdefault(agent_words(vm.report) or "", []).append(vm.full_name)
    for words, names in sorted(by_words.items(), key=lambda each: (-len(each[1]), each[0])):
        because = f" ({words})" if words else ""
        yield f"VMs that do not follow requests, or cannot be reached{because}: {listed(names)}"


def _name_offenders(view: ClusterView) -> Iterator[str]:
    """Name the VMs whose guests, launchers or objects are to be looked into, a line for each reason."""
    by_reason: dict[AgentReason, list[str]] = {}
    for vm in view.reported_vms():
        offence = find_offence(vm.report)
        if offence is not None:
            by_reason.setdefault(offence.reason, []).append(vm.full_name)
    for reason, names in sorted(by_reason.items()):
        yield f"VMs to be looked into ({reason}: {reason.meaning}): {listed(names)}"


def _advise(view: ClusterView, contended: Collection[str]) -> Iterator[str]:
    """Say which migrations would mend these nodes, a line for each."""
    if not contended:
        return
    heard = [each for each in view.reporting_nodes() if not view.is_silent(each[1])]
    advice = advise_migrations([view.migration_node(pressure, status) for pressure, status in heard])
    yield from (f"node {name}: {advice[name]}" for name in contended if name in advice)


def _contention(node: MemoryNode) -> Iterator[str]:
    """Say what a node lacks that balloons cannot give."""
    from kubeballoon.core.memory.allocation import allocate_memory  # noqa: PLC0415 - numpy, which calm nodes do without

    plan = allocate_memory(node)
    if plan.shortfall:
        yield f"node {node.name}: the guaranteed minimums exceed its capacity by {human(plan.shortfall)}"
    keepers = [f"{each.vm.name} ({human(each.withheld)})" for each in plan.decisions if each.withheld]
    if keepers:
        yield f"node {node.name}: contended; guests keep more than their fair shares: {listed(keepers)}"


def _node_problems(view: ClusterView) -> Iterator[str]:
    contended: list[str] = []
    for pressure, status in view.reporting_nodes():
        name = pressure.metadata.name
        if view.is_silent(status):
            age = view.report_age(status)
            yield f"node {name}: its agent has not reported for {age:.0f}s: its requests stand still"
            continue
        if status.state.only_minimums_hold:
            yield f"node {name}: state {status.state}, {human(status.memory.available)} available"
        memory = view.memory_node(pressure, status)
        lacking = [] if memory.fits_demands else list(_contention(memory))
        contended += [name] if lacking else []
        yield from lacking
        processors = view.processor_node(pressure, status)
        if processors is not None and processors.shortfall:
            yield f"node {name}: the guaranteed minimums exceed its processors by {processors.shortfall}"
        if pressure.metadata.released:
            yield f"node {name}: released; `kubectl balloon release node/{name} --undo` ends that"
    for pressure in view.nodes:
        if pressure.status is None:
            yield f"node {pressure.metadata.name}: its agent has not reported yet"
    yield from _advise(view, contended)


def _policy_problems(view: ClusterView) -> Iterator[str]:
    if not view.policies:
        yield "no policy: nothing is requested of any VM"
    of_nodes = [each.resource for each in view.node_policies]
    policies: list[Policy | NodePolicy] = [*view.policies, *of_nodes]
    for policy in policies:
        name, status = f"{policy.kind} {policy.metadata.name}", policy.status
        if policy.metadata.released:
            yield f"{name}: released; `kubectl balloon release --all --undo` ends that"
        elif status is None or status.observed_generation != policy.metadata.generation:
            yield f"{name}: not seen by the controller yet: does it run?"
        else:
            for condition in status.conditions:
                if condition.type in _FAULTS_OF_POLICIES and condition.status == ConditionStatus.TRUE:
                    yield f"{name}: {condition.message}"


def run(_: argparse.Namespace, reader: ApiReader, output: Output) -> ExitStatus:
    """Print the overview; the exit status is ATTENTION if anything needs it.

    Raises:
        ApiError: the cluster cannot be read.
    """
    view = replace(read_cluster(reader), node_policies=read_node_policies(reader))
    result = overview(view, _read_leadership(reader))
    if not output.print_document(result):
        _print_overview(result, output)
    return ExitStatus.ATTENTION if result.attention else ExitStatus.DONE


def _read_leadership(reader: ApiReader) -> Leadership:
    try:
        leases = list(reader.items(paths.LEASES, fieldSelector=f"metadata.name={CONTROLLER_LEASE}"))
    except ForbiddenError:
        return Leadership()  # users that may not read Leases still see everything else
    return leadership(leases, datetime.now(UTC))


def _print_overview(result: Overview, output: Output) -> None:
    _print_cluster(result, output)
    if result.policies:
        output.print_line()
        output.print_table(_POLICY_HEADER, [_policy_cells(policy) for policy in result.policies])
    output.print_line()
    if not result.attention:
        output.print_line(Cell("All is well.", Style.GOOD))
        return
    output.print_line(Cell("Needs attention:", Style.WARN))
    for problem in result.attention:
        output.print_line(f"- {problem}")


def _print_cluster(result: Overview, output: Output) -> None:
    """Print one line each for the controller, the nodes, the VMs, memory and processors."""
    states = ", ".join(f"{count} {state}" for state, count in result.states.items() if count)
    silent = f"; {result.silent} silent" if result.silent else ""
    nodes = f"{result.nodes} ({states}){silent}" if states else str(result.nodes)
    if result.leader is not None:
        output.print_line(Cell("Controller ", Style.STRONG), f"{result.leader} leads")
    output.print_line(Cell("Nodes      ", Style.STRONG), nodes)
    output.print_line(
        Cell("VMs        ", Style.STRONG),
        f"{result.virtual_machines}, {result.governed} governed",
        _format_left_alone(", not ballooned: ", result.excluded, result.unresponsive),
    )
    output.print_line(
        Cell("Memory     ", Style.STRONG),
        f"{format_bytes(result.reclaimed)} reclaimed of {format_bytes(result.size)}",
        f", of which pods have requested {format_bytes(result.requested)}" if result.requested < result.size else "",
    )
    processors = result.processors
    output.print_line(
        Cell("Processors ", Style.STRONG),
        f"{processors.reclaimed} reclaimed of {processors.size}, of {processors.governed} VMs governed",
        _format_left_alone(", left alone: ", processors.excluded, processors.unresponsive),
        f"; nodes' usage up to {processors.usage}%, stall up to {processors.stall}%",
    )


def _format_left_alone(title: str, excluded: dict[str, int], unresponsive: int) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
    return (f"{title}{reasons}" if reasons else "") + (f"; {unresponsive} unresponsive" if unresponsive else "")


_POLICY_HEADER = (
    *(Column("KIND", optional=1), name("POLICY"), Column("MODE", optional=2), number("PRIORITY", 4)),
    *(number("GOVERNED"), number("EXCLUDED", 3), number("RECLAIMED"), Column("READY"), Column("REASON", optional=5)),
)


def _policy_cells(policy: PolicySummary) -> list[str | Cell]:
    processors = policy.processors_reclaimed
    return [
        policy.kind,
        policy.name,
        policy.mode,
        str(policy.priority),
        counted(policy.governed, "node") if policy.kind == NodePolicy.__name__ else str(policy.governed),
        str(policy.excluded),
        format_bytes(policy.reclaimed) if processors is None else f"{processors}cpu",
        Cell(policy.ready, Style.GOOD if policy.ready == "True" else Style.WARN),
        policy.reason,
    ]
