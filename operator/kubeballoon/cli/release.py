"""``release``: give memory back and keep it so, until ``--undo``.

A released policy or node is marked with the annotation kubeballoon.io/release, a VM with its owner's
kubeballoon.io/exclude. The controller then withdraws its requests and makes no others, and no request means the whole
memory: the agents let the balloons go.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.names import EXCLUDE, RELEASE
from kubeballoon.api.v1alpha1 import KINDS, NodePressure, OwnerExclusion, VirtualMachineReport
from kubeballoon.cli.arguments import Exit
from kubeballoon.cli.cluster_view import ClusterView, ReportedVM, find_vm, items, nodes_of, read_cluster, split
from kubeballoon.cli.kind_words import NODE_WORDS
from kubeballoon.cli.output import Output, warn
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.cluster.withdrawal import wait_for_returns, withdraw
from kubeballoon.core.wording import human
from kubeballoon.governance.returns import PendingReturn, pending_returns

QUIET = 3.0  # seconds in which nothing must be left to do: a round under way may still have asked for something


class ReleaseScope(Enum):
    """What is released."""

    ALL = auto()
    NODE = auto()
    VM = auto()


@dataclass(frozen=True, slots=True)
class ReleaseTarget:
    """What is released; ``namespace`` for a VM only, ``name`` for a VM or a node."""

    scope: ReleaseScope
    name: str = ""
    namespace: str = ""

    def covers(self, node: str, report: VirtualMachineReport) -> bool:
        """Whether a VM is part of it."""
        if self.scope is ReleaseScope.VM:
            return (report.namespace, report.name) == (self.namespace, self.name)
        return self.scope is ReleaseScope.ALL or node == self.name

    @property
    def argument(self) -> str:
        """How it is written on the command line."""
        if self.scope is ReleaseScope.VM:
            return f"{self.namespace}/{self.name}"
        return "--all" if self.scope is ReleaseScope.ALL else f"node/{self.name}"

    def __str__(self) -> str:
        if self.scope is ReleaseScope.ALL:
            return "all VMs"
        return f"VM {self.namespace}/{self.name}" if self.namespace else f"node {self.name}"


class ReleaseResult(ApiModel):
    """How a release ended."""

    released: str
    undone: bool
    changed: list[str]
    held: list[PendingReturn]


async def mark(cluster: ApiClient, target: ReleaseTarget, *, on: bool) -> list[str]:
    """Put the marks on, or take them off; what was changed by that.

    Raises:
        ClusterError: a mark could not be written.
    """
    if target.scope is ReleaseScope.VM:
        place = await find_vm(cluster, await read_cluster(cluster), target.namespace, target.name)
        path = paths.instance(target.namespace, target.name)
        # Read here, for the report may be older than the last release.
        annotations = (await cluster.get(path))["metadata"].get("annotations", {})
        excluded = annotations.get(EXCLUDE) == "true"
        return await _annotate(cluster, path, place.report.uid, EXCLUDE, str(target), wanted=on, present=excluded)
    changed = []
    for kind in KINDS:
        # All that is released by --undo --all; else either the policies or the one node.
        both = target.scope is ReleaseScope.ALL and not on
        if both or (kind is NodePressure) == (target.scope is ReleaseScope.NODE):
            for item in await items(cluster, kind):
                name, uid = item["metadata"]["name"], item["metadata"]["uid"]
                if target.scope is ReleaseScope.NODE and name != target.name:
                    continue
                path = f"{paths.ours(kind.plural)}/{name}"
                present = item["metadata"].get("annotations", {}).get(RELEASE) == "true"
                label = f"{kind.__name__} {name}"
                changed += await _annotate(cluster, path, uid, RELEASE, label, wanted=on, present=present)
    return changed


async def _annotate(
    cluster: ApiClient, path: str, uid: str, annotation: str, label: str, *, wanted: bool, present: bool
) -> list[str]:
    if wanted == present:
        return []
    value = "true" if wanted else None
    await cluster.merge(path, {"metadata": {"uid": uid, "annotations": {annotation: value}}})
    return [label]


def exposed(nodes: Sequence[NodePressure], target: ReleaseTarget) -> list[str]:
    """The nodes that have less memory than their VMs may use once they are released, as one line each."""
    lines = []
    for pressure in nodes:
        status = pressure.status
        if status is None or not any(target.covers(pressure.metadata.name, vm) for vm in status.virtual_machines):
            continue
        most = sum(vm.size + vm.overhead for vm in status.virtual_machines) + status.memory.other
        if most > status.memory.total:
            excess = human(most - status.memory.total)
            lines.append(f"warning: node {pressure.metadata.name} is overcommitted by {excess}: its VMs may use it up")
    return lines


async def run(options: argparse.Namespace, cluster: ApiClient, output: Output) -> Exit:
    """Release, or undo that."""
    target = await _target(options, cluster)
    if not options.undo:
        for line in exposed(await nodes_of(cluster), target):
            warn(line)
    changed = await mark(cluster, target, on=not options.undo)
    left: list[PendingReturn] = []
    if not options.undo:

        async def look_again() -> list[PendingReturn]:
            return pending_returns(await nodes_of(cluster), datetime.now(UTC), target.covers)

        if options.without_controller:
            await withdraw(cluster, [(vm.namespace, vm.name, vm.uid) for vm in await look_again()])
        if options.wait:
            left = await wait_for_returns(look_again, warn, options.timeout, quiet=QUIET)
    result = ReleaseResult(released=str(target), undone=options.undo, changed=changed, held=left)
    if not output.document(result):
        _tell(output, options, target, result)
    for vm in left:
        warn(str(vm))
    return Exit.INCOMPLETE if left else Exit.DONE


def _tell(output: Output, options: argparse.Namespace, target: ReleaseTarget, result: ReleaseResult) -> None:
    if options.undo:
        output.say(
            f"{target}: " + (f"driven again ({', '.join(result.changed)})" if result.changed else "not released")
        )
    elif result.held:
        warn(f"{target}: not all memory is back after {options.timeout:.0f}s; the release holds")
    elif options.wait:
        output.say(f"{target}: all memory is back, and stays until `kubectl balloon release {target.argument} --undo`")
    else:
        output.say(f"{target}: released; the memory comes back as fast as the guests take it")
    if target.scope is ReleaseScope.VM and not options.undo:
        output.say(
            f"For as long as it runs. To keep it after a restart set {EXCLUDE} in its VirtualMachine's template."
        )


async def _target(options: argparse.Namespace, cluster: ApiClient) -> ReleaseTarget:
    """What the user means.

    Raises:
        ClusterError: nothing is called so, more than one thing is, or releasing it would have no effect.
    """
    if options.all:
        return ReleaseTarget(ReleaseScope.ALL)
    word, slash, name = options.what.partition("/")
    if slash and word in NODE_WORDS:
        if name not in {node.metadata.name for node in await nodes_of(cluster)}:
            raise ApiError(f"no agent reports a node {name}")
        return ReleaseTarget(ReleaseScope.NODE, name)
    sight = await read_cluster(cluster)
    namespace, name = split(options.what, options.namespace or cluster.namespace)
    if not slash and (node := _node(sight, name)) is not None:
        if any((place.report.namespace, place.report.name) == (namespace, name) for place in sight.places()):
            raise ApiError(f"{name} is a node and a VM: write node/{name} or vm/{name}")
        return node
    place = await find_vm(cluster, sight, namespace, name)
    if not options.undo:
        _check_exclusion(sight, place)
    return ReleaseTarget(ReleaseScope.VM, name, namespace)


def _node(sight: ClusterView, name: str) -> ReleaseTarget | None:
    return ReleaseTarget(ReleaseScope.NODE, name) if any(node.metadata.name == name for node in sight.nodes) else None


def _check_exclusion(sight: ClusterView, place: ReportedVM) -> None:
    policy = sight.governance(place.report).governing
    if policy is not None and policy.resource.spec.owner_exclusion is OwnerExclusion.DENY:
        raise ApiError(
            f"the policy {policy.name} governs {place.report.namespace}/{place.report.name} and says "
            f"ownerExclusion: Deny: change it, or release the VM's node {place.pressure.metadata.name}"
        )
