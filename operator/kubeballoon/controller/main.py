"""``kubeballoon controller``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import Any

import kopf

from kubeballoon.api.duration import parse_duration
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.events import EventRecorder
from kubeballoon.cluster.lease import CONTROLLER, Lease, own_namespace
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.counters import Counters
from kubeballoon.controller.handlers import Handlers
from kubeballoon.controller.metrics import ControllerMetrics
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.scheduler import Scheduler
from kubeballoon.metrics import new_registry
from kubeballoon.options import add_client_options, add_serving_options, checked
from kubeballoon.serving import serve

_log = logging.getLogger(__name__)

_GOODBYE = 1.0  # seconds each part may take to end
_HANDOVER = 5.0  # seconds the Lease may take to be handed back: without that the next leader waits three times as long


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
    _heed_signals(stop)
    identity = f"{socket.gethostname()}_{os.getpid()}"
    async with await ApiClient.connect("kubeballoon-controller", options.kubeconfig) as cluster:
        state = ClusterState(options.cool_down)
        announcer = EventRecorder(cluster, identity)
        registry = new_registry()
        rounds = RoundRunner(cluster, state, announcer, Counters(registry))
        scheduler = Scheduler(cluster, state, announcer, rounds)
        lease = Lease(cluster, options.namespace or own_namespace(), CONTROLLER, identity)
        leading = asyncio.create_task(lease.acquire(), name="acquire")

        registry.register(ControllerMetrics(state, rounds, leading.done))

        def live() -> str | None:
            return scheduler.stalled() if leading.done() else None

        def ready() -> str | None:
            return scheduler.fault if leading.done() else lease.fault

        async with serve(*options.listen, live=live, ready=ready, metrics=registry):
            if not await _before(leading, stop):
                return 0
            _log.info("leading as %s", identity)
            try:
                return await _lead(state, scheduler, lease, stop)
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HANDOVER):
                        await lease.release()


async def _lead(state: ClusterState, scheduler: Scheduler, lease: Lease, stop: asyncio.Event) -> int:
    """Run all parts until the stop is asked for; 1 when one of them ends before."""
    parts = {
        asyncio.create_task(scheduler.run(), name="scheduler"),
        asyncio.create_task(lease.keep(), name="lease"),
        asyncio.create_task(stop.wait(), name="stop"),
    }
    kopf_ = asyncio.create_task(_watch(Handlers(state, scheduler).registry(), stop), name="kopf")
    done, _ = await asyncio.wait({*parts, kopf_}, return_when=asyncio.FIRST_COMPLETED)
    asked = stop.is_set()
    stop.set()
    for part in parts:
        part.cancel()
    await asyncio.wait({*parts, kopf_}, timeout=_GOODBYE)
    if not kopf_.done():
        # It waits for every task that is younger than itself, such as a connection that a probe keeps open.
        kopf_.cancel()
        await asyncio.wait({kopf_}, timeout=_GOODBYE)
    for part in {*parts, kopf_}:
        if part.done() and not part.cancelled() and (part.exception() is not None or (part in done and not asked)):
            _mourn(part)
    return 0 if asked else 1


async def _watch(registry: kopf.OperatorRegistry, stop: asyncio.Event) -> None:
    """Run kopf until the stop is asked for."""
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(registry=registry, standalone=True, clusterwide=True, stop_flag=stop)
    _heed_signals(stop)  # kopf took them, and told by them it would wait seconds for the flag's own task
    await kopf.run_tasks(tasks, ignored=others)


def _heed_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _mourn(part: asyncio.Task[Any]) -> None:
    """Say why the controller ends though nobody asked for it."""
    error = part.exception()
    if part.get_name() == "lease" and error is None:
        _log.error("leadership was lost")
    elif part.get_name() == "kopf":
        _log.error("watching ended: %s", error or "for no reason known", exc_info=_log.isEnabledFor(logging.DEBUG))
    else:
        _log.error("%s ended: %s", part.get_name(), error, exc_info=error)


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
