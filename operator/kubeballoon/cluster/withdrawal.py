"""What a release waits for, whoever runs it: an administrator, or the chart before it is uninstalled.

Once nothing is asked of a VM any more its node's agent gives everything back. Here are taking off what is asked,
judging by the agents' reports who has got everything back, and waiting for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from kubeballoon.api.names import CONTROLLER_ANNOTATIONS
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ConflictError, NotFoundError, UnreachableError
from kubeballoon.governance.returns import PendingReturn, listed_returns

POLL_SECONDS = 1.0  # seconds between looks at how far it is
_AT_ONCE = 8  # patches under way at one time


async def withdraw(cluster: ApiClient, vms: Iterable[tuple[str, str, str]]) -> list[str]:
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


async def wait_for_returns(
    look: Callable[[], Awaitable[list[PendingReturn]]],
    say: Callable[[str], None],
    seconds: float,
    *,
    least: float = 0.0,
    quiet: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[PendingReturn]:
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
        left: list[PendingReturn] = []
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
        if not done and now - started + POLL_SECONDS > seconds:
            if fault is not None:
                raise UnreachableError(f"it is not known whether all memory is back: {fault}") from fault
            return left
        waiting = f"waiting for {listed_returns(left)}" if left else "all memory is back; making sure that it stays"
        state = waiting if fault is None else str(fault)
        if state != said:
            say(state)
        said = state
        await sleep(POLL_SECONDS)
