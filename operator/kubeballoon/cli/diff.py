"""``diff``: what policies in files would change, decided by the core on the cluster's present reports."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.v1alpha1 import MemoryPolicy, Policy, ProcessorPolicy, VirtualMachineReport
from kubeballoon.cli import diff_processors
from kubeballoon.cli.arguments import PROGRAM, Exit
from kubeballoon.cli.cluster_view import ClusterView, read_cluster
from kubeballoon.cli.diff_processors import ProcessorChange, ProcessorNodeChange
from kubeballoon.cli.output import Cell, Output, Style, arrow, size, warn
from kubeballoon.cluster.client import ApiClient
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM
from kubeballoon.governance.loaded_policy import P, load_memory_policy, load_processor_policy
from kubeballoon.manifests import RefusedError, read
from kubeballoon.vocabulary import Mode

_ROUNDS = 32  # of decisions and guests that follow; they settle within a few


class PolicyChange(ApiModel):
    """What happens to a policy: created, changed, unchanged or deleted."""

    kind: str
    name: str
    change: str


class VirtualMachineChange(ApiModel):
    """What a VM has now, and would have once everything has settled, before and after the change; bytes.

    ``changed`` is of its memory; its ``processors`` have one of their own. A VM whose policy only observes keeps its
    memory; ``observed`` is what it would have if that were enforced.
    """

    namespace: str
    name: str
    node: str
    changed: bool
    policy_before: str | None = None
    policy_after: str | None = None
    now: int
    before: int
    after: int
    min_before: int | None = None
    min_after: int | None = None
    observed: int | None = None
    reason: str
    message: str
    processors: ProcessorChange | None = None


class NodeChange(ApiModel):
    """What a node would have, before and after the change; bytes. ``changed`` is of memory."""

    name: str
    state: str
    changed: bool
    capacity: int
    reclaimed_before: int = Field(alias="reservedBefore")  # a key that scripts read
    reclaimed_after: int = Field(alias="reservedAfter")  # likewise
    shortfall_before: int
    shortfall_after: int
    risk_before: int
    risk_after: int
    processors: ProcessorNodeChange | None = None


class Comparison(ApiModel):
    """All of it."""

    policies: list[PolicyChange]
    nodes: list[NodeChange]
    virtual_machines: list[VirtualMachineChange]

    @property
    def changes(self) -> bool:
        """Whether any VM or node would have anything else."""
        return any(map(_changes, self.virtual_machines)) or any(map(_changes, self.nodes))

    @property
    def overcommits(self) -> bool:
        """Whether a node's minimums would exceed what it has by more than without the change."""
        return any(
            each.shortfall_after > each.shortfall_before
            for node in self.nodes
            for each in (node, node.processors)
            if each is not None
        )


def _changes(line: VirtualMachineChange | NodeChange) -> bool:
    return line.changed or (line.processors is not None and line.processors.changed)


@dataclass(frozen=True, slots=True)
class Settled:
    """A node once every guest has followed."""

    node: MemoryNode
    plan: MemoryPlan

    @property
    def vms(self) -> Iterator[tuple[MemoryVM, MemoryDecision]]:
        """Its VMs, and what was decided of each."""
        return zip(self.node.vms, self.plan.decisions, strict=True)


def settle(node: MemoryNode, movable: Mapping[str, bool]) -> Settled:
    """Decide, and let the guests follow, until nothing moves; ``movable`` by uid: whether an agent can move it."""
    for _ in range(_ROUNDS):
        plan = allocate_memory(node)
        vms = tuple(
            _follow(vm, decision.target, movable=movable[vm.uid])
            for vm, decision in zip(node.vms, plan.decisions, strict=True)
        )
        freed = sum(before.actual - after.actual for before, after in zip(node.vms, vms, strict=True))
        if vms == node.vms:
            break
        # What balloons free is available; how full the node's other memory is stays as reported.
        node = replace(node, vms=vms, available=max(0, min(node.total, node.available + freed)))
    return Settled(node, allocate_memory(node))


def _follow(vm: MemoryVM, target: int | None, *, movable: bool) -> MemoryVM:
    actual = vm.actual
    if movable:
        actual = vm.size if target is None else min(vm.size, target)
    return replace(vm, target=target, actual=actual, last_change=None)


def compare(sight: ClusterView, policies: Sequence[Policy], *, prune: bool) -> Comparison:
    """What the cluster would come to with these policies put to, or (``prune``) in place of, those it has."""
    memory = _merged(
        [each.resource for each in sight.policies],
        [each for each in policies if isinstance(each, MemoryPolicy)],
        prune=prune,
    )
    cpus = _merged(
        [each.resource for each in sight.processor_policies],
        [each for each in policies if isinstance(each, ProcessorPolicy)],
        prune=prune,
    )
    other = replace(
        sight,
        policies=tuple(map(load_memory_policy, memory)),
        processor_policies=tuple(map(load_processor_policy, cpus)),
    )
    nodes, vms = [], []
    for pressure, status in sight.reported():
        movable = {report.uid: report.eligible and report.responsive for report in status.virtual_machines}
        old, new = (settle(each.core(pressure, status), movable) for each in (sight, other))
        node_cpus, vm_cpus = diff_processors.compare(pressure, status, sight, other)
        lines = [
            _vm(report, *pair, node=pressure.metadata.name).model_copy(update={"processors": cpu})
            for report, cpu, *pair in zip(status.virtual_machines, vm_cpus, old.vms, new.vms, strict=True)
        ]
        vms += lines
        nodes.append(_node(old, new, lines).model_copy(update={"processors": node_cpus}))
    return Comparison(
        policies=[
            *_policies([each.resource for each in sight.policies], memory),
            *_policies([each.resource for each in sight.processor_policies], cpus),
        ],
        nodes=nodes,
        virtual_machines=sorted(vms, key=lambda vm: (vm.namespace, vm.name)),
    )


def _merged(known: Sequence[P], wanted: Sequence[P], *, prune: bool) -> tuple[P, ...]:
    """The policies of one kind once ``wanted`` are applied."""
    before = {policy.metadata.name: policy for policy in known}
    after = {policy.metadata.name: _applied(policy, before) for policy in wanted}
    return tuple((after if prune else {**before, **after}).values())


def _applied(policy: P, known: Mapping[str, P]) -> P:
    """A policy as it would be once applied: an annotation that others put on it, such as a release, stays."""
    before = known.get(policy.metadata.name)
    if before is None:
        return policy
    annotations = {**before.metadata.annotations, **policy.metadata.annotations}
    return policy.model_copy(update={"metadata": before.metadata.model_copy(update={"annotations": annotations})})


def _policies(known: Sequence[Policy], wanted: Sequence[Policy]) -> Iterator[PolicyChange]:
    before, after = ({policy.metadata.name: policy for policy in policies} for policies in (known, wanted))
    for name, policy in sorted({**before, **after}.items()):
        if name not in after:
            change = "deleted"
        elif name not in before:
            change = "created"
        else:
            change = "unchanged" if before[name].spec == after[name].spec else "changed"
        yield PolicyChange(kind=policy.kind, name=name, change=change)


def _vm(
    report: VirtualMachineReport,
    old: tuple[MemoryVM, MemoryDecision],
    new: tuple[MemoryVM, MemoryDecision],
    *,
    node: str,
) -> VirtualMachineChange:
    (before, was), (after, decision) = old, new
    names = [None if vm.policy is None else vm.policy.name for vm in (before, after)]
    minimums = [None if vm.policy is None or vm.excluded is not None else vm.minimum for vm in (before, after)]
    observes = after.policy is not None and after.policy.mode is Mode.OBSERVE
    moved = abs(after.actual - before.actual) > after.dead_band
    observed = decision.entitlement if observes and decision.vm.excluded is None else None
    return VirtualMachineChange(
        namespace=report.namespace,
        name=report.name,
        node=node,
        changed=moved or names[0] != names[1] or minimums[0] != minimums[1] or was.reason is not decision.reason,
        policy_before=names[0],
        policy_after=names[1],
        now=report.actual or report.size,
        before=before.actual,
        after=after.actual,
        min_before=minimums[0],
        min_after=minimums[1],
        observed=observed,
        reason=decision.reason,
        message=decision.message,
    )


def _node(old: Settled, new: Settled, vms: Iterable[VirtualMachineChange]) -> NodeChange:
    return NodeChange(
        name=new.node.name,
        state=new.node.state,
        changed=any(vm.changed for vm in vms)
        or (old.plan.shortfall, old.plan.risk) != (new.plan.shortfall, new.plan.risk),
        capacity=new.node.capacity,
        reclaimed_before=_reclaimed(old),
        reclaimed_after=_reclaimed(new),
        shortfall_before=old.plan.shortfall,
        shortfall_after=new.plan.shortfall,
        risk_before=old.plan.risk,
        risk_after=new.plan.risk,
    )


def _reclaimed(settled: Settled) -> int:
    return sum(max(0, vm.size - vm.actual) for vm in settled.node.vms)


async def run(options: argparse.Namespace, cluster: ApiClient, output: Output) -> Exit:
    """Print what would change."""
    try:
        policies = read(options.filename)
    except RefusedError as error:
        for line in error.lines:
            warn(f"{PROGRAM}: {line}")
        return Exit.REFUSED
    if not policies:
        warn(f"{PROGRAM}: the files hold no policy")
        if not options.prune:
            return Exit.REFUSED
    sight = await read_cluster(cluster)
    for pressure, status in sight.reported():
        if sight.silent(status):
            warn(f"node {pressure.metadata.name}: its report is {sight.age(status):.0f}s old")
    comparison = compare(sight, policies, prune=options.prune)
    if not output.document(comparison):
        _print(comparison, output)
    failed = {"overcommit": comparison.overcommits, "change": comparison.changes, "never": False}[options.fail_on]
    return Exit.ATTENTION if failed else Exit.DONE


def _print(comparison: Comparison, output: Output) -> None:
    for policy in comparison.policies:
        if output.wide or policy.change != "unchanged":
            output.say(f"{policy.kind} {policy.name} {policy.change}")
    every = comparison.virtual_machines
    if not comparison.changes and not output.wide:
        output.say(f"Nothing would change for {len(every)} VMs.")
        return
    _print_memory(comparison, output)
    _print_processors(comparison, output)
    same = 0 if output.wide else sum(not _changes(vm) for vm in every)
    if same:
        output.say()
        output.say(f"{same} more VMs would not change (-o wide lists them).")


def _print_memory(comparison: Comparison, output: Output) -> None:
    nodes = [_node_row(node) for node in comparison.nodes if node.changed or output.wide]
    vms = [_vm_row(vm) for vm in comparison.virtual_machines if vm.changed or output.wide]
    output.section(["NODE", "STATE", "CAPACITY", "RECLAIMED", "SHORTFALL", "RISK"], nodes)
    output.section(["NAMESPACE", "VM", "NODE", "POLICY", "MIN", "NOW", "BEFORE", "AFTER", "WHY"], vms)


def _print_processors(comparison: Comparison, output: Output) -> None:
    nodes = [(node.name, node.processors) for node in comparison.nodes if node.processors is not None]
    vms = [(vm, vm.processors) for vm in comparison.virtual_machines if vm.processors is not None]
    output.section(
        diff_processors.NODE_HEADER,
        [diff_processors.node_row(name, change) for name, change in nodes if change.changed or output.wide],
    )
    output.section(
        diff_processors.VM_HEADER,
        [
            diff_processors.vm_row(vm.namespace, vm.name, vm.node, change)
            for vm, change in vms
            if change.changed or output.wide
        ],
    )


def _node_row(node: NodeChange) -> list[str | Cell]:
    worse = node.shortfall_after > node.shortfall_before
    return [
        *(node.name, node.state, size(node.capacity)),
        arrow(size(node.reclaimed_before), size(node.reclaimed_after)),
        Cell(arrow(size(node.shortfall_before), size(node.shortfall_after)), Style.BAD if worse else Style.PLAIN),
        arrow(size(node.risk_before), size(node.risk_after)),
    ]


def _vm_row(vm: VirtualMachineChange) -> list[str | Cell]:
    less = vm.after < vm.before
    why = vm.message if vm.observed is None else f"observed only, would have {size(vm.observed)}: {vm.message}"
    return [
        *(vm.namespace, vm.name, vm.node),
        arrow(vm.policy_before or "-", vm.policy_after or "-"),
        arrow(size(vm.min_before), size(vm.min_after)),
        *map(size, (vm.now, vm.before)),
        Cell(size(vm.after), Style.PLAIN if vm.after == vm.before else Style.WARN if less else Style.GOOD),
        why,
    ]
