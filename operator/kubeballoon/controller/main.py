"""``kubeballoon controller``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
from pathlib import Path

import kopf

from kubeballoon.api.duration import parse_duration
from kubeballoon.cluster.announce import Announcer
from kubeballoon.cluster.client import Cluster
from kubeballoon.cluster.lease import Lease
from kubeballoon.controller.handlers import Handlers
from kubeballoon.controller.round import Rounds
from kubeballoon.controller.scheduler import Scheduler
from kubeballoon.controller.world import World
from kubeballoon.options import add_client_options, add_serving_options, checked
from kubeballoon.serving import serve

_log = logging.getLogger(__name__)

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_GOODBYE = 10.0  # seconds the parts have to end
LEASE = "kubeballoon-controller"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser("controller", help="decide how much memory each VM may use", description=__doc__)
    add_client_options(parser)
    add_serving_options(parser)
    parser.add_argument("--namespace", help="where the Lease is kept (default: the pod's own)")
    parser.add_argument(
        "--cool-down",
        type=checked(parse_duration, "duration"),
        default="1m",
        help="how long a VM's target keeps its direction while nobody is in need (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run until told to stop."""
    if options.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(options.kubeconfig)  # the one way to tell kopf
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    identity = f"{socket.gethostname()}_{os.getpid()}"
    async with await Cluster.connect("kubeballoon-controller", options.kubeconfig) as cluster:
        world = World(options.cool_down)
        announcer = Announcer(cluster, identity)
        scheduler = Scheduler(cluster, world, announcer, Rounds(cluster, world, announcer))
        lease = Lease(cluster, options.namespace or _own_namespace(), LEASE, identity)
        leading = asyncio.create_task(lease.acquire(), name="acquire")

        def live() -> str | None:
            return scheduler.stalled() if leading.done() else None

        def ready() -> str | None:
            if not leading.done():
                return lease.fault
            return None if scheduler.synced else "not all policies and nodes are read yet"

        async with serve(*options.listen, live=live, ready=ready):
            if not await _before(leading, stop):
                return 0
            _log.info("leading as %s", identity)
            try:
                return await _lead(world, scheduler, lease, stop)
            finally:
                await lease.release()


async def _lead(world: World, scheduler: Scheduler, lease: Lease, stop: asyncio.Event) -> int:
    """Run all parts until the first one ends; 1 when that was not asked for."""
    parts = {
        asyncio.create_task(scheduler.run(), name="scheduler"),
        asyncio.create_task(lease.keep(), name="lease"),
    }
    # Started last: kopf ends what was started after it.
    operator = asyncio.create_task(
        kopf.operator(
            registry=Handlers(world, scheduler).registry(), standalone=True, clusterwide=True, stop_flag=stop
        ),
        name="kopf",
    )
    done, _ = await asyncio.wait({*parts, operator}, return_when=asyncio.FIRST_COMPLETED)
    asked = stop.is_set() or done == {operator}
    stop.set()
    for part in parts:
        part.cancel()
    await asyncio.wait({*parts, operator}, timeout=_GOODBYE)
    for task in done:
        if task.exception() is not None:
            _log.error("%s ended: %s", task.get_name(), task.exception(), exc_info=task.exception())
        elif task.get_name() == "lease" and not asked:
            _log.error("leadership was lost")
    return 0 if asked and not any(task.exception() for task in done) else 1


async def _before(task: asyncio.Task[None], stop: asyncio.Event) -> bool:
    """Whether the task ended before the stop was asked for."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
        return False
    await task
    return True


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "kubeballoon-system"
