"""This module compares all strategies on all nodes at all overcommit ratios, in parallel processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kubeballoon.core.memory.model import MemoryDecision, MemoryTerms
from kubeballoon.core.memory.node_state import NodeTerms
from kubeballoon.core.migration import MigrationTerms
from kubeballoon.replay.node_replay import NodeReplay, Recording, TimelinePoint
from kubeballoon.replay.node_workload import GuestAssumptions, NodeWorkload, demand_tables
from kubeballoon.replay.parallel import Progress, Task, run_tasks
from kubeballoon.replay.placement import Nodes, Placement, place, schedule
from kubeballoon.replay.pool_replay import PolicyMigrator, PoolReplay
from kubeballoon.replay.strategies import Strategy, clairvoyant, none, static
from kubeballoon.replay.totals import ReplayTotals, StrategyRun
from kubeballoon.replay.traces import Trace, Workload

KUBEBALLOON = "kubeballoon"
STRATEGIES: dict[str, Strategy | None] = {
    KUBEBALLOON: None,  # replayed by NodeReplay
    "static": static,
    "none": none,
    "clairvoyant": clairvoyant,
}

MIGRATION = "migration"
"""The name of kubeballoon with a NodePolicy's migrations, by which the nodes of a ratio are replayed together."""

_TIMELINE_POINTS = 600  # about as many as a plot has pixels in width


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """ReplaySettings are what all nodes have in common.

    Attributes:
        node_memory: memory of each node, bytes.
        interval: between two rounds of control, seconds.
        seed: the seed of everything that is drawn at random.
        guests: what is assumed of guests.
        placement: how nodes are filled.
        node_terms: what a NodePolicy says of all nodes.
        migrations: what it says of migrations; None if it seeks none.
    """

    node_memory: int
    policy: MemoryTerms
    interval: float = 10.0
    seed: int = 1
    guests: GuestAssumptions = field(default_factory=GuestAssumptions)
    placement: Placement = Placement.FILL
    node_terms: NodeTerms = field(default_factory=NodeTerms)
    migrations: MigrationTerms | None = None

    def place(self, traces: Sequence[Trace], overcommit: float) -> Nodes:
        """Place VMs on nodes.

        Raises:
            PlacementError: a VM fits no node.
        """
        if self.placement is Placement.SCHEDULER:
            return schedule(traces, self.node_memory, overcommit, self.seed)
        return place(traces, self.node_memory, overcommit)

    def workloads(self, workload: Workload, overcommit: float, nodes: Nodes) -> list[NodeWorkload]:
        """Describe the nodes on which VMs were placed.

        Raises:
            UnfitTermsError: the NodePolicy would leave nothing of a node for VMs.
        """
        return [
            NodeWorkload(
                f"node{number}",
                self.node_memory,
                traces,
                self.policy,
                workload.seconds,
                self.interval,
                self.seed,
                overcommit,
                self.guests,
                node_terms=self.node_terms,
            )
            for number, traces in enumerate(nodes)
        ]


@dataclass(frozen=True, slots=True)
class NodeTimeline:
    """A NodeTimeline is one node over time, for the report: the first node under kubeballoon at the highest ratio.

    Attributes:
        peak: when its VMs demand most together, seconds.
        decisions: what was decided then.
    """

    workload: NodeWorkload
    peak: float
    points: tuple[TimelinePoint, ...]
    decisions: tuple[MemoryDecision, ...]


@dataclass(frozen=True, slots=True)
class ReplayResults:
    """ReplayResults are the results of all runs, in the order of the ratios and then of ``STRATEGIES``."""

    runs: tuple[StrategyRun, ...]
    timeline: NodeTimeline


@dataclass(frozen=True, slots=True)
class _Task:
    """A _Task is one strategy on one node.

    Attributes:
        overcommit: the ratio at which the node was filled.
        with_timeline: whether the report shows this node under kubeballoon.
    """

    overcommit: float
    strategy: str
    workload: NodeWorkload
    with_timeline: bool

    @property
    def work(self) -> float:
        """How much there is to do, in seconds times VMs."""
        return self.workload.seconds * len(self.workload.traces)

    def run(self, count_work: Callable[[float], None]) -> _TaskResult:
        """Run the strategy; ``count_work`` is called with each amount of work that is done."""
        strategy, vms = STRATEGIES[self.strategy], len(self.workload.traces)

        def progress(seconds: float) -> None:
            count_work(seconds * vms)

        if strategy is not None:
            return _TaskResult(self, strategy(self.workload, progress))
        peak = _peak(self.workload)
        recording = None
        if self.with_timeline:
            # The peak is seen, and answered, in the round after it.
            decisions_until = peak + 2 * self.workload.interval
            recording = Recording(self.workload.seconds / _TIMELINE_POINTS, decisions_until)
        replay = NodeReplay(self.workload, recording=recording, progress=progress)
        totals, timeline = replay.run(), None
        if recording is not None:
            timeline = NodeTimeline(self.workload, peak, tuple(recording.points), recording.decisions)
        return _TaskResult(self, totals, timeline)


@dataclass(frozen=True, slots=True)
class _TaskResult:
    task: _Task
    totals: ReplayTotals
    timeline: NodeTimeline | None = None


@dataclass(frozen=True, slots=True)
class _PoolTask:
    """A _PoolTask is all nodes of one ratio, among which VMs are migrated."""

    overcommit: float
    workloads: Sequence[NodeWorkload]
    terms: MigrationTerms

    @property
    def _vms(self) -> int:
        return sum(len(each.traces) for each in self.workloads)

    @property
    def work(self) -> float:
        """How much there is to do, in seconds times VMs."""
        return self.workloads[0].seconds * self._vms

    def run(self, count_work: Callable[[float], None]) -> StrategyRun:
        """Replay the nodes; ``count_work`` is called with each amount of work that is done."""
        vms, seconds = self._vms, self.workloads[0].seconds
        replay = PoolReplay(self.workloads, PolicyMigrator(self.terms).choose, lambda done: count_work(done * vms))
        return StrategyRun(MIGRATION, self.overcommit, len(self.workloads), vms, replay.run().totals, seconds)


def compare_strategies(
    workload: Workload,
    settings: ReplaySettings,
    ratios: Sequence[float],
    jobs: int,
    progress: Progress = lambda _: None,
) -> ReplayResults:
    """Run all strategies on all nodes at all ratios.

    Args:
        workload: the VMs.
        settings: what all nodes have in common.
        ratios: the overcommit ratios at which nodes are filled.
        jobs: the number of processes; the result does not depend on it.
        progress: called from time to time.

    Raises:
        PlacementError: a VM fits no node.
        UnfitTermsError: the NodePolicy would leave nothing of a node for VMs.
    """
    nodes_by_ratio = {
        ratio: settings.workloads(workload, ratio, settings.place(workload.traces, ratio)) for ratio in ratios
    }
    tasks: list[Task[_TaskResult | StrategyRun]] = [
        task
        for ratio, nodes in nodes_by_ratio.items()
        for task in _tasks(ratio, nodes, with_timeline=ratio == max(ratios))
    ]
    if settings.migrations is not None:
        tasks += [_PoolTask(ratio, nodes, settings.migrations) for ratio, nodes in nodes_by_ratio.items()]
    done = list(run_tasks(tasks, min(jobs, len(tasks)), progress))
    results = [each for each in done if isinstance(each, _TaskResult)]
    runs: list[StrategyRun] = []
    for ratio in nodes_by_ratio:
        runs += (
            _add_up([each for each in results if (each.task.overcommit, each.task.strategy) == (ratio, strategy)])
            for strategy in STRATEGIES
        )
        runs += (each for each in done if isinstance(each, StrategyRun) and each.overcommit == ratio)
    return ReplayResults(tuple(runs), next(each.timeline for each in results if each.timeline is not None))


def _tasks(ratio: float, nodes: Sequence[NodeWorkload], *, with_timeline: bool) -> Iterator[_Task]:
    """List the tasks of one ratio; ``with_timeline`` says whether its first node is shown in the report."""
    for number, node_workload in enumerate(nodes):
        for strategy in STRATEGIES:
            yield _Task(ratio, strategy, node_workload, with_timeline=with_timeline and number == 0)


def _add_up(results: Sequence[_TaskResult]) -> StrategyRun:
    """Add up the results of one strategy at one ratio over all nodes."""
    # In the order of the nodes: rounding makes sums of floats depend on the order.
    results = sorted(results, key=lambda result: int(result.task.workload.name.removeprefix("node")))
    task = results[0].task
    return StrategyRun(
        strategy=task.strategy,
        overcommit=task.overcommit,
        nodes=len(results),
        vms=sum(len(result.task.workload.traces) for result in results),
        totals=ReplayTotals.add_up(result.totals for result in results),
        seconds=task.workload.seconds,
    )


def _peak(workload: NodeWorkload) -> float:
    """Find when a node's VMs demand most together, seconds."""
    highest, peak, start = -1.0, 0.0, 0.0
    for table in demand_tables(workload):
        demand = table.demand.sum(axis=1)
        row = int(demand.argmax())
        if demand[row] > highest:
            highest, peak = float(demand[row]), start + float(table.seconds[:row].sum())
        start += float(table.seconds.sum())
    return peak
