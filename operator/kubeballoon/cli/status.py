"""``status``: whether all is well, and what needs attention."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodeState, VirtualMachineReport
from kubeballoon.cli.arguments import Exit
from kubeballoon.cli.output import Cell, Output, Style, size
from kubeballoon.cli.sight import Sight, look
from kubeballoon.cluster.client import Cluster
from kubeballoon.cluster.snapshot import exclusion
from kubeballoon.core.allocate import allocate
from kubeballoon.core.wording import human

_BAD = (NodeState.HARD, NodeState.LOW)
_NAMED = 5  # VMs named in one line


class PolicyLine(ApiModel):
    """A policy at a glance; bytes."""

    name: str
    mode: str
    priority: int
    governed: int
    excluded: int
    reserved: int
    ready: str
    reason: str


class Overview(ApiModel):
    """The cluster at a glance; bytes."""

    nodes: int
    silent: int
    states: dict[str, int]
    virtual_machines: int
    governed: int
    excluded: dict[str, int]
    unresponsive: int
    size: int
    reserved: int
    policies: list[PolicyLine]
    attention: list[str]


def overview(sight: Sight) -> Overview:
    """The cluster at a glance."""
    excluded: Counter[str] = Counter()
    governed = unresponsive = 0
    reports = []
    for place in sight.places():
        report = place.report
        reports.append(report)
        policy = sight.governance(report).governing
        why = exclusion(report, policy, released=place.pressure.metadata.released)
        governed += policy is not None
        if why is not None and policy is not None:
            excluded[why[0]] += 1
        unresponsive += why is None and not report.responsive
    return Overview(
        nodes=len(sight.nodes),
        silent=sum(sight.silent(status) for _, status in sight.reported()),
        states={state: sum(status.state is state for _, status in sight.reported()) for state in NodeState},
        virtual_machines=len(reports),
        governed=governed,
        excluded=dict(sorted(excluded.items())),
        unresponsive=unresponsive,
        size=sum(report.size for report in reports),
        reserved=sum(map(reserved, reports)),
        policies=[_policy(policy) for policy in sorted(sight.policies, key=_order)],
        attention=list(attention(sight)),
    )


def reserved(report: VirtualMachineReport) -> int:
    """Memory taken back from a VM, bytes."""
    return 0 if report.actual is None else max(0, report.size - report.actual)


def _order(policy: MemoryPolicy) -> tuple[int, str]:
    return -policy.spec.priority, policy.metadata.name


def _policy(policy: MemoryPolicy) -> PolicyLine:
    status = policy.status
    ready = next((each for each in status.conditions if each.type == "Ready"), None) if status is not None else None
    return PolicyLine(
        name=policy.metadata.name,
        mode=policy.spec.mode,
        priority=policy.spec.priority,
        governed=0 if status is None else status.governed,
        excluded=0 if status is None else sum(each.count for each in status.excluded),
        reserved=0 if status is None else status.reserved,
        ready="Unknown" if ready is None else ready.status,
        reason="NotSeenByController" if ready is None else ready.reason,
    )


def attention(sight: Sight) -> Iterator[str]:
    """What an administrator should look at, one line each, the worst first."""
    if not sight.nodes:
        yield "no agent has reported: do agents run on the nodes?"
    yield from _nodes(sight)
    yield from _policies(sight)
    stuck = [
        f"{place.report.namespace}/{place.report.name}"
        for place in sight.places()
        if not place.report.responsive and place.report.eligible
    ]
    if stuck:
        more = f" and {len(stuck) - _NAMED} more" if len(stuck) > _NAMED else ""
        yield f"VMs that do not follow requests, or cannot be reached: {', '.join(stuck[:_NAMED])}{more}"


def _nodes(sight: Sight) -> Iterator[str]:
    for pressure, status in sight.reported():
        name = pressure.metadata.name
        if sight.silent(status):
            yield f"node {name}: its agent has not reported for {sight.age(status):.0f}s: its requests stand still"
            continue
        if status.state in _BAD:
            yield f"node {name}: state {status.state}, {human(status.memory.available)} available"
        shortfall = allocate(sight.core(pressure, status)).shortfall
        if shortfall:
            yield f"node {name}: the guaranteed minimums exceed its capacity by {human(shortfall)}"
        if pressure.metadata.released:
            yield f"node {name}: released; `kubectl balloon release node/{name} --undo` ends that"
    for pressure in sight.nodes:
        if pressure.status is None:
            yield f"node {pressure.metadata.name}: its agent has not reported yet"


def _policies(sight: Sight) -> Iterator[str]:
    if not sight.policies:
        yield "no policy: nothing is requested of any VM"
    for policy in sight.policies:
        name, status = policy.metadata.name, policy.status
        if policy.metadata.released:
            yield f"policy {name}: released; `kubectl balloon release --all --undo` ends that"
        elif status is None or status.observed_generation != policy.metadata.generation:
            yield f"policy {name}: not seen by the controller yet: does it run?"
        else:
            for condition in status.conditions:
                # What a node lacks is said of the node.
                if condition.type in ("Degraded", "Conflicted") and condition.status == "True":
                    yield f"policy {name}: {condition.message}"


async def run(_: argparse.Namespace, cluster: Cluster, output: Output) -> Exit:
    """Print it; 3 when something needs attention."""
    seen = overview(await look(cluster))
    if not output.document(seen):
        _print(seen, output)
    return Exit.ATTENTION if seen.attention else Exit.DONE


def _print(seen: Overview, output: Output) -> None:
    states = ", ".join(f"{count} {state}" for state, count in seen.states.items() if count)
    silent = f"; {seen.silent} silent" if seen.silent else ""
    output.say(Cell("Nodes     ", Style.STRONG), f"{seen.nodes} ({states}){silent}" if states else str(seen.nodes))
    left_out = ", ".join(f"{count} {reason}" for reason, count in seen.excluded.items())
    output.say(
        Cell("VMs       ", Style.STRONG),
        f"{seen.virtual_machines}, {seen.governed} governed",
        f", not ballooned: {left_out}" if left_out else "",
        f", {seen.unresponsive} unresponsive" if seen.unresponsive else "",
    )
    output.say(Cell("Memory    ", Style.STRONG), f"{size(seen.reserved)} taken back of {size(seen.size)}")
    if seen.policies:
        output.say()
        header = ["POLICY", "MODE", "PRIORITY", "GOVERNED", "EXCLUDED", "RESERVED", "READY", "REASON"]
        output.table(header, [_row(policy) for policy in seen.policies])
    output.say()
    if not seen.attention:
        output.say(Cell("All is well.", Style.GOOD))
        return
    output.say(Cell("Needs attention:", Style.WARN))
    for line in seen.attention:
        output.say(f"- {line}")


def _row(policy: PolicyLine) -> list[str | Cell]:
    return [
        policy.name,
        policy.mode,
        str(policy.priority),
        str(policy.governed),
        str(policy.excluded),
        size(policy.reserved),
        Cell(policy.ready, Style.GOOD if policy.ready == "True" else Style.WARN),
        policy.reason,
    ]
