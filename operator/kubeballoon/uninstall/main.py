"""This module is the command ``kubeballoon uninstall``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket

from kubeballoon.api.duration import parse_duration
from kubeballoon.api.names import CONTROLLER_LEASE, UNINSTALLER_PREFIX
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.cluster.lease import Lease, own_namespace
from kubeballoon.governance.pending_returns import listed_returns
from kubeballoon.options import add_client_options, checked
from kubeballoon.uninstall.uninstaller import Uninstaller

_log = logging.getLogger(__name__)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "uninstall",
        help="give every VM everything back before kubeballoon is uninstalled; deletes nothing itself",
        description="Gives every VM everything back before kubeballoon is uninstalled; deletes nothing itself. Stops "
        "the controllers from deciding, withdraws every request, and waits until all memory is back.",
    )
    add_client_options(parser)
    parser.add_argument("--all", action="store_true", required=True, help="required, to confirm that every VM is meant")
    parser.add_argument("--namespace", help="where the controllers' Lease is (default: the pod's own)")
    parser.add_argument(
        "--wait",
        type=checked(parse_duration, "duration"),
        nargs="?",
        const="4m",
        default="4m",
        metavar="DURATION",
        help="how long the VMs may take (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Return everything to all VMs; the exit status is 0 when every VM has its memory back."""
    return asyncio.run(_run(options))


async def _run(options: argparse.Namespace) -> int:
    identity = f"{UNINSTALLER_PREFIX}{socket.gethostname()}_{os.getpid()}"
    async with await ApiClient.connect("kubeballoon-uninstall", options.kubeconfig) as cluster:
        lease = Lease(cluster, options.namespace or own_namespace(), CONTROLLER_LEASE, identity)
        pending = await Uninstaller(cluster, lease).run(options.wait)
    if pending:
        raise ApiError(f"not all memory is back after {options.wait:.0f}s: {listed_returns(pending)}")
    _log.info("every VM has its memory")
    return 0
