"""``release``: give memory back and keep it so, until ``--undo``.

A released policy or node is marked with the annotation kubeballoon.io/release, a VM with its owner's
kubeballoon.io/exclude. The controller then withdraws its requests and makes no others, and no request means the whole
memory: the agents let the balloons go.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.names import CONTROLLER_ANNOTATIONS, EXCLUDE, RELEASE
from kubeballoon.api.v1alpha1 import KINDS, NodePressure, OwnerExclusion, VirtualMachineReport
from kubeballoon.cli.arguments import Exit
from kubeballoon.cli.output import Output, size, warn
from kubeballoon.cli.sight import Place, Sight, find, items, look, nodes_of, split
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import Cluster, ClusterError, ConflictError, NotFoundError, UnreachableError
from kubeballoon.cluster.snapshot import SILENT
from kubeballoon.core.wording import human

LOOK = 1.0  # seconds between looks at how far it is
QUIET = 3.0  # seconds in which nothing must be left to do: a round under way may still have asked for something
_ALLOWANCE = 64  # agents report a balloon's move from a hundredth of the VM's size on


class Scope(Enum):
    """What is released."""

    ALL = auto()
    NODE = auto()
    VM = auto()


@dataclass(frozen=True, slots=True)
class Target:
    """What is released; ``namespace`` for a VM only, ``name`` for a VM or a node."""

    scope: Scope
    name: str = ""
    namespace: str = ""

    def covers(self, node: str, report: VirtualMachineReport) -> bool:
        """Whether a VM is part of it."""
        if self.scope is Scope.VM:
            return (report.namespace, report.name) == (self.namespace, self.name)
        return self.scope is Scope.ALL or node == self.name

    def __str__(self) -> str:
        if self.scope is Scope.ALL:
            return "all VMs"
        return f"VM {self.namespace}/{self.name}" if self.namespace else f"node {self.name}"


class Held(ApiModel):
    """A VM that does not have all of its memory; bytes."""

    namespace: str
    name: str
    node: str
    uid: str
    size: int
    actual: int | None = None
    reason: str


class Result(ApiModel):
    """How a release ended."""

    released: str
    undone: bool
    changed: list[str]
    held: list[Held]


async def mark(cluster: Cluster, target: Target, *, on: bool) -> list[str]:
    """Put the marks on, or take them off; what was changed by that.

    Raises:
        ClusterError: a mark could not be written.
    """
    if target.scope is Scope.VM:
        place = await find(cluster, await look(cluster), target.namespace, target.name)
        path = paths.instance(target.namespace, target.name)
        # Read here, for the report may be older than the last release.
        annotations = (await cluster.get(path))["metadata"].get("annotations", {})
        excluded = annotations.get(EXCLUDE) == "true"
        return await _annotate(cluster, path, place.report.uid, EXCLUDE, str(target), wanted=on, present=excluded)
    changed = []
    for kind in KINDS:
        # All that is released by --undo --all; else either the policies or the one node.
        both = target.scope is Scope.ALL and not on
        if both or (kind is NodePressure) == (target.scope is Scope.NODE):
            for item in await items(cluster, kind):
                name, uid = item["metadata"]["name"], item["metadata"]["uid"]
                if target.scope is Scope.NODE and name != target.name:
                    continue
                path = f"{paths.ours(kind.plural)}/{name}"
                present = item["metadata"].get("annotations", {}).get(RELEASE) == "true"
                label = f"{kind.__name__} {name}"
                changed += await _annotate(cluster, path, uid, RELEASE, label, wanted=on, present=present)
    return changed


async def _annotate(
    cluster: Cluster, path: str, uid: str, annotation: str, label: str, *, wanted: bool, present: bool
) -> list[str]:
    if wanted == present:
        return []
    value = "true" if wanted else None
    await cluster.merge(path, {"metadata": {"uid": uid, "annotations": {annotation: value}}})
    return [label]


def held(nodes: Sequence[NodePressure], target: Target, now: datetime) -> list[Held]:
    """The VMs that do not have all of their memory yet, and why."""
    return [
        Held(
            namespace=report.namespace,
            name=report.name,
            node=pressure.metadata.name,
            uid=report.uid,
            size=report.size,
            actual=report.actual,
            reason=reason,
        )
        for pressure in nodes
        if pressure.status is not None
        for report in pressure.status.virtual_machines
        if target.covers(pressure.metadata.name, report)
        for reason in [_holds(report, (now - pressure.status.observed_at).total_seconds())]
        if reason is not None
    ]


def _holds(report: VirtualMachineReport, age: float) -> str | None:
    """Why a VM does not have its memory; None when it has, or when nothing here moves its balloon."""
    requested = report.target is not None
    short = report.eligible and report.actual is not None and report.size - report.actual > report.size // _ALLOWANCE
    lost = report.eligible and report.actual is None and not report.responsive
    if not (requested or short or lost):
        return None
    if age > SILENT:
        return f"its node's agent has not reported for {age:.0f}s"
    if not report.responsive:
        return report.message or "its driver does not follow"
    if requested:
        return f"{human(report.target or 0)} of {human(report.size)} is still requested of it"
    return f"it holds {size(report.actual)} of {human(report.size)}"


async def withdraw(cluster: Cluster, vms: Sequence[Held]) -> None:
    """Take the controller's annotations off the VMs, for when no controller does it."""
    for vm in vms:
        body = {"metadata": {"uid": vm.uid, "annotations": dict.fromkeys(CONTROLLER_ANNOTATIONS)}}
        try:
            await cluster.merge(paths.instance(vm.namespace, vm.name), body)
        except (NotFoundError, ConflictError):
            continue  # gone, and its request with it


async def wait(cluster: Cluster, target: Target, seconds: float, say: Callable[[str], None]) -> list[Held]:
    """Wait until all memory is back, at most ``seconds``; the VMs that are left to wait for then."""
    started = time.monotonic()
    quiet = None
    left: list[Held] = []
    said = ""
    while True:
        try:
            left = held(await nodes_of(cluster), target, datetime.now(UTC))
        except UnreachableError as error:
            state, quiet = str(error), None
        else:
            state = _progress(left)
            quiet = None if left else quiet or time.monotonic()
        if quiet is not None and time.monotonic() - quiet >= QUIET:
            return []
        if time.monotonic() - started + LOOK > seconds:
            return left
        if state != said:
            say(state)
            said = state
        await asyncio.sleep(LOOK)


def _progress(left: Sequence[Held]) -> str:
    if not left:
        return "all memory is back; making sure that it stays"
    missing = sum(vm.size - vm.actual for vm in left if vm.actual is not None)
    return f"waiting for {len(left)} VM{'s' if len(left) > 1 else ''}: {size(missing)} to go"


def exposed(nodes: Sequence[NodePressure], target: Target) -> list[str]:
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


async def run(options: argparse.Namespace, cluster: Cluster, output: Output) -> Exit:
    """Release, or undo that."""
    target = await _target(options, cluster)
    if not options.undo:
        for line in exposed(await nodes_of(cluster), target):
            warn(line)
    changed = await mark(cluster, target, on=not options.undo)
    left: list[Held] = []
    if not options.undo:
        if options.without_controller:
            await withdraw(cluster, held(await nodes_of(cluster), target, datetime.now(UTC)))
        if options.wait:
            left = await wait(cluster, target, options.timeout, warn)
    result = Result(released=str(target), undone=options.undo, changed=changed, held=left)
    if not output.document(result):
        _tell(output, options, target, result)
    for vm in left:
        warn(f"{vm.namespace}/{vm.name} on {vm.node}: {vm.reason}")
    return Exit.INCOMPLETE if left else Exit.DONE


def _tell(output: Output, options: argparse.Namespace, target: Target, result: Result) -> None:
    if options.undo:
        output.say(
            f"{target}: " + (f"driven again ({', '.join(result.changed)})" if result.changed else "not released")
        )
    elif result.held:
        warn(f"{target}: not all memory is back after {options.timeout:.0f}s; the release holds")
    elif options.wait:
        output.say(f"{target}: all memory is back, and stays until `kubectl balloon release --undo`")
    else:
        output.say(f"{target}: released; the memory comes back as fast as the guests take it")
    if target.scope is Scope.VM and not options.undo:
        output.say(
            f"For as long as it runs. To keep it after a restart set {EXCLUDE} in its VirtualMachine's template."
        )


async def _target(options: argparse.Namespace, cluster: Cluster) -> Target:
    """What the user means.

    Raises:
        ClusterError: nothing is called so, more than one thing is, or releasing it would have no effect.
    """
    if options.all:
        return Target(Scope.ALL)
    word, slash, name = options.what.partition("/")
    if slash and word in ("node", "nodes", "no"):
        if name not in {node.metadata.name for node in await nodes_of(cluster)}:
            raise ClusterError(f"no agent reports a node {name}")
        return Target(Scope.NODE, name)
    sight = await look(cluster)
    namespace, name = split(options.what, options.namespace or cluster.namespace)
    if not slash and (node := _node(sight, name)) is not None:
        if any((place.report.namespace, place.report.name) == (namespace, name) for place in sight.places()):
            raise ClusterError(f"{name} is a node and a VM: write node/{name} or vm/{name}")
        return node
    place = await find(cluster, sight, namespace, name)
    if not options.undo:
        _check_exclusion(sight, place)
    return Target(Scope.VM, name, namespace)


def _node(sight: Sight, name: str) -> Target | None:
    return Target(Scope.NODE, name) if any(node.metadata.name == name for node in sight.nodes) else None


def _check_exclusion(sight: Sight, place: Place) -> None:
    policy = sight.governance(place.report).governing
    if policy is not None and policy.spec.owner_exclusion is OwnerExclusion.DENY:
        raise ClusterError(
            f"the policy {policy.metadata.name} governs {place.report.namespace}/{place.report.name} and says "
            f"ownerExclusion: Deny: change it, or release the VM's node {place.pressure.metadata.name}"
        )
