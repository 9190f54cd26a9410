"""This module is ``release``: it gives memory and processors back, and keeps it so until ``--undo``.

A released policy or node gets the annotation kubeballoon.io/release, a released VM its owner's kubeballoon.io/exclude.
The controller then withdraws its requests and makes no new ones, and an agent gives all memory to a VM without a
request.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from pydantic import Field

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.names import EXCLUDE, RELEASE
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    NodePressure,
    NodePressureStatus,
    OwnerExclusion,
    ProcessorPolicy,
    Resource,
    VirtualMachineReport,
)
from kubeballoon.cli.arguments import PROGRAM, ExitStatus
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
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.errors import ApiError
from kubeballoon.cluster.impersonation import Impersonation
from kubeballoon.cluster.reader import ApiReader
from kubeballoon.cluster.request_withdrawal import wait_for_returns, withdraw
from kubeballoon.core.formatting import counted, human
from kubeballoon.governance.pending_returns import PendingReturn, pending_returns

_RELEASED: tuple[type[Resource], ...] = (MemoryPolicy, ProcessorPolicy, NodePressure)  # a NodePolicy reclaims nothing
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


class NodeShortage(ApiModel):
    """A NodeShortage is a node whose VMs may use more than it has once a release is done.

    Attributes:
        excess: how much more, bytes.
    """

    node: str
    excess: int

    def __str__(self) -> str:
        return f"node {self.node} is overcommitted by {human(self.excess)}: its VMs may use it up"


class ReleaseForecast(ApiModel):
    """A ReleaseForecast is what a release will give back, by the agents' present reports.

    Attributes:
        virtual_machines: the number of VMs that get something back.
        nodes: the number of nodes that these VMs run on.
        memory: how much memory they get back, bytes.
        processors: how many processors they get back.
        short: those of the nodes that would run short.
    """

    virtual_machines: int
    nodes: int
    memory: int
    processors: int
    short: list[NodeShortage]

    def __str__(self) -> str:
        back = f"{human(self.memory)} and {counted(self.processors, 'processor')}"
        total = f"{counted(self.virtual_machines, 'VM')} on {counted(self.nodes, 'node')} get {back} back"
        if not self.short:
            return f"{total}; no node would run short"
        excess = human(sum(each.excess for each in self.short))
        return f"{total}; {len(self.short)} of the nodes would run short, by {excess} together"


class ReleaseResult(ApiModel):
    """A ReleaseResult is the document that ``release`` prints.

    Attributes:
        refused: whether nothing was released because a node would run short.
        changed: the objects whose annotation was set or removed; of a dry run, would be.
        forecast: what the release gives back; None for ``--undo``.
        pending: the VMs that did not have everything back in time; scripts know the key as "held".
    """

    released: str
    undone: bool
    dry_run: bool
    refused: bool
    changed: list[str]
    forecast: ReleaseForecast | None
    pending: list[PendingReturn] = Field(alias="held")


async def annotate(
    client: ApiClient, reader: ApiReader, target: ReleaseTarget, *, undo: bool, dry_run: bool = False
) -> list[str]:
    """Set the annotations that release a target, or remove them, and return the objects that were changed.

    A dry run changes nothing, and returns the objects that would be changed.

    Raises:
        ApiError: an annotation could not be written.
    """
    if target.scope is ReleaseScope.VM:
        vm = find_vm(reader, read_cluster(reader), target.namespace, target.name)
        path = paths.instance(target.namespace, target.name)
        # The report may be older than the last release, so the VMI's own annotations count.
        annotations = reader.get(path)["metadata"].get("annotations", {})
        if (annotations.get(EXCLUDE) == "true") is not undo:
            return []
        if not dry_run:
            await _write_annotation(client, path, vm.report.uid, EXCLUDE, undo=undo)
        return [str(target)]
    changed = []
    for kind in _RELEASED:
        # A node is released by its NodePressure, all VMs by all policies. `--all --undo` ends both kinds of release.
        undo_everything = target.scope is ReleaseScope.ALL and undo
        if not undo_everything and (kind is NodePressure) is not (target.scope is ReleaseScope.NODE):
            continue
        for item in list(list_objects(reader, kind)):
            name, uid = item["metadata"]["name"], item["metadata"]["uid"]
            released = item["metadata"].get("annotations", {}).get(RELEASE) == "true"
            if released is not undo or (target.scope is ReleaseScope.NODE and name != target.name):
                continue
            if not dry_run:
                await _write_annotation(client, f"{paths.ours(kind.plural)}/{name}", uid, RELEASE, undo=undo)
            changed.append(f"{kind.__name__} {name}")
    return changed


async def _write_annotation(client: ApiClient, path: str, uid: str, annotation: str, *, undo: bool) -> None:
    """Set an annotation to "true", or remove it."""
    value = None if undo else "true"
    # With the uid the API server refuses to patch another object that has got the same name meanwhile.
    await client.merge(path, {"metadata": {"uid": uid, "annotations": {annotation: value}}})


def forecast(nodes: Sequence[NodePressure], target: ReleaseTarget) -> ReleaseForecast:
    """Find what a release gives back, and the nodes that have less memory than their VMs may use then."""
    affected = [
        (pressure.metadata.name, pressure.status, vms)
        for pressure in nodes
        if pressure.status is not None
        and (
            vms := [
                vm
                for vm in pressure.status.virtual_machines
                if _gets_something_back(vm) and target.covers(pressure.metadata.name, vm)
            ]
        )
    ]
    every = [vm for _, _, vms in affected for vm in vms]
    shortages = ((name, _most_use(status) - status.memory.total) for name, status, _ in affected)
    return ReleaseForecast(
        virtual_machines=len(every),
        nodes=len(affected),
        memory=sum(vm.reclaimed for vm in every),
        processors=sum(vm.processors_reclaimed for vm in every),
        short=[NodeShortage(node=name, excess=excess) for name, excess in shortages if excess > 0],
    )


def _gets_something_back(vm: VirtualMachineReport) -> bool:
    """Whether something was reclaimed from a VM, or may be because of a request."""
    requested = vm.target is not None or (vm.processors is not None and vm.processors.target is not None)
    return requested or bool(vm.reclaimed or vm.processors_reclaimed)


def _most_use(status: NodePressureStatus) -> int:
    """Sum up what a node's VMs and its other programs may use while nothing is requested of any VM, bytes."""
    vms = sum(vm.overhead + (0 if vm.pooled else vm.size) for vm in status.virtual_machines)
    return vms + status.memory.other


def run(options: argparse.Namespace, reader: ApiReader, output: Output) -> ExitStatus:
    """Release a target or undo its release, and wait.

    Returns:
        INCOMPLETE if the wait was too short; ATTENTION if nothing was released because a node would run short.

    Raises:
        ApiError: the cluster cannot be read or written, or the target does not exist or is ambiguous.
    """
    return asyncio.run(_run(options, reader, output))


async def _run(options: argparse.Namespace, reader: ApiReader, output: Output) -> ExitStatus:
    user = Impersonation(options.as_user, options.as_uid, options.as_groups)
    async with await ApiClient.connect("kubectl-balloon", options.kubeconfig, options.context, user) as client:
        return await _release(options, client, reader, output)


async def _release(options: argparse.Namespace, client: ApiClient, reader: ApiReader, output: Output) -> ExitStatus:
    target = _find_target(options, reader)
    expected = None if options.undo else forecast(list(read_nodes(reader)), target)
    refused = False
    if expected is not None:
        for shortage in expected.short:
            warn(f"warning: {shortage}")
        # A single VM's owner may exclude it too.
        refused = bool(expected.short) and target.scope is not ReleaseScope.VM and not options.force
    may_write = not options.dry_run and not refused
    result = ReleaseResult(
        released=str(target),
        undone=options.undo,
        dry_run=options.dry_run,
        refused=refused,
        changed=[] if refused else await annotate(client, reader, target, undo=options.undo, dry_run=options.dry_run),
        forecast=expected,
        pending=await _wait(options, client, reader, target) if may_write and not options.undo else [],
    )
    if not output.print_document(result):
        _print_result(output, options, target, result)
    for vm in result.pending:
        warn(str(vm))
    if refused:
        warn(f"{PROGRAM}: {target}: nothing is released, because a node would run short; --force releases all the same")
        return ExitStatus.ATTENTION
    return ExitStatus.INCOMPLETE if result.pending else ExitStatus.DONE


async def _wait(
    options: argparse.Namespace, client: ApiClient, reader: ApiReader, target: ReleaseTarget
) -> list[PendingReturn]:
    """Withdraw requests and wait, as far as the options say so, and return the VMs that lack something at the end."""

    async def read_pending() -> list[PendingReturn]:
        return pending_returns(list(read_nodes(reader)), datetime.now(UTC), target.covers)

    if options.without_controller:
        lacking = await read_pending()
        vms = [(vm.namespace, vm.name, vm.uid) for vm in lacking]
        await withdraw(client, vms, {vm.uid: vm.node for vm in lacking})
    if not options.wait:
        return []
    return await wait_for_returns(read_pending, warn, options.timeout, quiet=_QUIET_SECONDS)


def _print_result(output: Output, options: argparse.Namespace, target: ReleaseTarget, result: ReleaseResult) -> None:
    if result.forecast is not None:
        output.print_line(f"{target}: {result.forecast}")
    if result.refused:
        return
    if options.dry_run:
        output.print_line(f"{target}: would change {', '.join(result.changed) or 'nothing'}")
    elif options.undo:
        outcome = f"governed again ({', '.join(result.changed)})" if result.changed else "not released"
        output.print_line(f"{target}: {outcome}")
    elif result.pending:
        warn(f"{target}: not all memory is back after {options.timeout:.0f}s; the release holds")
    elif options.wait:
        undo = f"kubectl balloon release {target.argument} --undo"
        output.print_line(f"{target}: all memory is back, and stays until `{undo}`")
    else:
        output.print_line(f"{target}: released; the memory comes back as fast as the guests take it")
    if target.scope is ReleaseScope.VM and not options.undo and not options.dry_run:
        output.print_line(
            f"For as long as it runs. To keep it after a restart set {EXCLUDE} in its VirtualMachine's template."
        )


def _find_target(options: argparse.Namespace, reader: ApiReader) -> ReleaseTarget:
    """Find what the command line names.

    Raises:
        ApiError: no node or VM has the name, both have it, or the VM's policy denies its exclusion.
    """
    if options.all:
        return ReleaseTarget(ReleaseScope.ALL)
    before_slash, slash, name = options.target.partition("/")
    if slash and before_slash in NODE_ALIASES:
        if name not in {node.metadata.name for node in read_nodes(reader)}:
            raise ApiError(f"no agent reports a node {name}")
        return ReleaseTarget(ReleaseScope.NODE, name)
    view = read_cluster(reader)
    namespace, name = parse_vm_name(options.target, options.namespace or reader.namespace)
    if not slash and any(node.metadata.name == name for node in view.nodes):
        if any((vm.report.namespace, vm.report.name) == (namespace, name) for vm in view.reported_vms()):
            raise ApiError(f"{name} is a node and a VM: write node/{name} or vm/{name}")
        return ReleaseTarget(ReleaseScope.NODE, name)
    vm = find_vm(reader, view, namespace, name)
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
