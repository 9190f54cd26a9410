"""``status``: whether all is well, and what needs attention."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import MemoryPolicy, Policy, PolicyStatus, ProcessorPolicy, VirtualMachineReport
from kubeballoon.cli.arguments import Exit
from kubeballoon.cli.cluster_view import ClusterView, read_cluster
from kubeballoon.cli.output import Cell, Output, Style, size
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ForbiddenError, Object
from kubeballoon.cluster.lease import CONTROLLER
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.wording import human, listed
from kubeballoon.governance.exclusion import Excluded, memory_exclusion, processor_exclusion
from kubeballoon.governance.loaded_policy import AnyLoadedPolicy
from kubeballoon.vocabulary import NodeState

_SKEW = 60.0  # seconds by which clocks may differ before a controller counts as gone
_UNINSTALLING = "uninstall_"  # how the holder of the Lease is called that gives everything back


class PolicyLine(ApiModel):
    """A policy at a glance: a MemoryPolicy says how many bytes it reclaims, a ProcessorPolicy how many processors."""

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
    """The cluster's processors at a glance; the most that a node reports of usage and stall, in percent."""

    governed: int
    excluded: dict[str, int]
    unresponsive: int
    size: int
    reclaimed: int
    usage: int
    stall: int


class Overview(ApiModel):
    """The cluster at a glance; bytes."""

    leader: str | None = None
    nodes: int
    silent: int
    states: dict[str, int]
    virtual_machines: int
    governed: int
    excluded: dict[str, int]
    unresponsive: int
    size: int
    reclaimed: int
    processors: ProcessorOverview
    policies: list[PolicyLine]
    attention: list[str]


@dataclass(slots=True)
class _Count:
    """The VMs of one kind of policy."""

    governed: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    unresponsive: int = 0

    def add(self, policy: AnyLoadedPolicy | None, excluded: Excluded | None, *, responsive: bool) -> None:
        """One VM more."""
        self.governed += policy is not None
        if excluded is not None and policy is not None:
            self.excluded[excluded.reason] += 1
        self.unresponsive += excluded is None and not responsive

    @property
    def reasons(self) -> dict[str, int]:
        """How many are left alone, by reason."""
        return dict(sorted(self.excluded.items()))


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads, and what is wrong with that; both None where the Leases may not be read."""

    leader: str | None = None
    fault: str | None = None


def leadership(leases: Sequence[Object], now: datetime) -> Leadership:
    """What the controllers' Leases tell, one for each namespace in which controllers run or ran."""
    renewed = sorted((_renewal(lease["spec"], now) for lease in leases if "renewTime" in lease["spec"]), reverse=True)
    for leading, _, holder in renewed:
        if leading and not holder.startswith(_UNINSTALLING):
            return Leadership(holder)
    if not renewed:
        return Leadership(None, "no controller has led yet: does one run?")
    leading, age, holder = renewed[0]
    if leading:
        return Leadership(None, "no controller leads: an uninstallation gives everything back")
    last = f"{holder} did" if holder else "the last one ended"
    return Leadership(None, f"no controller leads: {last} {-age:.0f}s ago, and requests stand still")


def _renewal(spec: Object, now: datetime) -> tuple[bool, float, str]:
    """Whether a Lease is held, the seconds since its renewal as a negative number, and by whom."""
    holder, age = spec.get("holderIdentity") or "", (now - datetime.fromisoformat(spec["renewTime"])).total_seconds()
    return bool(holder) and age <= spec.get("leaseDurationSeconds", 0) + _SKEW, -age, holder


def overview(sight: ClusterView, leads: Leadership) -> Overview:
    """The cluster at a glance."""
    memory, cpus = _Count(), _Count()
    reports = []
    for place in sight.places():
        report, released = place.report, place.pressure.metadata.released
        reports.append(report)
        policy = sight.governance(report).governing
        memory.add(
            policy,
            memory_exclusion(report, None if policy is None else policy.resource, node_released=released),
            responsive=report.responsive,
        )
        if report.processors is not None:
            other = sight.processor_governance(report).governing
            why = processor_exclusion(report, None if other is None else other.resource, node_released=released)
            cpus.add(other, why, responsive=report.processors.responsive)
    nodes = [status.processors for _, status in sight.reported() if status.processors is not None]
    return Overview(
        leader=leads.leader,
        nodes=len(sight.nodes),
        silent=sum(sight.silent(status) for _, status in sight.reported()),
        states={state: sum(status.state is state for _, status in sight.reported()) for state in NodeState},
        virtual_machines=len(reports),
        governed=memory.governed,
        excluded=memory.reasons,
        unresponsive=memory.unresponsive,
        size=sum(report.size for report in reports),
        reclaimed=sum(report.reclaimed for report in reports),
        processors=ProcessorOverview(
            governed=cpus.governed,
            excluded=cpus.reasons,
            unresponsive=cpus.unresponsive,
            size=sum(report.processors.size for report in reports if report.processors is not None),
            reclaimed=sum(report.processors_reclaimed for report in reports),
            usage=max((node.usage for node in nodes), default=0),
            stall=max((node.stall for node in nodes), default=0),
        ),
        policies=[_policy(policy) for policy in sorted(sight.every_policy, key=_order)],
        attention=[*([leads.fault] if leads.fault is not None else []), *attention(sight)],
    )


def _order(policy: Policy) -> tuple[str, int, str]:
    return policy.kind, -policy.spec.priority, policy.metadata.name


def _policy(policy: Policy) -> PolicyLine:
    status = policy.status or PolicyStatus()
    memory, processors = None, None
    if isinstance(policy, MemoryPolicy):
        memory = 0 if policy.status is None else policy.status.reclaimed
    if isinstance(policy, ProcessorPolicy):
        processors = 0 if policy.status is None else policy.status.reclaimed
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    return PolicyLine(
        kind=policy.kind,
        name=policy.metadata.name,
        mode=policy.spec.mode,
        priority=policy.spec.priority,
        governed=status.governed,
        excluded=sum(each.count for each in status.excluded),
        reclaimed=memory,
        processors_reclaimed=processors,
        ready="Unknown" if ready is None else ready.status,
        reason="NotSeenByController" if ready is None else ready.reason,
    )


def attention(sight: ClusterView) -> Iterator[str]:
    """What an administrator should look at, one line each, the worst first."""
    if not sight.nodes:
        yield "no agent has reported: do agents run on the nodes?"
    yield from _nodes(sight)
    yield from _policies(sight)
    yield from _stuck("VMs that do not follow requests, or cannot be reached", sight, _memory_stuck)
    yield from _stuck("VMs whose guests do not follow requests for processors", sight, _processors_stuck)


def _memory_stuck(report: VirtualMachineReport) -> bool:
    return report.eligible and not report.responsive


def _processors_stuck(report: VirtualMachineReport) -> bool:
    seen = report.processors
    return seen is not None and seen.target is not None and seen.eligible and not seen.responsive


def _stuck(title: str, sight: ClusterView, is_stuck: Callable[[VirtualMachineReport], bool]) -> Iterator[str]:
    stuck = [f"{place.report.namespace}/{place.report.name}" for place in sight.places() if is_stuck(place.report)]
    if stuck:
        yield f"{title}: {listed(stuck)}"


def _nodes(sight: ClusterView) -> Iterator[str]:
    for pressure, status in sight.reported():
        name = pressure.metadata.name
        if sight.silent(status):
            yield f"node {name}: its agent has not reported for {sight.age(status):.0f}s: its requests stand still"
            continue
        if NodeState(status.state).only_minimums_hold:
            yield f"node {name}: state {status.state}, {human(status.memory.available)} available"
        shortfall = allocate_memory(sight.core(pressure, status)).shortfall
        if shortfall:
            yield f"node {name}: the guaranteed minimums exceed its capacity by {human(shortfall)}"
        cpus = sight.processors(pressure, status)
        lacking = 0 if cpus is None else allocate_processors(cpus).shortfall
        if lacking:
            yield f"node {name}: the guaranteed minimums exceed its processors by {lacking}"
        if pressure.metadata.released:
            yield f"node {name}: released; `kubectl balloon release node/{name} --undo` ends that"
    for pressure in sight.nodes:
        if pressure.status is None:
            yield f"node {pressure.metadata.name}: its agent has not reported yet"


def _policies(sight: ClusterView) -> Iterator[str]:
    if not sight.every_policy:
        yield "no policy: nothing is requested of any VM"
    for policy in sight.every_policy:
        name, status = f"{policy.kind} {policy.metadata.name}", policy.status
        if policy.metadata.released:
            yield f"{name}: released; `kubectl balloon release --all --undo` ends that"
        elif status is None or status.observed_generation != policy.metadata.generation:
            yield f"{name}: not seen by the controller yet: does it run?"
        else:
            for condition in status.conditions:
                # What a node lacks is said of the node.
                if condition.type in ("Degraded", "Conflicted") and condition.status == "True":
                    yield f"{name}: {condition.message}"


async def run(_: argparse.Namespace, cluster: ApiClient, output: Output) -> Exit:
    """Print it; 3 when something needs attention."""
    seen = overview(await read_cluster(cluster), await _leadership(cluster))
    if not output.document(seen):
        _print(seen, output)
    return Exit.ATTENTION if seen.attention else Exit.DONE


async def _leadership(cluster: ApiClient) -> Leadership:
    try:
        leases = (await cluster.get(paths.LEASES, fieldSelector=f"metadata.name={CONTROLLER}"))["items"]
    except ForbiddenError:
        return Leadership()
    return leadership(leases, datetime.now(UTC))


def _print(seen: Overview, output: Output) -> None:
    states = ", ".join(f"{count} {state}" for state, count in seen.states.items() if count)
    silent = f"; {seen.silent} silent" if seen.silent else ""
    if seen.leader is not None:
        output.say(Cell("Controller ", Style.STRONG), f"{seen.leader} leads")
    output.say(Cell("Nodes      ", Style.STRONG), f"{seen.nodes} ({states}){silent}" if states else str(seen.nodes))
    output.say(
        Cell("VMs        ", Style.STRONG),
        f"{seen.virtual_machines}, {seen.governed} governed",
        _left_out(", not ballooned: ", seen.excluded, seen.unresponsive),
    )
    output.say(Cell("Memory     ", Style.STRONG), f"{size(seen.reclaimed)} reclaimed of {size(seen.size)}")
    cpus = seen.processors
    output.say(
        Cell("Processors ", Style.STRONG),
        f"{cpus.reclaimed} reclaimed of {cpus.size}, of {cpus.governed} VMs governed",
        _left_out(", left alone: ", cpus.excluded, cpus.unresponsive),
        f"; nodes' usage up to {cpus.usage}%, stall up to {cpus.stall}%",
    )
    if seen.policies:
        output.say()
        header = ["KIND", "POLICY", "MODE", "PRIORITY", "GOVERNED", "EXCLUDED", "RECLAIMED", "READY", "REASON"]
        output.table(header, [_row(policy) for policy in seen.policies])
    output.say()
    if not seen.attention:
        output.say(Cell("All is well.", Style.GOOD))
        return
    output.say(Cell("Needs attention:", Style.WARN))
    for line in seen.attention:
        output.say(f"- {line}")


def _left_out(title: str, excluded: dict[str, int], unresponsive: int) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in excluded.items())
    return (f"{title}{reasons}" if reasons else "") + (f"; {unresponsive} unresponsive" if unresponsive else "")


def _row(policy: PolicyLine) -> list[str | Cell]:
    return [
        policy.kind,
        policy.name,
        policy.mode,
        str(policy.priority),
        str(policy.governed),
        str(policy.excluded),
        size(policy.reclaimed) if policy.processors_reclaimed is None else f"{policy.processors_reclaimed} processors",
        Cell(policy.ready, Style.GOOD if policy.ready == "True" else Style.WARN),
        policy.reason,
    ]
