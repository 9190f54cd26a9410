"""A cluster of model nodes, and the metrics that its agents and its controller export while time passes.

Each node is a closed loop of model guests, which the agent's and the core's own code drive. The metrics are those of
the agent's and the controller's own collectors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry, Metric

from hack.testbed.closed_loop import ClosedLoop, ModelGuest, constant, memory_policy
from hack.testbed.closed_loop.model_guest import EPOCH, Amount
from kubeballoon.agent.metrics import AgentMetrics, ReportResult
from kubeballoon.api.meta import ObjectMeta
from kubeballoon.api.v1alpha1 import NodePressure
from kubeballoon.cluster.events import EventRecorder
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.metric_counters import ControllerCounters
from kubeballoon.controller.metric_gauges import ControllerGauges
from kubeballoon.controller.rounds import RoundResult, RoundRunner
from kubeballoon.core.units import GIB, MIB
from kubeballoon.governance.policy_types import MEMORY

NODES, VMS_PER_NODE = 8, 25
STEP_SECONDS = 60.0
"""Seconds between two samples of the metrics."""

_PERIOD_SECONDS = 10.0  # between two looks at a node; guests and their workers act in between
_OVERCOMMIT = 1.5
_OTHER = 6 * GIB
_LEAKING, _CROWDED = 3, 7  # the nodes in trouble, by number
_POLICIES = {
    "web": memory_policy("web", min="25%", shares=2000),
    "databases": memory_policy("databases", min="75%", shares=4000),
    "desktops": memory_policy("desktops", min="30%"),
    "ci": memory_policy("ci", min="20%", shares=500),
}
_SIZES = {"web": 4 * GIB, "databases": 16 * GIB, "desktops": 8 * GIB, "ci": 8 * GIB}


@dataclass
class ModelCluster:
    """A ModelCluster is what is simulated.

    Attributes:
        length: for how long, seconds; demands rise and fall once in this time, as on a working day.
        nodes: the number of nodes.
        vms: the number of VMs on each.
        origin: what the beginning is called, Unix seconds.
    """

    length: float
    origin: float
    nodes: int = NODES
    vms: int = VMS_PER_NODE
    loops: dict[str, ClosedLoop] = field(init=False)

    def __post_init__(self) -> None:
        """Make the nodes, and the agents and the controller as far as they export metrics."""
        self.loops = {f"worker-{number:02d}": self._node(number) for number in range(self.nodes)}
        self._agents = {name: AgentMetrics(name, loop.compose, _no_times) for name, loop in self.loops.items()}
        self._state = ClusterState()
        unused: Any = None  # no round is run by the runner: only the results that are put there are read
        counters = ControllerCounters(CollectorRegistry())
        self._rounds = RoundRunner(unused, self._state, EventRecorder(unused, "model"), counters)
        self._controller = ControllerGauges(self._state, self._rounds, lambda: True)

    def metrics(self) -> str:
        """Let time pass, and return what Prometheus would have scraped, in the OpenMetrics format."""
        lines: dict[str, list[str]] = {}
        moment = 0.0
        while moment < self.length:
            moment += STEP_SECONDS
            for metric in self._scrape(moment):
                lines.setdefault(metric.name, [f"# TYPE {metric.name} gauge"]).extend(self._samples(metric, moment))
        return "\n".join(chain(chain.from_iterable(lines.values()), ["# EOF\n"]))

    def _scrape(self, moment: float) -> Iterator[Metric]:
        """Let time pass until ``moment`` on all nodes, and collect all gauges."""
        date = datetime.fromtimestamp(EPOCH + moment, UTC)
        for name, loop in self.loops.items():
            loop.run(moment)
            status = loop.compose()
            self._state.nodes[name] = NodePressure(metadata=ObjectMeta(name=name), status=status)
            self._rounds.results[name] = RoundResult({MEMORY.model.plural: loop.plan}, state=loop.state)
            self._agents[name].reported(date, ReportResult.CONFIRMED)
            yield from self._agents[name].collect()
        self._rounds.last_decided_at = date
        yield from (metric for metric in self._controller.collect() if metric.type == "gauge")

    def _samples(self, metric: Metric, moment: float) -> Iterator[str]:
        shift = self.origin - EPOCH if metric.name.endswith("_timestamp_seconds") else 0.0
        for sample in metric.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            yield f"{sample.name}{{{labels}}} {sample.value + shift!r} {self.origin + moment:.0f}"

    def _node(self, number: int) -> ClosedLoop:
        draw = random.Random(number)  # noqa: S311 - not for secrets
        guests = [self._guest(number, index, draw) for index in range(self.vms)]
        total = sum(guest.size for guest in guests) / (_OVERCOMMIT * (1.3 if number == _CROWDED else 1))
        other = constant(_OTHER)
        if number == _LEAKING:
            start, grows = 0.55 * self.length, 0.3 * total
            other = lambda now: _OTHER + grows * min(1.0, max(0.0, now - start) / (0.15 * self.length))  # noqa: E731
        return ClosedLoop(round(total) + _OTHER, guests, other, 0.02, number, _PERIOD_SECONDS)

    def _guest(self, node: int, index: int, draw: random.Random) -> ModelGuest:
        policy = draw.choices(list(_POLICIES), weights=(8, 3, 7, 6))[0]
        size = _SIZES[policy]
        guest = ModelGuest(
            f"{policy.removesuffix('s')}-{node * self.vms + index:03d}",
            size,
            _POLICIES[policy],
            self._load(policy, size, draw),
            cache=constant(size * draw.uniform(0.1, 0.5)),
            fill_rate=8 * MIB,
            swap=0 if policy == "ci" else size // 4,
            namespace=policy,
        )
        if (node, index) == (1, 0):
            guest.inflation = 0.0  # its driver does nothing
        return guest

    def _load(self, policy: str, size: int, draw: random.Random) -> Amount:
        """Return what a guest works with over time, by what it is used for."""
        low, high = draw.uniform(0.1, 0.2) * size, draw.uniform(0.35, 0.75) * size
        peak, width = draw.gauss(0.5, 0.04) * self.length, 0.16 * self.length
        if policy == "databases":
            return constant(draw.uniform(0.55, 0.8) * size)
        if policy == "ci":
            period, busy, offset = (
                draw.uniform(0.1, 0.2) * self.length,
                draw.uniform(0.2, 0.5),
                draw.uniform(0, 0.2) * self.length,
            )
            return lambda now: high if (now + offset) % period < busy * period else low
        if policy == "desktops":
            begin = draw.gauss(0.3, 0.05) * self.length
            return lambda now: low + (high - low) * min(1.0, max(0.0, (now - begin) / (0.08 * self.length)))
        return lambda now: low + (high - low) * math.exp(-(((now - peak) / width) ** 2))


def _no_times() -> dict[tuple[str, ...], float | None]:
    return {}
