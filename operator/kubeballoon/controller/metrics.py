"""What the controller exports of its last rounds: read when it is scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric
from prometheus_client.registry import Collector

from kubeballoon.controller.round import Rounds
from kubeballoon.controller.world import World
from kubeballoon.metrics import Gauge

_NODE = ("node",)
_LEADER = Gauge("kubeballoon_leader", "1 on the replica that leads; only this one exports what it decided.")
_LAST = Gauge("kubeballoon_last_round_timestamp_seconds", "When the last round that decided ended, Unix time.")
_CAPACITY = Gauge(
    "kubeballoon_node_capacity_bytes",
    "What the driven VMs of a node share: its memory less what others use, the reserve, and VMs that are not driven.",
    _NODE,
)
_SHORTFALL = Gauge(
    "kubeballoon_node_entitlement_shortfall_bytes", "By how much the guaranteed minimums exceed that capacity.", _NODE
)
_RESERVED = Gauge("kubeballoon_node_reserved_bytes", "Memory taken back from a node's VMs.", _NODE)
_SILENT = Gauge(
    "kubeballoon_node_agent_silent", "1 while nothing is decided for a node, for its agent is silent.", _NODE
)
_DEMAND = Gauge(
    "kubeballoon_vm_demand_bytes", "What a VM demands: its need and headroom, within its bounds.", ("namespace", "name")
)


class ControllerMetrics(Collector):
    """The controller's gauges."""

    def __init__(self, world: World, rounds: Rounds, leads: Callable[[], bool]) -> None:
        """Export what ``rounds`` decided over ``world``; ``leads`` says whether this replica leads."""
        self._world = world
        self._rounds = rounds
        self._leads = leads

    def collect(self) -> Iterator[Metric]:
        """The present values."""
        outcomes = self._rounds.outcomes
        plans = {node: plan for node, outcome in outcomes.items() if (plan := outcome.memory) is not None}
        yield _LEADER.family([((), float(self._leads()))])
        ended = self._rounds.ended
        yield _LAST.family([((), None if ended is None else ended.timestamp())])
        yield _CAPACITY.family(((node,), plan.capacity) for node, plan in plans.items())
        yield _SHORTFALL.family(((node,), plan.shortfall) for node, plan in plans.items())
        yield _RESERVED.family(
            ((node,), sum(vm.reserved for vm in status.virtual_machines))
            for node, pressure in self._world.nodes.items()
            if node in outcomes and (status := pressure.status) is not None
        )
        yield _SILENT.family(((node,), float(outcome.silent)) for node, outcome in outcomes.items())
        decisions = (decision for plan in plans.values() for decision in plan.decisions)
        yield _DEMAND.family((tuple(decision.vm.name.split("/", 1)), decision.vm.demand) for decision in decisions)
