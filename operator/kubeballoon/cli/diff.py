"""This module is ``diff``: it says what policies in files would change, decided from the agents' present reports."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePolicy, Policy, ProcessorPolicy
from kubeballoon.cli import diff_memory, diff_migrations, diff_nodes, diff_processors, diff_summary
from kubeballoon.cli.arguments import PROGRAM, ExitStatus
from kubeballoon.cli.cluster_view import ClusterView, read_cluster, read_node_policies
from kubeballoon.cli.cut_labels import complete_labels
from kubeballoon.cli.diff_result import Comparison, NodeChange, PolicyChange, VirtualMachineChange, has_changes
from kubeballoon.cli.output import Output, Row, warn
from kubeballoon.cli.table import Cell, Column, Style
from kubeballoon.cluster.reader import ApiReader
from kubeballoon.core.formatting import listed
from kubeballoon.governance.loaded_policy import load_memory_policy, load_processor_policy
from kubeballoon.governance.node_policies import load_node_policy
from kubeballoon.manifests import AnyPolicy, RefusedError, read_manifests

K = TypeVar("K", MemoryPolicy, ProcessorPolicy, NodePolicy)
_LISTED = 20  # rows of a table without -o wide: a screen has room for as many


def compare(view: ClusterView, policies: Sequence[AnyPolicy], *, prune: bool) -> Comparison:
    """Compare the cluster as it is with the same cluster once ``policies`` are applied.

    Args:
        view: the cluster as it is.
        policies: what would be applied.
        prune: whether the cluster's other policies would be deleted.
    """
    old_memory = [each.resource for each in view.memory_policies]
    old_processors = [each.resource for each in view.processor_policies]
    memory = _apply(old_memory, [each for each in policies if isinstance(each, MemoryPolicy)], prune=prune)
    processors = _apply(old_processors, [each for each in policies if isinstance(each, ProcessorPolicy)], prune=prune)
    old_of_nodes = [each.resource for each in view.node_policies]
    of_nodes = _apply(old_of_nodes, [each for each in policies if isinstance(each, NodePolicy)], prune=prune)
    node_policies = tuple(map(load_node_policy, of_nodes))
    changed_view = replace(
        view,
        nodes=tuple(diff_nodes.with_node_policies(view.nodes, view.node_policies, node_policies)),
        node_policies=node_policies,
        memory_policies=tuple(map(load_memory_policy, memory)),
        processor_policies=tuple(map(load_processor_policy, processors)),
    )
    nodes, vms = _compare_nodes(view, changed_view)
    known = diff_migrations.plan_migrations(view)
    return Comparison(
        policies=[
            *_compare_policies(old_memory, memory),
            *_compare_policies(old_processors, processors),
            *_compare_policies(old_of_nodes, of_nodes),
        ],
        nodes=nodes,
        virtual_machines=sorted(vms, key=lambda vm: (vm.namespace, vm.name)),
        migrations=[each for each in diff_migrations.plan_migrations(changed_view) if each not in known],
    )


def _compare_nodes(old: ClusterView, new: ClusterView) -> tuple[list[NodeChange], list[VirtualMachineChange]]:
    nodes: list[NodeChange] = []
    vms: list[VirtualMachineChange] = []
    for (pressure, status), (_, changed_status) in zip(old.reporting_nodes(), new.reporting_nodes(), strict=True):
        movable = {report.uid: report.eligible and report.responsive for report in status.virtual_machines}
        before = diff_memory.settle_memory(old.memory_node(pressure, status), movable)
        after = diff_memory.settle_memory(new.memory_node(pressure, changed_status), movable)
        node_processors, vm_processors = diff_processors.compare_processors(pressure, status, old, new)
        vms_of_node = [
            diff_memory.compare_vm(report, *decisions, node=pressure.metadata.name).model_copy(
                update={"processors": processors}
            )
            for report, processors, *decisions in zip(
                status.virtual_machines, vm_processors, before.vms, after.vms, strict=True
            )
        ]
        vms += vms_of_node
        node = diff_memory.compare_node(before, after, vms_of_node)
        limits = diff_nodes.compare_limits(status, changed_status)
        nodes.append(node.model_copy(update={"processors": node_processors, "limits": limits}))
    return nodes, vms


def _apply(present: Sequence[K], applied: Sequence[K], *, prune: bool) -> tuple[K, ...]:
    """List the policies of one kind once ``applied`` are; with ``prune`` all others are gone."""
    before = {policy.metadata.name: policy for policy in present}
    after = {policy.metadata.name: _keep_annotations(policy, before) for policy in applied}
    return tuple((after if prune else {**before, **after}).values())


def _keep_annotations(policy: K, present: Mapping[str, K]) -> K:
    """Add the annotations that others put on the policy in the cluster, a release for example: applying keeps them."""
    before = present.get(policy.metadata.name)
    if before is None:
        return policy
    annotations = {**before.metadata.annotations, **policy.metadata.annotations}
    return policy.model_copy(update={"metadata": before.metadata.model_copy(update={"annotations": annotations})})


def _compare_policies(old: Sequence[AnyPolicy], new: Sequence[AnyPolicy]) -> Iterator[PolicyChange]:
    before, after = ({policy.metadata.name: policy for policy in policies} for policies in (old, new))
    for name, policy in sorted({**before, **after}.items()):
        if name not in after:
            change = "deleted"
        elif name not in before:
            change = "created"
        else:
            change = "unchanged" if before[name].spec == after[name].spec else "changed"
        yield PolicyChange(kind=policy.kind, name=name, change=change)


def run(options: argparse.Namespace, reader: ApiReader, output: Output) -> ExitStatus:
    """Print what would change; the exit status is ATTENTION if that is what --fail-on names.

    Raises:
        ApiError: the cluster cannot be read.
    """
    try:
        policies = read_manifests(options.filename)
    except RefusedError as error:
        for line in error.lines:
            warn(f"{PROGRAM}: {line}")
        return ExitStatus.REFUSED
    if not policies:
        warn(f"{PROGRAM}: the files hold no policy")
        if not options.prune:
            return ExitStatus.REFUSED
    for_vms = [each for each in policies if isinstance(each, Policy)]
    view = complete_labels(reader, read_cluster(reader, for_vms), for_vms)
    view = replace(view, node_policies=read_node_policies(reader))
    silent = [
        f"{pressure.metadata.name} ({view.report_age(status):.0f}s)"
        for pressure, status in view.reporting_nodes()
        if view.is_silent(status)
    ]
    if silent:
        warn(f"warning: reports are old: {listed(silent)}")
    comparison = compare(view, policies, prune=options.prune)
    if not output.print_document(comparison):
        _print_comparison(comparison, output)
    fails = {"overcommit": comparison.has_larger_shortfall, "change": comparison.changes, "never": False}
    return ExitStatus.ATTENTION if fails[options.fail_on] else ExitStatus.DONE


def _print_comparison(comparison: Comparison, output: Output) -> None:
    """Print what the change comes to in a line or two, then what it changes: all of it with ``-o wide``."""
    for policy in comparison.policies:
        if output.wide or policy.change != "unchanged":
            output.print_line(f"{policy.kind} {policy.name} {policy.change}")
    for line in diff_migrations.migration_lines(comparison.migrations):
        output.print_line(Cell(line, Style.WARN))
    vms = comparison.virtual_machines
    if not comparison.changes and not output.wide:
        output.print_line(f"Nothing would change for {len(vms)} VMs.")
        return
    for line in diff_summary.summarize(comparison):
        output.print_line(Cell(line, Style.STRONG))
    _print_limits(comparison, output)
    _print_memory(comparison, output)
    _print_processors(comparison, output)
    unlisted = 0 if output.wide else sum(not has_changes(vm) for vm in vms)
    if unlisted:
        output.print_line()
        output.print_line(f"{unlisted} VMs would not change (-o wide lists them).")


def _print_limits(comparison: Comparison, output: Output) -> None:
    """Print where nodes' states would begin, if NodePolicies change that."""
    changes = [
        (node.name, node.limits)
        for node in comparison.nodes
        if node.limits is not None and (node.limits.changed or output.wide)
    ]
    changes.sort(key=lambda each: (each[1].state_before.severity - each[1].state_after.severity, each[0]))
    rows = [diff_nodes.node_cells(*each) for each in changes]
    _print_first(diff_nodes.NODE_HEADER, rows, "nodes", output)


def _print_memory(comparison: Comparison, output: Output) -> None:
    nodes = [node for node in comparison.nodes if node.changed or output.wide]
    nodes.sort(key=lambda node: (node.shortfall_before - node.shortfall_after, -_moved(node), node.name))
    vms = [vm for vm in comparison.virtual_machines if vm.changed or output.wide]
    vms.sort(key=lambda vm: (-abs(vm.after - vm.before), vm.namespace, vm.name))
    _print_first(diff_memory.NODE_HEADER, [diff_memory.node_cells(node) for node in nodes], "nodes", output)
    header = [*diff_memory.VM_HEADER, *(diff_memory.WIDE_VM_HEADER if output.wide else ())]
    _print_first(header, [diff_memory.vm_cells(vm, wide=output.wide) for vm in vms], "VMs", output)


def _moved(node: NodeChange) -> int:
    return abs(node.reclaimed_after - node.reclaimed_before)


def _print_processors(comparison: Comparison, output: Output) -> None:
    nodes = [
        diff_processors.node_cells(node.name, node.processors)
        for node in comparison.nodes
        if node.processors is not None and (node.processors.changed or output.wide)
    ]
    vms = [
        (vm, vm.processors)
        for vm in comparison.virtual_machines
        if vm.processors is not None and (vm.processors.changed or output.wide)
    ]
    vms.sort(key=lambda each: -abs(each[1].short_after - each[1].short_before))
    _print_first(diff_processors.NODE_HEADER, nodes, "nodes", output)
    header = [*diff_processors.VM_HEADER, *(diff_processors.WIDE_VM_HEADER if output.wide else ())]
    cells = [
        diff_processors.vm_cells(vm.namespace, vm.name, vm.node, processors, wide=output.wide) for vm, processors in vms
    ]
    _print_first(header, cells, "VMs", output)


def _print_first(header: Sequence[Column], rows: Sequence[Row], what: str, output: Output) -> None:
    """Print the first rows of a table, or all with ``-o wide``, and say how many are left out."""
    most = len(rows) if output.wide else _LISTED
    output.print_section(header, rows[:most])
    if len(rows) > most:
        output.print_line(f"… and {len(rows) - most} more {what} (-o wide lists them).")
