"""What a Prometheus would have recorded of VMs by KubeVirt's metrics, with what goes wrong on a real cluster.

Prometheus is down for a while, and the metrics of one node are missing for another. Of each eight VMs one comes late,
one leaves early, one is restarted, and one migrates, and is exported by both nodes for a moment. Counters begin anew
with each restart and migration.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hack.testbed.prometheus import Series
from kubeballoon.replay.traces import Trace, Workload

_SCRAPE = 120.0  # seconds: at least two fall into the five minutes for which Prometheus computes rates
_NODES = 3
_DISK_RATE = float(1 << 20)  # of guests whose traces say nothing of it, bytes a second
_DOWN = (0.40, 0.41)  # when Prometheus is down, as shares of the recorded time
_UNSCRAPED = (0.60, 0.605)  # when the first node's metrics are missing
_OFF_SECONDS = 240.0  # for which a VM is off that is restarted


class _Stay(NamedTuple):
    """A _Stay is the time that a VM is on one node, without a restart, seconds."""

    node: int
    start: float
    end: float


def kubevirt_metrics(workload: Workload, node_memory: int, start: float) -> dict[str, list[Series]]:
    """Make the series of KubeVirt's metrics of VMs, by the names of the metrics.

    Args:
        workload: what the VMs do.
        node_memory: what each node has for pods, bytes.
        start: when the workload begins, seconds since 1970.
    """
    metrics: dict[str, list[Series]] = {}
    for number, trace in enumerate(workload.traces):
        for stay in _stays(number, workload.seconds):
            for name, series in _metrics_of(trace, stay, workload.seconds, start):
                metrics.setdefault(name, []).append(series)
    times = [start + at for at in np.arange(0.0, workload.seconds, _SCRAPE)]
    metrics["kube_node_status_allocatable"] = [
        ({"resource": "memory", "node": f"node-{node}"}, [(at, float(node_memory)) for at in times])
        for node in range(_NODES)
    ]
    return metrics


def _stays(number: int, seconds: float) -> list[_Stay]:
    """Say where a VM is when, by its number."""
    node, other, half = number % _NODES, (number + 1) % _NODES, seconds / 2
    match number % 8:
        case 1:
            return [_Stay(node, seconds / 5, seconds)]
        case 2:
            return [_Stay(node, 0.0, seconds * 4 / 5)]
        case 3:
            return [_Stay(node, 0.0, half), _Stay(node, half + _OFF_SECONDS, seconds)]
        case 4:
            return [_Stay(node, 0.0, half), _Stay(other, half - 2 * _SCRAPE, seconds)]
        case _:
            return [_Stay(node, 0.0, seconds)]


def _metrics_of(trace: Trace, stay: _Stay, seconds: float, start: float) -> Iterator[tuple[str, Series]]:
    labels = {"namespace": "traces", "name": trace.name, "node": f"node-{stay.node}"}
    times = np.arange(np.ceil(stay.start / _SCRAPE) * _SCRAPE, stay.end, _SCRAPE)
    times = times[~_within(times / seconds, _DOWN)]
    if stay.node == 0:
        times = times[~_within(times / seconds, _UNSCRAPED)]
    demand = trace.demand[np.searchsorted(trace.times, times, side="right") - 1]
    size = np.full(len(times), float(trace.size))
    disk = (times - stay.start) * (_DISK_RATE if trace.disk_rate is None else trace.disk_rate)
    for name, values in {
        "memory_domain_bytes": size,
        "memory_actual_balloon_bytes": size,
        "memory_usable_bytes": size - demand,
        "storage_read_traffic_bytes_total": disk / 2,
        "storage_write_traffic_bytes_total": disk / 2,
        "memory_swap_in_traffic_bytes": np.zeros(len(times)),
    }.items():
        yield f"kubevirt_vmi_{name}", (labels, list(zip((start + times).tolist(), values.tolist(), strict=True)))


def _within(shares: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    return (span[0] <= shares) & (shares < span[1])
