"""This module replays a history at several overcommit ratios, each with several placements of the VMs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.core.memory.node_state import NodeTerms
from kubeballoon.replay.minimums import choose_minimums, with_minimum
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import GuestAssumptions, NodeWorkload
from kubeballoon.replay.parallel import Progress, run_tasks
from kubeballoon.replay.placement import peak_size, schedule
from kubeballoon.replay.recommendation import DAY, RatioTrial
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.vm_history import VMHistory


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """TrialSettings are what all trials have in common.

    Attributes:
        node_memory: memory of each node, bytes.
        terms: what the policies of all VMs say.
        keep_minimum: whether their minimum is that of ``terms``; else it is what the history bears out.
        guests: what is assumed of guests.
        placements: how many placements are tried at each ratio.
        interval: between two rounds of control, seconds.
        seed: that of the first placement; the others follow it.
        node_terms: what a NodePolicy says of all nodes.
    """

    node_memory: int
    terms: MemoryTerms
    keep_minimum: bool = False
    guests: GuestAssumptions = field(default_factory=GuestAssumptions)
    placements: int = 3
    interval: float = 10.0
    seed: int = 1
    node_terms: NodeTerms = field(default_factory=NodeTerms)


@dataclass(frozen=True, slots=True)
class _NodeTask:
    """A _NodeTask is the replay of one node.

    Attributes:
        placement: the number of the placement.
    """

    ratio: float
    placement: int
    workload: NodeWorkload

    @property
    def work(self) -> float:
        """How much there is to do, in seconds times VMs."""
        return self.workload.seconds * len(self.workload.traces)

    def run(self, count_work: Callable[[float], None]) -> tuple[float, int, list[ReplayTotals]]:
        """Replay the node; return the ratio, the number of the placement, and what was counted on each day."""
        vms = len(self.workload.traces)
        replay = NodeReplay(self.workload, progress=lambda seconds: count_work(seconds * vms), period=DAY)
        replay.run()
        return self.ratio, self.placement, replay.periods


def try_ratios(
    history: VMHistory, settings: TrialSettings, ratios: Sequence[float], jobs: int, progress: Progress = lambda _: None
) -> list[RatioTrial]:
    """Replay a history of at least a day at all ratios.

    Args:
        history: what was recorded of the VMs.
        settings: what all trials have in common.
        ratios: the overcommit ratios, 1 or more each.
        jobs: the number of processes; the result does not depend on it.
        progress: called from time to time.

    Raises:
        PlacementError: a VM fits no node.
        UnfitTermsError: the NodePolicy would leave nothing of a node for VMs.
    """
    policies = {name: history.policies.get(owner, "") for name, owner in history.owners.items()}
    minimums: dict[float, dict[str, int]] = {}
    tasks: list[_NodeTask] = []
    for ratio in sorted(set(ratios)):
        found = list(_tasks(history, settings, ratio))
        if not settings.keep_minimum:
            traces, seconds = history.workload.traces, history.workload.seconds
            nodes = [task.workload for task in found]
            minimums[ratio] = choose_minimums(nodes, policies, traces, seconds)
            found = [replace(task, workload=_govern(task.workload, policies, minimums[ratio])) for task in found]
        tasks += found
    counted: dict[float, list[list[ReplayTotals]]] = {
        task.ratio: [[] for _ in range(settings.placements)] for task in tasks
    }
    for ratio, placement, days in run_tasks(tasks, min(jobs, len(tasks)), progress):
        counted[ratio][placement] += days
    return [
        RatioTrial(ratio, minimums.get(ratio, {}), _mean_nodes(tasks, ratio, settings.placements), days)
        for ratio, days in counted.items()
    ]


def nodes_without_overcommitment(history: VMHistory, node_memory: int) -> int:
    """Return how many nodes the VMs fill if all have their memory to themselves."""
    traces = history.workload.traces
    if max(trace.size for trace in traces) > node_memory:
        return math.ceil(peak_size(traces) / node_memory)
    return len(schedule(traces, node_memory, 1.0))


def _tasks(history: VMHistory, settings: TrialSettings, ratio: float) -> Iterator[_NodeTask]:
    """Place the VMs several times, and list the replays of all nodes."""
    for placement in range(settings.placements):
        seed = settings.seed + placement
        for number, traces in enumerate(schedule(history.workload.traces, settings.node_memory, ratio, seed)):
            workload = NodeWorkload(
                f"node{number}",
                settings.node_memory,
                traces,
                settings.terms,
                history.workload.seconds,
                settings.interval,
                seed,
                ratio,
                settings.guests,
                node_terms=settings.node_terms,
            )
            yield _NodeTask(ratio, placement, workload)


def _govern(node: NodeWorkload, policies: Mapping[str, str], minimums: Mapping[str, int]) -> NodeWorkload:
    """Give each VM of a node the minimum of its policy."""
    terms = {policy: with_minimum(node.policy, percent) for policy, percent in minimums.items()}
    return replace(node, policies={trace.name: terms[policies[trace.name]] for trace in node.traces})


def _mean_nodes(tasks: Sequence[_NodeTask], ratio: float, placements: int) -> int:
    return math.ceil(sum(task.ratio == ratio for task in tasks) / placements)
