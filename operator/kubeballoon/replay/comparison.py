"""Every strategy on every node at every overcommit ratio, in parallel processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from typing import ClassVar

from kubeballoon.core.memory.model import MemoryDecision, MemoryTerms
from kubeballoon.replay.node_replay import NodeReplay, Recording, ReplayMoment
from kubeballoon.replay.placement import place
from kubeballoon.replay.strategies import NodeWorkload, Strategy, clairvoyant, none, static, stretches
from kubeballoon.replay.totals import ReplayTotals, StrategyRun
from kubeballoon.replay.traces import Trace, Workload

KUBEBALLOON = "kubeballoon"
STRATEGIES: dict[str, Strategy | None] = {
    KUBEBALLOON: None,
    "static": static,
    "none": none,
    "clairvoyant": clairvoyant,
}

_MOMENTS = 600  # in a plot of one node over time
_GLANCE = 0.5  # seconds between two looks at how far the processes have come

Progress = Callable[[float], None]
"""Told which part of the work is done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What is the same for all nodes; ``node_memory`` in bytes, ``interval`` in seconds."""

    node_memory: int
    policy: MemoryTerms
    interval: float = 10.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class NodeStory:
    """The first node under kubeballoon at the highest ratio.

    Attributes:
        peak: when its VMs demand most, seconds.
        decisions: what was decided then.
    """

    load: NodeWorkload
    peak: float
    moments: tuple[ReplayMoment, ...]
    decisions: tuple[MemoryDecision, ...]


@dataclass(frozen=True, slots=True)
class ReplayResults:
    """All runs, by ratio and then in the order of ``STRATEGIES``."""

    runs: tuple[StrategyRun, ...]
    story: NodeStory


@dataclass(frozen=True, slots=True)
class _Part:
    """One strategy on one node."""

    overcommit: float
    strategy: str
    load: NodeWorkload
    told: bool

    @property
    def work(self) -> float:
        """How much there is to do: seconds of VMs that are replayed. All else takes next to no time."""
        return self.load.seconds * len(self.load.traces) if self.strategy == KUBEBALLOON else 0.0

    def run(self, count: Callable[[float], None]) -> _Result:
        """The strategy's figures; of ours, where asked for, the story too. ``count`` is told of work that is done."""
        strategy = STRATEGIES[self.strategy]
        if strategy is not None:
            return _Result(self, strategy(self.load))
        peak = _peak(self.load)
        # The peak is seen, and answered, in the round after it.
        record = Recording(self.load.seconds / _MOMENTS, peak + 2 * self.load.interval) if self.told else None
        vms = len(self.load.traces)
        tally = NodeReplay(self.load, record=record, progress=lambda seconds: count(seconds * vms)).run()
        story = None if record is None else NodeStory(self.load, peak, tuple(record.moments), record.decisions)
        return _Result(self, tally, story)


@dataclass(frozen=True, slots=True)
class _Result:
    part: _Part
    tally: ReplayTotals
    story: NodeStory | None = None


def compare_strategies(
    workload: Workload, setting: ReplaySettings, ratios: Sequence[float], jobs: int, progress: Progress = lambda _: None
) -> ReplayResults:
    """Run all strategies; the result does not depend on ``jobs``, the number of processes."""
    placed = {ratio: place(workload.traces, setting.node_memory, ratio) for ratio in ratios}
    parts = [part for ratio, nodes in placed.items() for part in _parts(workload, setting, ratio, nodes, max(ratios))]
    results = list(_results(parts, min(jobs, len(parts)), progress))
    runs = (
        _add_up([each for each in results if (each.part.overcommit, each.part.strategy) == (ratio, strategy)])
        for ratio in placed
        for strategy in STRATEGIES
    )
    return ReplayResults(tuple(runs), next(result.story for result in results if result.story is not None))


def _parts(
    workload: Workload, setting: ReplaySettings, ratio: float, nodes: Sequence[Sequence[Trace]], told: float
) -> Iterator[_Part]:
    for number, traces in enumerate(nodes):
        load = NodeWorkload(
            f"node{number}",
            setting.node_memory,
            traces,
            setting.policy,
            workload.seconds,
            setting.interval,
            setting.seed,
        )
        for strategy in STRATEGIES:
            yield _Part(ratio, strategy, load, told=number == 0 and ratio == told)


class _Worker:
    """A process of the pool: it counts work that it has done."""

    count: ClassVar[Callable[[float], None]] = staticmethod(lambda _: None)

    @classmethod
    def start(cls, done: Synchronized[float]) -> None:
        """Count for all processes together."""
        cls.count = partial(_add, done)

    @classmethod
    def run(cls, part: _Part) -> _Result:
        """Run a part."""
        return part.run(cls.count)


def _add(done: Synchronized[float], work: float) -> None:
    with done.get_lock():
        done.value += work


def _results(parts: Sequence[_Part], jobs: int, progress: Progress) -> Iterator[_Result]:
    total = sum(part.work for part in parts)
    # Spawned, for a fork would take locks along that threads of libraries hold.
    context = get_context("spawn")
    done = context.Value("d", 0.0)
    if jobs == 1:

        def count(work: float) -> None:
            _add(done, work)
            progress(done.value / total)

        yield from [part.run(count) for part in parts]
        return
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_Worker.start, initargs=(done,)) as pool:
        slowest_first = sorted(parts, key=lambda part: -part.work)
        pending = {pool.submit(_Worker.run, part) for part in slowest_first}
        while pending:
            finished, pending = wait(pending, timeout=_GLANCE, return_when=FIRST_COMPLETED)
            progress(done.value / total)
            yield from [future.result() for future in finished]


def _add_up(results: Sequence[_Result]) -> StrategyRun:
    # In the order of the nodes: sums of floats depend on it.
    results = sorted(results, key=lambda result: int(result.part.load.name.removeprefix("node")))
    part = results[0].part
    return StrategyRun(
        strategy=part.strategy,
        overcommit=part.overcommit,
        nodes=len(results),
        vms=sum(len(result.part.load.traces) for result in results),
        tally=ReplayTotals.total(result.tally for result in results),
        seconds=part.load.seconds,
    )


def _peak(load: NodeWorkload) -> float:
    """When the node's VMs demand most together, seconds."""
    best, peak, now = -1.0, 0.0, 0.0
    for stretch in stretches(load):
        demand = stretch.demand.sum(axis=1)
        row = int(demand.argmax())
        if demand[row] > best:
            best, peak = float(demand[row]), now + float(stretch.lengths[:row].sum())
        now += float(stretch.lengths.sum())
    return peak
