"""This module reads what is replayed: the options that say where VMs' traces come from, and how large nodes are.

It imports nothing that only the extra ``replay`` installs before traces are read.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kubeballoon.api.duration import format_duration, parse_duration
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.core.formatting import human
from kubeballoon.options import at_least_a_second, checked

if TYPE_CHECKING:  # the modules import numpy, and --help is to come at once
    from kubeballoon.replay.vm_history import VMHistory

_MIN_NODE_MEMORY = 1 << 30  # less than the reserve of a node leaves nothing for VMs
_DAY = 86_400.0
_DAYS = re.compile(r"([1-9][0-9]{0,3})d")
_EQUAL_NODES = 0.05  # how far nodes' memory may differ to be called equal


class UsageError(Exception):
    """An option, a file or a Prometheus cannot be used; the message is one line."""


class Source(NamedTuple):
    """A Source is what was read.

    Attributes:
        history: the VMs, and what is known of them; only their traces where these are files.
        node_memory: memory of each node, bytes.
        notes: what the user should know, a line each.
    """

    history: VMHistory
    node_memory: int
    notes: Sequence[str]


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where VMs' traces come from."""
    parser.add_argument(
        "traces",
        type=Path,
        nargs="?",
        metavar="TRACES",
        help="directory with one CSV file per VM: columns seconds,size_bytes,used_bytes, or Bitbrains' GWA-T-12 format",
    )
    parser.add_argument(
        "--node-memory",
        type=checked(_parse_node_memory, "quantity"),
        metavar="QUANTITY",
        help="memory of each node (default: what Prometheus knows of the nodes that run VMs)",
    )
    group = parser.add_argument_group("Prometheus, instead of TRACES")
    group.add_argument(
        "--prometheus", metavar="URL", help="read what kubeballoon or KubeVirt recorded of VMs' memory here"
    )
    group.add_argument(
        "--range",
        type=checked(_parse_range, "duration"),
        default=7 * _DAY,
        metavar="DURATION",
        help="how far back to read, in days or as a duration (default: 7d)",
    )
    group.add_argument(
        "--until", type=checked(_parse_time, "time"), metavar="TIME", help="where that ends, RFC 3339 (default: now)"
    )
    group.add_argument(
        "--step",
        type=checked(at_least_a_second, "duration"),
        default=300.0,
        metavar="DURATION",
        help="time between two samples of a VM (default: 5m)",
    )
    group.add_argument(
        "--match",
        default="",
        metavar="MATCHERS",
        help="matchers of labels that all metrics must meet, such as 'cluster=\"a\"' where a Prometheus has several",
    )
    _add_access_options(group)


def _add_access_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that say how to reach Prometheus."""
    group.add_argument("--bearer-token-file", type=Path, metavar="FILE", help="file with a token for Prometheus")
    group.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="certificates of the authorities to trust (default: the system's)"
    )
    group.add_argument("--insecure", action="store_true", help="do not check the certificate of Prometheus")
    group.add_argument(
        "--query-timeout",
        type=checked(at_least_a_second, "duration"),
        default=60.0,
        metavar="DURATION",
        help="time within which Prometheus answers each query (default: 1m)",
    )


def read_source(options: argparse.Namespace) -> Source:
    """Read what the options name.

    Raises:
        UsageError: they name nothing, or two things, or what cannot be used.
    """
    if (options.traces is None) == (options.prometheus is None):
        raise UsageError("give either a directory of traces, or --prometheus URL")
    history = _read_files(options.traces) if options.prometheus is None else _read_prometheus(options)
    notes = list(history.notes)
    if history.workload.skipped:
        notes.append(f"{len(history.workload.skipped)} of the VMs recorded nothing and are left out")
    if options.node_memory is not None:
        return Source(history, options.node_memory, notes)
    if not history.node_memory:
        raise UsageError(
            "give --node-memory"
            if options.prometheus is None
            else "Prometheus knows no node's memory (kubeballoon_node_memory_bytes, kube_node_status_allocatable or "
            "node_memory_MemTotal_bytes): give --node-memory"
        )
    memory = _typical(history.node_memory, notes)
    return Source(history, memory, notes)


def _read_files(directory: Path) -> VMHistory:
    from kubeballoon.replay.traces import TraceError, read_traces  # noqa: PLC0415 - with numpy
    from kubeballoon.replay.vm_history import VMHistory  # noqa: PLC0415 - with numpy

    try:
        workload = read_traces(directory)
    except TraceError as error:
        raise UsageError(str(error)) from None
    return VMHistory(workload, owners={trace.name: trace.name for trace in workload.traces})


def _read_prometheus(options: argparse.Namespace) -> VMHistory:
    from kubeballoon.replay.prometheus import (  # noqa: PLC0415 - with numpy
        PrometheusAccess,
        PrometheusError,
        TimeRange,
        ask_now,
    )
    from kubeballoon.replay.vm_history import read_history  # noqa: PLC0415 - with numpy
    from kubeballoon.replay.vm_queries import VMQueries  # noqa: PLC0415 - with the others

    access = PrometheusAccess(
        options.prometheus, options.bearer_token_file, options.ca_file, options.insecure, options.query_timeout
    )
    step, until = options.step, time.time() if options.until is None else options.until
    if options.range < step:
        raise UsageError(f"--range is shorter than --step, which is {format_duration(step)}")
    end = math.floor(until / step) * step  # whole steps, so that what Prometheus has cached is asked for again
    times = TimeRange(end - math.floor(options.range / step) * step, end, step)
    try:
        return read_history(ask_now(access, VMQueries(step, options.match).all(), times), times)
    except PrometheusError as error:
        raise UsageError(str(error)) from None


def _typical(memory: Sequence[int], notes: list[str]) -> int:
    """Choose the memory of a node to replay, bytes: the median; note if nodes differ."""
    median = int(statistics.median_low(memory))
    if memory[-1] - memory[0] > _EQUAL_NODES * median:
        notes.append(
            f"nodes have {human(memory[0])} to {human(memory[-1])}; all are replayed with {human(median)}: "
            "choose another with --node-memory"
        )
    else:
        notes.append(f"nodes are replayed with {human(median)}, as Prometheus knows them")
    return median


def _parse_node_memory(text: str) -> int:
    memory = parse_quantity(text)
    if memory < _MIN_NODE_MEMORY:
        raise ValueError(f"{text!r} is less than the 1Gi a node needs")
    return memory


def _parse_range(text: str) -> float:
    """Read a number of days such as "7d", or a duration, as seconds."""
    days = _DAYS.fullmatch(text)
    return int(days[1]) * _DAY if days else parse_duration(text)


def _parse_time(text: str) -> float:
    """Read a time as seconds since 1970."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{text!r} is not a time with its zone such as 2026-11-26T19:00:00Z")
    return moment.timestamp()
