"""This module is the command ``kubeballoon agent``: its options, and its life from start to signal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kubeballoon.agent.agent import Agent
from kubeballoon.agent.hypervisor.protocols import Hypervisor
from kubeballoon.agent.node.kubelet import EvictionThreshold, KubeletConfigError, parse_threshold, read_threshold
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.settings import AgentSettings, NodeSettings
from kubeballoon.agent.taint_remover import TaintRemover
from kubeballoon.api.duration import parse_duration
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.lease import own_namespace
from kubeballoon.options import add_client_options, add_serving_options, at_least_a_second, checked
from kubeballoon.serving import serve

_log = logging.getLogger(__name__)

_MOST_THREADS = 1024  # three for each VM that the largest nodes run
_TRIM_INTERVAL = 20.0  # seconds between two returns of unused memory to the node; each takes less than a millisecond


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``agent`` to kubeballoon's."""
    parser = commands.add_parser(
        "agent",
        help="report a node and its VMs, carry out the controller's requests, and help VMs in an emergency",
        description="Reports a node and its VMs, carries out the controller's requests, and helps VMs in an emergency.",
    )
    add_client_options(parser)
    add_serving_options(parser)
    node = os.environ.get("NODE_NAME")
    parser.add_argument(
        "--node-name", default=node, required=node is None, help="name of this node (default: $NODE_NAME)"
    )
    parser.add_argument(
        "--pods-dir",
        type=Path,
        default=Path("/pods"),
        help="where the kubelet's directory of pods is mounted (default: %(default)s)",
    )
    parser.add_argument("--node-memory-cgroup", type=Path, help="take this cgroup (v1 or v2) for the node's memory")
    parser.add_argument(
        "--cgroup-root",
        type=Path,
        help="where the node's cgroups are mounted, to see what the kubelet lets pods use together (default: not seen)",
    )
    parser.add_argument(
        "--eviction-threshold",
        type=checked(parse_threshold, "quantity or percentage"),
        default="100Mi",
        help="the kubelet's eviction threshold of memory.available, a quantity or a percentage (default: %(default)s)",
    )
    parser.add_argument(
        "--kubelet-config",
        type=Path,
        help="the kubelet's configuration file; where it can be read its threshold replaces --eviction-threshold",
    )
    parser.add_argument(
        "--eviction-margin",
        type=checked(parse_quantity, "quantity"),
        default="64Mi",
        help="how far above the eviction threshold state Critical begins (default: %(default)s)",
    )
    parser.add_argument(
        "--demand-window",
        type=checked(at_least_a_second, "duration"),
        default="5m",
        help="time constant by which a guest's demand falls after it uses less (default: %(default)s)",
    )
    parser.add_argument(
        "--stats-period",
        type=checked(parse_duration, "duration"),
        default="10s",
        help="how often guests report that have memory to spare, in whole seconds (default: %(default)s); others do "
        "each second",
    )
    parser.add_argument(
        "--remove-taint",
        action="store_true",
        help="remove kubeballoon's taint of this node while no controller leads; this needs the right to patch Nodes",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the agent until a signal stops it; return the exit status."""
    raise_file_limit()
    if not options.pods_dir.is_dir():
        message = f"kubeballoon: --pods-dir {options.pods_dir} is not a directory"
        print(message, file=sys.stderr)  # noqa: T201 - the user's terminal, not the log
        return 1
    status = asyncio.Runner().run(_run(options))
    logging.shutdown()
    sys.stdout.flush()
    # Neither by closing the runner nor by returning: both would first wait for threads, and a call to libvirt, or the
    # reading of a VM's process, may hang in one.
    os._exit(status)


def raise_file_limit() -> None:
    """Allow the process as many open files as it may allow itself.

    Each VM takes about a dozen, and GLib, which libvirt's client stands on, ends the process when it may open no more.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def allow_many_threads(loop: asyncio.AbstractEventLoop) -> None:
    """Let ``asyncio.to_thread`` start as many threads as all VMs of a node can take.

    Each VM reads its own process in them. A read that hangs, because the process hangs, takes one for as long: by
    default there are a few more than processors, and some such VMs would have all others wait. None is started before
    it is needed.
    """
    loop.set_default_executor(ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="process"))


async def _run(options: argparse.Namespace) -> int:
    from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor  # noqa: PLC0415 - an extra that only the agent needs

    allow_many_threads(asyncio.get_running_loop())
    settings = AgentSettings(options.pods_dir, options.demand_window, max(1, round(options.stats_period)))
    node_settings = _node_settings(options)
    hypervisor: Hypervisor = LibvirtHypervisor()
    async with await ApiClient.connect("kubeballoon-agent", options.kubeconfig) as cluster:
        host = HostMemoryReader(cgroup=options.node_memory_cgroup, cgroup_root=options.cgroup_root)
        agent = Agent(options.node_name, cluster, hypervisor, host, settings, node_settings)
        remover = TaintRemover(cluster, options.node_name, own_namespace()) if options.remove_taint else None
        async with serve(*options.listen, live=agent.stalled, ready=agent.unready, metrics=agent.metrics.registry):
            return await _until_stopped(agent, remover)


def _node_settings(options: argparse.Namespace) -> NodeSettings:
    """Find the kubelet's threshold: by its configuration if that can be read, else as the options say."""
    threshold: EvictionThreshold = options.eviction_threshold
    read = False
    if options.kubelet_config is not None:
        try:
            threshold, read = read_threshold(options.kubelet_config), True
        except KubeletConfigError as error:
            _log.warning("the eviction threshold of --eviction-threshold or of a NodePolicy holds: %s", error)
    return NodeSettings(threshold.size, options.eviction_margin, threshold.percent, eviction_read=read)


def _trim_memory(loop: asyncio.AbstractEventLoop) -> None:
    """Return to the node what the agent has freed, now and from time to time.

    The C library keeps freed memory for later, and the agent uses most of its memory only once, at its start.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's has no such function
        ctypes.CDLL(None).malloc_trim(0)
        loop.call_later(_TRIM_INTERVAL, _trim_memory, loop)


async def _until_stopped(agent: Agent, remover: TaintRemover | None) -> int:
    """Run the agent until a signal, or its own failure, ends it; return the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.call_later(_TRIM_INTERVAL, _trim_memory, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    working = asyncio.create_task(agent.run(), name="agent")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    removing = None if remover is None else asyncio.create_task(remover.run(), name="remove taint")
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if removing is not None:
        removing.cancel()
    if working.done():
        stopping.cancel()
        _log.error("the agent ended: %r", working.exception())
        return 1
    working.cancel()
    await asyncio.wait({working})
    return 0
