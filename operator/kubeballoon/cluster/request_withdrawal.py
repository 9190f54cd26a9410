"""This module withdraws all requests from VMs, and waits until the VMs have everything back.

Without a request a VM's agent returns everything that was reclaimed from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType

from kubeballoon.api.names import LASTING_ANNOTATIONS
from kubeballoon.cluster.client import ApiClient, UnreachableError
from kubeballoon.cluster.vmi_annotations import VMIAnnotator, VMIReference, WriteResult
from kubeballoon.governance.pending_returns import PendingReturn, listed_returns

POLL_SECONDS = 1.0  # agents report a VM's change within a second


async def withdraw(
    cluster: ApiClient, vms: Iterable[tuple[str, str, str]], nodes: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Remove the controller's annotations from VMs.

    Args:
        cluster: the API server.
        vms: the VMs, as (namespace, name, uid).
        nodes: the node of each VM that a node's report names, by uid: if the VM does not run there it is left alone.

    Returns:
        "namespace/name" of the VMs whose annotations were removed: those that are gone are left out.

    Raises:
        ApiError: the API server refuses a patch, or cannot be reached.
    """
    annotator = VMIAnnotator(cluster)

    async def remove(namespace: str, name: str, uid: str) -> str | None:
        vmi = VMIReference(namespace, name, uid, nodes.get(uid))
        result = await annotator.write(vmi, dict.fromkeys(LASTING_ANNOTATIONS))
        return f"{namespace}/{name}" if result is WriteResult.WRITTEN else None

    return [name for name in await asyncio.gather(*(remove(*vm) for vm in vms)) if name is not None]


async def wait_for_returns(
    find_pending: Callable[[], Awaitable[list[PendingReturn]]],
    show_progress: Callable[[str], None],
    seconds: float,
    *,
    at_least: float = 0.0,
    quiet: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[PendingReturn]:
    """Wait until no VM lacks memory or processors any more.

    Args:
        find_pending: finds the VMs that lack something now.
        show_progress: takes a line about the progress whenever it has changed.
        seconds: how long to wait for VMs.
        at_least: seconds to wait even if no VM lacks anything.
        quiet: seconds for which no VM may lack anything before the wait ends.
        clock: monotonic seconds.
        sleep: passes the time between polls.

    Returns:
        The VMs that still lack something after ``seconds``; none if all have everything back.

    Raises:
        UnreachableError: the API server did not answer at the end, so it is not known what VMs lack.
    """
    started = clock()
    complete_since: float | None = None
    shown = ""
    while True:
        pending, fault = await _find(find_pending)
        now = clock()
        if pending or fault is not None:
            complete_since = None
            if now - started + POLL_SECONDS > seconds:
                return _last(pending, fault)
        elif complete_since is None:
            complete_since = now
        if complete_since is not None and now - complete_since >= quiet and now - started >= at_least:
            return []
        progress = _progress(pending) if fault is None else str(fault)
        if progress != shown:
            show_progress(progress)
        shown = progress
        await sleep(POLL_SECONDS)


async def _find(
    find_pending: Callable[[], Awaitable[list[PendingReturn]]],
) -> tuple[list[PendingReturn], UnreachableError | None]:
    """Find the VMs that lack something now, or why that is not known."""
    try:
        return await find_pending(), None
    except UnreachableError as error:
        return [], error


def _last(pending: list[PendingReturn], fault: UnreachableError | None) -> list[PendingReturn]:
    """Return the VMs that lacked something at the last look.

    Raises:
        UnreachableError: the API server did not answer at the last look.
    """
    if fault is not None:
        raise UnreachableError(f"it is not known whether all memory is back: {fault}") from fault
    return pending


def _progress(pending: list[PendingReturn]) -> str:
    return f"waiting for {listed_returns(pending)}" if pending else "all memory is back; making sure that it stays"
