"""What a release waits for, whoever runs it: an administrator, or the chart before it is uninstalled.

Once nothing is asked of a VM any more its node's agent gives everything back. Here are taking off what is asked,
judging by the agents' reports who has got everything back, and waiting for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime

from kubeballoon.api.meta import ApiModel
from kubeballoon.api.names import CONTROLLER_ANNOTATIONS
from kubeballoon.api.v1alpha1 import NodePressure, ProcessorReport, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import Cluster, ConflictError, NotFoundError, UnreachableError
from kubeballoon.cluster.snapshot import SILENT
from kubeballoon.core.wording import human, listed

LOOK = 1.0  # seconds between looks at how far it is
_ALLOWANCE = 64  # agents report a balloon's move from a hundredth of the VM's size on
_AT_ONCE = 8  # patches under way at one time


class Held(ApiModel):
    """A VM that does not have everything back yet; bytes."""

    namespace: str
    name: str
    node: str
    uid: str
    size: int
    actual: int | None = None
    reason: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name} on {self.node}: {self.reason}"


def held(
    nodes: Iterable[NodePressure], now: datetime, covers: Callable[[str, VirtualMachineReport], bool]
) -> list[Held]:
    """The VMs that do not have everything back yet, of those that ``covers`` says are meant, given node and report."""
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
        if covers(pressure.metadata.name, report)
        for reason in [_lacks(report, (now - pressure.status.observed_at).total_seconds())]
        if reason is not None
    ]


def named(vms: Sequence[Held]) -> str:
    """The VMs and their reasons in one line, only the first of many."""
    return listed(vms, "; ")


def _lacks(report: VirtualMachineReport, age: float) -> str | None:
    """What a VM does not have back; None when it has everything, or when nothing here takes anything from it."""
    lacks = _lacks_memory(report) or _lacks_processors(report.processors)
    if lacks is not None and age > SILENT:
        return f"{lacks}; its node's agent has not reported for {age:.0f}s"
    return lacks


def _lacks_memory(report: VirtualMachineReport) -> str | None:
    if report.target is not None:
        return f"is still asked to keep to {human(report.target)}"
    if report.actual is None:
        if not report.eligible:
            return None
        return f"is out of sight ({report.message or 'its agent does not reach it'})"
    if report.size - report.actual <= report.size // _ALLOWANCE:
        return None
    hindered = "" if report.responsive else f" ({report.message or 'its driver does not follow'})"
    return f"has {human(report.actual)} of {human(report.size)}{hindered}"


def _lacks_processors(report: ProcessorReport | None) -> str | None:
    if report is None:
        return None
    if report.target is not None:
        return f"is still asked to keep to {report.target} processors"
    # What its agent gives a reason for may need a restart of the VM, and is no memory: nobody waits for that.
    # What nobody here took is its owner's affair.
    if not report.returning or report.online is None or report.online >= report.size or report.reason is not None:
        return None
    return f"has {report.online} of {report.size} processors"


async def withdraw(cluster: Cluster, vms: Iterable[tuple[str, str, str]]) -> list[str]:
    """Take the controller's annotations off VMs, given as (namespace, name, uid); whose were taken off.

    Raises:
        ClusterError: that is not possible, but for VMs that are gone.
    """
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(namespace: str, name: str, uid: str) -> str | None:
        body = {"metadata": {"uid": uid, "annotations": dict.fromkeys(CONTROLLER_ANNOTATIONS)}}
        try:
            async with limit:
                await cluster.merge(paths.instance(namespace, name), body)
        except (NotFoundError, ConflictError):
            return None  # gone, and its request with it; or another by that name, seen at the next look
        return f"{namespace}/{name}"

    return [name for name in await asyncio.gather(*(one(*vm) for vm in vms)) if name is not None]


async def wait(
    look: Callable[[], Awaitable[list[Held]]],
    say: Callable[[str], None],
    seconds: float,
    *,
    least: float = 0.0,
    quiet: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Held]:
    """Look until nobody lacks anything, and say how far it is; what is left after ``seconds``.

    Args:
        look: who lacks something now.
        say: is told when anything changed.
        seconds: how long to wait for VMs.
        least: seconds that must pass in any case.
        quiet: seconds in which nobody must lack anything.
        clock: monotonic seconds.
        sleep: passes the time between looks.

    Raises:
        UnreachableError: the API server did not answer at the end, so it is not known.
    """
    started = clock()
    since: float | None = None
    said = ""
    while True:
        left: list[Held] = []
        fault: UnreachableError | None = None
        try:
            left = await look()
        except UnreachableError as error:
            fault = error
        now = clock()
        done = not left and fault is None
        since = (now if since is None else since) if done else None
        if since is not None and now - since >= quiet and now - started >= least:
            return []
        if not done and now - started + LOOK > seconds:
            if fault is not None:
                raise UnreachableError(f"it is not known whether all memory is back: {fault}") from fault
            return left
        waiting = f"waiting for {named(left)}" if left else "all memory is back; making sure that it stays"
        state = waiting if fault is None else str(fault)
        if state != said:
            say(state)
        said = state
        await sleep(LOOK)
