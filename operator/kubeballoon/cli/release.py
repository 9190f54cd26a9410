"""This module is ``release``: it gives memory and processors back, and keeps it so until ``--undo``.

A released policy or node gets the annotation kubeballoon.io/release, a released VM its owner's kubeballoon.io/exclude.
The controller then withdraws its requests and makes no new ones, and an agent gives all memory to a VM without a
request.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.names import EXCLUDE, RELEASE
from kubeballoon.api.v1alpha1 import KINDS, NodePressure, OwnerExclusion, VirtualMachineReport
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.cluster_view import (
    ClusterView,
    ReportedVM,
    find_vm,
    list_objects,
    parse_vm_name,
    read_cluster,
    read_nodes,
)
from kubeballoon.cli.output import Output, warn
from kubeballoon.cli.resource_aliases import NODE_ALIASES
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.cluster.request_withdrawal import wait_for_returns, withdraw
from kubeballoon.core.formatting import human
from kubeballoon.governance.pending_returns import PendingReturn, pending_returns

_QUIET_SECONDS = 3.0  # for which everything must be back: a round that was under way may still have made a request


class ReleaseScope(Enum):
    """A ReleaseScope says what kind of thing is released."""

    ALL = auto()
    NODE = auto()
    VM = auto()


@dataclass(frozen=True, slots=True)
class ReleaseTarget:
    """A ReleaseTarget is what is released: one VM, the VMs of a node, or all VMs.

    Attributes:
        name: of the node or VM.
        namespace: of the VM.
    """

    scope: ReleaseScope
    name: str = ""
    namespace: str = ""

    def covers(self, node: str, report: VirtualMachineReport) -> bool:
        """Whether a VM on a node is released."""
        if self.scope is ReleaseScope.VM:
            return (report.namespace, report.name) == (self.namespace, self.name)
        return self.scope is ReleaseScope.ALL or node == self.name

    @property
    def argument(self) -> str:
        """The argument by which the command line names the target."""
        if self.scope is ReleaseScope.VM:
            return f"{self.namespace}/{self.name}"
        return "--all" if self.scope is ReleaseScope.ALL else f"node/{self.name}"

    def __str__(self) -> str:
        if self.scope is ReleaseScope.ALL:
            return "all VMs"
        return f"VM {self.namespace}/{self.name}" if self.namespace else f"node {self.name}"


class ReleaseResult(ApiModel):
    """A ReleaseResult is the document that ``release`` prints.

    Attributes:
        changed: the objects whose annotation was set or removed.
        pending: the VMs that did not have everything back in time; scripts know the key as "held".
    """

    released: str
    undone: bool
    changed: list[str]
    pending: list[PendingReturn] = Field(alias="held")


async def annotate(client: ApiClient, target: ReleaseTarget, *, undo: bool) -> list[str]:
    """Set the annotations that release a target, or remove them, and return the objects that were changed.

    Raises:
        ApiError: an annotation could not be written.
    """
    if target.scope is ReleaseScope.VM:
        vm = await find_vm(client, await read_cluster(client), target.namespace, target.name)
        path = paths.instance(target.namespace, target.name)
        # The report may be older than the last release, so the VMI's own annotations count.
        annotations = (await client.get(path))["metadata"].get("annotations", {})
        if (annotations.get(EXCLUDE) == "true") is not undo:
            return []
        return await _write_annotation(client, path, vm.report.uid, EXCLUDE, str(target), undo=undo)
    changed = []
    for kind in KINDS:
        # A node is released by its NodePressure, all VMs by all policies. `--all --undo` ends both kinds of release.
        undo_everything = target.scope is ReleaseScope.ALL and undo
        if not undo_everything and (kind is NodePressure) is not (target.scope is ReleaseScope.NODE):
            continue
        for item in await list_objects(client, kind):
            name, uid = item["metadata"]["name"], item["metadata"]["uid"]
            released = item["metadata"].get("annotations", {}).get(RELEASE) == "true"
            if released is not undo or (target.scope is ReleaseScope.NODE and name != target.name):
                continue
            path, label = f"{paths.ours(kind.plural)}/{name}", f"{kind.__name__} {name}"
            changed += await _write_annotation(client, path, uid, RELEASE, label, undo=undo)
    return changed


async def _write_annotation(
    client: ApiClient, path: str, uid: str, annotation: str, label: str, *, undo: bool
) -> list[str]:
    """Set an annotation to "true", or remove it, and return the object's label."""
    value = None if undo else "true"
    # With the uid the API server refuses to patch another object that has got the same name meanwhile.
    await client.merge(path, {"metadata": {"uid": uid, "annotations": {annotation: value}}})
    return [label]


def risk_warnings(nodes: Sequence[NodePressure], target: ReleaseTarget) -> list[str]:
    """Warn, one line each, of nodes with less memory than their VMs may use once the target is released."""
    warnings = []
    for pressure in nodes:
        status = pressure.status
        if status is None or not any(target.covers(pressure.metadata.name, vm) for vm in status.virtual_machines):
            continue
        sizes = (vm.overhead + (0 if vm.pooled else vm.size) for vm in status.virtual_machines)
        most = sum(sizes) + status.memory.other
        if most > status.memory.total:
            excess = human(most - status.memory.total)
            warnings.append(
                f"warning: node {pressure.metadata.name} is overcommitted by {excess}: its VMs may use it up"
            )
    return warnings


async def run(options: argparse.Namespace, client: ApiClient, output: Output) -> ExitStatus:
    """Release a target or undo its release, and wait; the exit status is INCOMPLETE if the wait was too short.

    Raises:
        ApiError: the cluster cannot be read or written, or the target does not exist or is ambiguous.
    """
    target = await _find_target(options, client)
    if not options.undo:
        for line in risk_warnings(await read_nodes(client), target):
            warn(line)
    changed = await annotate(client, target, undo=options.undo)
    pending: list[PendingReturn] = []
    if not options.undo:

        async def read_pending() -> list[PendingReturn]:
            return pending_returns(await read_nodes(client), datetime.now(UTC), target.covers)

        if options.without_controller:
            lacking = await read_pending()
            vms = [(vm.namespace, vm.name, vm.uid) for vm in lacking]
            await withdraw(client, vms, {vm.uid: vm.node for vm in lacking})
        if options.wait:
            pending = await wait_for_returns(read_pending, warn, options.timeout, quiet=_QUIET_SECONDS)
    result = ReleaseResult(released=str(target), undone=options.undo, changed=changed, pending=pending)
    if not output.print_document(result):
        _print_result(output, options, target, result)
    for vm in pending:
        warn(str(vm))
    return ExitStatus.INCOMPLETE if pending else ExitStatus.DONE


def _print_result(output: Output, options: argparse.Namespace, target: ReleaseTarget, result: ReleaseResult) -> None:
    if options.undo:
        outcome = f"governed again ({', '.join(result.changed)})" if result.changed else "not released"
        output.print_line(f"{target}: {outcome}")
    elif result.pending:
        warn(f"{target}: not all memory is back after {options.timeout:.0f}s; the release holds")
    elif options.wait:
        undo = f"kubectl balloon release {target.argument} --undo"
        output.print_line(f"{target}: all memory is back, and stays until `{undo}`")
    else:
        output.print_line(f"{target}: released; the memory comes back as fast as the guests take it")
    if target.scope is ReleaseScope.VM and not options.undo:
        output.print_line(
            f"For as long as it runs. To keep it after a restart set {EXCLUDE} in its VirtualMachine's template."
        )


async def _find_target(options: argparse.Namespace, client: ApiClient) -> ReleaseTarget:
    """Find what the command line names.

    Raises:
        ApiError: no node or VM has the name, both have it, or the VM's policy denies its exclusion.
    """
    if options.all:
        return ReleaseTarget(ReleaseScope.ALL)
    before_slash, slash, name = options.target.partition("/")
    if slash and before_slash in NODE_ALIASES:
        if name not in {node.metadata.name for node in await read_nodes(client)}:
            raise ApiError(f"no agent reports a node {name}")
        return ReleaseTarget(ReleaseScope.NODE, name)
    view = await read_cluster(client)
    namespace, name = parse_vm_name(options.target, options.namespace or client.namespace)
    if not slash and any(node.metadata.name == name for node in view.nodes):
        if any((vm.report.namespace, vm.report.name) == (namespace, name) for vm in view.reported_vms()):
            raise ApiError(f"{name} is a node and a VM: write node/{name} or vm/{name}")
        return ReleaseTarget(ReleaseScope.NODE, name)
    vm = await find_vm(client, view, namespace, name)
    if not options.undo:
        _check_exclusion(view, vm)
    return ReleaseTarget(ReleaseScope.VM, name, namespace)


def _check_exclusion(view: ClusterView, vm: ReportedVM) -> None:
    """Check that the policy that governs a VM lets its owner exclude it.

    Raises:
        ApiError: the policy denies that, so the annotation would have no effect.
    """
    policy = view.memory_governance(vm.report).governing
    if policy is not None and policy.resource.spec.owner_exclusion is OwnerExclusion.DENY:
        raise ApiError(
            f"the policy {policy.name} governs {vm.full_name} and says ownerExclusion: Deny: change it, or release "
            f"the VM's node {vm.node.metadata.name}"
        )
