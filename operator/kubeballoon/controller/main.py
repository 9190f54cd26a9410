"""This module is the command ``kubeballoon controller``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
from typing import Any, cast

import kopf

from kubeballoon.api.duration import parse_duration
from kubeballoon.api.names import CONTROLLER
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.events import EventRecorder
from kubeballoon.cluster.lease import Lease, own_namespace
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.kind_check import KindCheck
from kubeballoon.controller.kopf_handlers import Handlers
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.metric_gauges import ControllerGauges
from kubeballoon.controller.rounds import RoundRunner
from kubeballoon.controller.scheduler import Scheduler
from kubeballoon.controller.wait_times import DEFAULT_TIMING
from kubeballoon.metrics import new_registry
from kubeballoon.options import add_client_options, add_serving_options, checked
from kubeballoon.serving import serve

_log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 1.0  # for the tasks to end after they were cancelled
_HAND_BACK_SECONDS = 5.0  # for handing the Lease back: if that fails, the next leader waits until it expires, 15 s


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "controller",
        help="decide how much memory and how many processors each VM may use",
        description="Decides how much memory and how many processors each VM may use.",
    )
    add_client_options(parser)
    add_serving_options(parser)
    parser.add_argument("--namespace", help="where the Lease is kept (default: the pod's own)")
    parser.add_argument(
        "--cool-down",
        type=checked(parse_duration, "duration"),
        default="1m",
        help="how long a memory target that rose may not fall, and the reverse, unless its guest or node is short of "
        "memory (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run until a signal stops the controller; the exit status is 1 if it ends before."""
    if options.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(options.kubeconfig)  # kopf reads it from nowhere else
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    _stop_on_signals(stop)
    identity = f"{socket.gethostname()}_{os.getpid()}"
    async with await ApiClient.connect("kubeballoon-controller", options.kubeconfig) as cluster:
        state = ClusterState(options.cool_down)
        recorder = EventRecorder(cluster, identity)
        registry = new_registry("controller")
        counters = ControllerCounters(registry)
        rounds = RoundRunner(cluster, state, recorder, counters)
        scheduler = Scheduler(cluster, state, recorder, rounds, counters)
        lease = Lease(cluster, options.namespace or own_namespace(), CONTROLLER, identity)
        acquiring = asyncio.create_task(lease.acquire(), name="acquire")
        leads = acquiring.done
        kinds = KindCheck(cluster, DEFAULT_TIMING.kinds_interval)

        registry.register(ControllerGauges(state, rounds, leads))

        def live() -> str | None:
            return scheduler.stalled() if leads() else None

        def ready() -> str | None:
            return scheduler.unready() if leads() else lease.fault or kinds.fault

        async with serve(*options.listen, live=live, ready=ready, metrics=registry):
            checking = asyncio.create_task(kinds.run(), name="check kinds")
            acquired = await _ends_before(acquiring, stop)
            checking.cancel()  # a leader reads all objects itself
            if not acquired:
                return 0
            _log.info("leading as %s", identity)
            try:
                return await _lead(state, scheduler, lease, stop)
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HAND_BACK_SECONDS):
                        await lease.hand_back()


async def _lead(state: ClusterState, scheduler: Scheduler, lease: Lease, stop: asyncio.Event) -> int:
    """Run scheduler, Lease and kopf until ``stop`` is set; return the exit status: 1 if one of them ends before."""
    tasks = {
        asyncio.create_task(scheduler.run(), name="scheduler"),
        asyncio.create_task(lease.keep(), name="lease"),
        asyncio.create_task(stop.wait(), name="stop"),
    }
    kopf_task = asyncio.create_task(_run_kopf(Handlers(state, scheduler).registry(), stop, lease.identity), name="kopf")
    first, _ = await asyncio.wait({*tasks, kopf_task}, return_when=asyncio.FIRST_COMPLETED)
    requested = stop.is_set()
    stop.set()
    for task in tasks:
        task.cancel()
    await asyncio.wait({*tasks, kopf_task}, timeout=_SHUTDOWN_SECONDS)
    if not kopf_task.done():
        # kopf waits for every task that was started after it, such as a connection that a probe keeps open.
        kopf_task.cancel()
        await asyncio.wait({kopf_task}, timeout=_SHUTDOWN_SECONDS)
    for task in {*tasks, kopf_task}:
        if task.done() and not task.cancelled():
            unexpected = task in first and not requested
            if unexpected or task.exception() is not None:
                _log_exit(task)
    return 0 if requested else 1


async def _run_kopf(registry: kopf.OperatorRegistry, stop: asyncio.Event, identity: str) -> None:
    """Run kopf until ``stop`` is set.

    kopf is told its ``identity``, for it would else ask for the name of the user that it runs as: the image's has none.
    """
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=registry, standalone=True, clusterwide=True, stop_flag=stop, identity=cast("Any", identity)
    )  # kopf does not export the type of an identity, which is a str
    _stop_on_signals(stop)  # kopf has set handlers of its own, with which it takes seconds longer to stop
    await kopf.run_tasks(tasks, ignored=others)


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _log_exit(task: asyncio.Task[Any]) -> None:
    """Log why the controller ends although no signal stopped it."""
    error = task.exception()
    if task.get_name() == "lease" and error is None:
        _log.error("leadership was lost")
    elif task.get_name() == "kopf":
        _log.error("watching ended: %s", error or "for an unknown reason", exc_info=_log.isEnabledFor(logging.DEBUG))
    else:
        _log.error("%s ended: %s", task.get_name(), error, exc_info=error)


async def _ends_before(task: asyncio.Task[None], stop: asyncio.Event) -> bool:
    """Wait until a task ends or ``stop`` is set, and say whether the task ended; otherwise it is cancelled."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not task.done():
        task.cancel()
        return False
    await task
    return True
