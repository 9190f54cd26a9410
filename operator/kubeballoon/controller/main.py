"""This module is the command ``kubeballoon controller``."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket

from kubeballoon.api.duration import parse_duration
from kubeballoon.api.names import CONTROLLER_LEASE
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.lease import Lease, own_namespace
from kubeballoon.cluster.lease_thread import LeaseThread
from kubeballoon.controller.cluster_state import MIGRATIONS_AT_ONCE
from kubeballoon.controller.replica import EnabledRemedies, Replica, stop_on_signals
from kubeballoon.metrics import new_registry
from kubeballoon.options import add_client_options, add_serving_options, checked
from kubeballoon.serving import serve

_MOST_AT_ONCE = 100


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
    parser.add_argument(
        "--heartbeats",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="follow the Leases by which agents say that their reports hold; this needs the rights to list, watch and "
        "delete Leases (default: %(default)s)",
    )
    parser.add_argument(
        "--taints",
        action="store_true",
        help="taint nodes that are short of memory where NodePolicies say so; this needs the right to patch Nodes",
    )
    parser.add_argument(
        "--migrations",
        action="store_true",
        help="migrate VMs where NodePolicies say so; this needs the rights to create and watch KubeVirt's migrations, "
        "and to get VMs and Nodes",
    )
    parser.add_argument(
        "--max-migrations",
        type=checked(_parse_count, "number"),
        metavar="N",
        default=MIGRATIONS_AT_ONCE,
        help="begin no migration while so many are under way in the cluster, whoever began them (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def _parse_count(text: str) -> int:
    """Read a number from 1 to 100.

    Raises:
        ValueError: it is none.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST_AT_ONCE:
        raise ValueError(f"{text!r} is no number from 1 to {_MOST_AT_ONCE}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Run until a signal stops the controller; the exit status is 1 if it ends before."""
    if options.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(options.kubeconfig)  # kopf reads it from nowhere else
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    stop_on_signals(stop)
    identity = f"{socket.gethostname()}_{os.getpid()}"
    namespace = options.namespace or own_namespace()

    async def connect() -> ApiClient:
        return await ApiClient.connect("kubeballoon-controller", options.kubeconfig)

    registry = new_registry("controller")
    async with (
        await connect() as cluster,
        LeaseThread(connect, lambda own: Lease(own, namespace, CONTROLLER_LEASE, identity)) as candidacy,
    ):
        enabled = EnabledRemedies(options.taints, options.migrations, options.max_migrations)
        replica = Replica(cluster, candidacy, options.cool_down, registry, enabled, heartbeats=options.heartbeats)
        async with serve(*options.listen, live=replica.live, ready=replica.ready, metrics=registry):
            return await replica.run(stop)
