"""This module replays one node under kubeballoon: the core decides, simulated guests follow.

Things happen in the order in which they happen on a cluster. Each interval the agent reads the guests' statistics and
updates its estimates, the controller allocates, and the agent takes each guest to its target in several steps a second.
While a grant waits for memory that other VMs have yet to give, the agent reports each second what has come free, and
the controller decides again; guests' statistics are read only with the next interval. Rounds start half an interval
after the replay does. So where traces' samples fall on whole intervals, a change of demand is seen half an interval
late, which is the average on a cluster.

Most rounds change nothing, and are skipped. Once every balloon is at rest, only time passes until the next change of
demand: needs decay toward the present, swapped memory comes back, cool-downs end. Whether a round would change a target
is tried on copies of the VMs, in ever longer strides. If the last round of a stride would, bisection finds the first
such round of the stride. As long as a target that is due to change stays due until demand changes, only rounds without
effect are skipped; the tests compare this with a replay of every round. The estimates come out as if no round had been
skipped: exponential averages of a constant compose, and a guest whose counters run is read one interval earlier as
well.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM
from kubeballoon.core.memory.node_state import MemoryStall, StallLimits, next_state
from kubeballoon.replay.node_workload import NodeWorkload, vm_bounds
from kubeballoon.replay.simulated_guest import DEFLATION_RATE, INFLATION_RATE, BalloonDriver, SimulatedGuest
from kubeballoon.replay.simulated_vm import SimulatedVM
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Bytes, Seconds, Trace
from kubeballoon.vocabulary import NodeState

PACING_SECONDS = 0.2
"""Seconds between two steps of a guest toward its target."""

REPORT_SECONDS = 1.0
"""Seconds between two reports while a grant waits for memory that others have yet to give."""

_MAX_START_ROUNDS = 50  # a bound for finding the first targets; a handful of rounds is usual
_STRIDE_GROWTH = 16  # factor by which each stride over rounds without effect is longer than the one before
_SPEED_SPREAD = 0.2  # share by which guests' balloons are faster or slower than measured


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """A TimelinePoint is the node at one time: ``at`` in seconds, all else in bytes, ``targets`` in the VMs' order."""

    at: float
    demand: float
    unmet: float
    targets: tuple[int, ...]


@dataclass(slots=True)
class Recording:
    """A Recording is what a replay notes down for the report.

    Attributes:
        point_seconds: seconds between two points.
        decisions_until: the last time at which decisions are noted down, seconds.
        points: the node over time.
        decisions: the last decisions up to ``decisions_until``.
    """

    point_seconds: float
    decisions_until: float
    points: list[TimelinePoint] = field(default_factory=list)
    decisions: tuple[MemoryDecision, ...] = ()


@dataclass(slots=True)
class _Exhaustion:
    """An _Exhaustion measures what guests use beyond the node's memory.

    Attributes:
        memory: the node's, bytes.
        unmet: what it could not back so far, byte-seconds.
        times: how often guests began to use more than it has.
        excess: what they use beyond it now, bytes.
    """

    memory: int
    unmet: float = 0.0
    times: int = 0
    excess: float = 0.0

    def advance(self, seconds: float) -> None:
        """Let time pass at the present excess."""
        self.unmet += self.excess * seconds

    def set_used(self, used: float) -> None:
        """Note that the guests now use ``used`` bytes together."""
        excess = max(0.0, used - self.memory)
        self.times += excess > 0 and self.excess == 0
        self.excess = excess


class _DemandChange(NamedTuple):
    """A _DemandChange says that a VM, by its index, demands ``demand`` bytes from ``time`` on, seconds."""

    time: float
    vm: int
    demand: int


class NodeReplay:
    """A NodeReplay takes a node through its workload."""

    def __init__(
        self,
        workload: NodeWorkload,
        *,
        drivers: Iterable[BalloonDriver] | None = None,
        recording: Recording | None = None,
        progress: Callable[[float], None] = lambda _: None,
        skip: bool = True,
    ) -> None:
        """Prepare a replay.

        Args:
            workload: what to replay.
            drivers: how the guests' balloons behave, in the order of the VMs; drawn at random by default.
            recording: filled with what the report needs.
            progress: called with the seconds that were replayed since the last call.
            skip: whether to skip rounds without effect.
        """
        self._workload = workload
        self._recording = recording
        self._progress = progress
        self._skip = skip
        draw = random.Random(f"{workload.seed}/{workload.name}")  # noqa: S311 - not for secrets
        self._first_round = workload.interval / 2
        behaviour = _draw_drivers(draw) if drivers is None else iter(drivers)
        self._vms = [
            SimulatedVM(trace.name, workload.policy, _make_guest(trace, int(minimum), driver))
            for trace, minimum, driver in zip(workload.traces, vm_bounds(workload).minimum, behaviour, strict=False)
        ]
        self._demand_changes = _demand_changes(workload)
        self._next_change = 0
        self._paced: set[int] = set()  # indices of the VMs whose guests are on the way to their targets
        self._state = NodeState.AMPLE
        self._grant_waits = False
        self._exhaustion = _Exhaustion(workload.memory)

    def run(self) -> ReplayTotals:
        """Replay the workload from its start to its end."""
        self._find_start()
        self._exhaustion.set_used(self._used())
        end = self._workload.seconds
        self._advance(0.0, min(self._first_round, end))
        number = 0
        while (now := self._round_time(number)) < end:
            self._decide(now, read=True)
            self._advance(now, min(self._round_time(number + 1), end))
            upcoming = self._next_round(number + 1)
            self._advance(self._round_time(number + 1), min(self._round_time(upcoming), end))
            self._progress(self._round_time(upcoming) - now)
            number = upcoming
        return self._totals()

    def _find_start(self) -> None:
        """Start at the targets to which the first demands lead: a replay measures changes, not the first boot."""
        for _ in range(_MAX_START_ROUNDS):
            changes = list(_target_changes(allocate_memory(self._node([vm.report(0.0) for vm in self._vms]))))
            if not changes:
                return
            for index, target in changes:
                self._vms[index].start_at(target)

    def _round_time(self, number: int) -> float:
        return self._first_round + number * self._workload.interval

    def _next_round(self, number: int) -> int:
        """Find the first round, from ``number`` on, that has any effect."""
        end = self._first_round_after(self._next_change_time())
        if not self._skip or self._paced or number >= end:
            return number
        start, stride = number, 1  # no round before ``start`` changes a target
        while start < end:
            last = min(start + stride, end) - 1
            if self._changes_target(last):
                return start + bisect.bisect_left(range(start, last), x=True, key=self._changes_target)
            start, stride = last + 1, _STRIDE_GROWTH * stride
        return end

    def _changes_target(self, number: int) -> bool:
        """Whether a round will change a target if nothing else happens until then."""
        now, interval = self._round_time(number), self._workload.interval
        plan = allocate_memory(self._node([vm.predict_report(now, interval) for vm in self._vms]))
        return any(True for _ in _target_changes(plan))

    def _decide(self, now: float, *, read: bool) -> None:
        """Make the controller's decisions at ``now``, after statistics were read or, within an interval, without."""
        if read:
            for vm in self._vms:
                if not vm.steady:
                    vm.read_statistics(now, self._workload.interval)
        node = self._node([vm.report(now) for vm in self._vms])
        self._state = node.state
        plan = allocate_memory(node)
        if self._recording is not None and now <= self._recording.decisions_until:
            self._recording.decisions = plan.decisions
        self._grant_waits = any(decision.reason is DecisionReason.WAITING for decision in plan.decisions)
        for index, target in _target_changes(plan):
            self._vms[index].set_target(target, now)
            self._paced.add(index)

    def _node(self, vms: Iterable[MemoryVM]) -> MemoryNode:
        workload, thresholds = self._workload, self._workload.thresholds
        available = int(workload.memory - sum([vm.guest.resident for vm in self._vms]))
        return MemoryNode(
            name=workload.name,
            total=workload.memory,
            available=available,
            other=0,
            reserve=thresholds.ample,
            state=next_state(self._state, available, thresholds, MemoryStall(), StallLimits()),
            vms=tuple(vms),
        )

    def _advance(self, start: float, end: float) -> None:
        """Let demands change and balloons move from one round to the next, or through rounds without effect."""
        now, report_time, balloons_moved = start, start + REPORT_SECONDS, False
        while now < end:
            change_time = self._next_change_time()
            stops = [end, change_time]
            if self._paced:
                stops.append(now + PACING_SECONDS)
            if self._grant_waits and balloons_moved:
                stops.append(report_time)
            elapsed, now = min(stops) - now, min(stops)
            self._exhaustion.advance(elapsed)
            if change_time <= now:
                self._change_demands(now)
            if self._paced:
                balloons_moved = True
                self._pace_balloons(now)
                self._exhaustion.set_used(self._used())
            self._record(now)
            if self._grant_waits and balloons_moved and report_time <= now < end:
                self._decide(now, read=False)
                report_time, balloons_moved = now + REPORT_SECONDS, False

    def _used(self) -> float:
        return sum([vm.guest.used for vm in self._vms])

    def _pace_balloons(self, now: float) -> None:
        for index in sorted(self._paced):
            if not self._vms[index].pace_balloon(now):
                self._paced.discard(index)

    def _next_change_time(self) -> float:
        """Return when a demand changes next, seconds; the end of the workload after the last change."""
        if self._next_change < len(self._demand_changes):
            return self._demand_changes[self._next_change].time
        return self._workload.seconds

    def _change_demands(self, now: float) -> None:
        """Make the changes of demand that are due at ``now``."""
        interval = self._workload.interval
        last_round = self._round_time(self._first_round_after(now) - 1)
        while self._next_change_time() <= now and self._next_change < len(self._demand_changes):
            change = self._demand_changes[self._next_change]
            vm = self._vms[change.vm]
            if vm.statistics.updated < last_round:  # the round was skipped: make up for its read before demand changes
                vm.read_statistics(last_round, interval)
            vm.set_demand(change.demand, now)
            self._paced.add(change.vm)
            self._next_change += 1

    def _first_round_after(self, time: float) -> int:
        """Return the number of the first round that sees what happens at ``time``."""
        return math.ceil((time - self._first_round) / self._workload.interval)

    def _record(self, now: float) -> None:
        """Note down the node as it is at ``now``, if a point is due."""
        recording = self._recording
        if recording is None or (recording.points and now < recording.points[-1].at + recording.point_seconds):
            return
        recording.points.append(
            TimelinePoint(
                now,
                demand=sum(vm.guest.demand for vm in self._vms),
                unmet=sum(vm.guest.missing for vm in self._vms),
                targets=tuple(vm.target for vm in self._vms),
            )
        )

    def _totals(self) -> ReplayTotals:
        workload = self._workload
        guests = [vm.guest for vm in self._vms]
        for guest in guests:
            guest.advance(workload.seconds)
        return ReplayTotals(
            demand=sum(_area(trace.times, trace.demand, workload.seconds) for trace in workload.traces),
            unmet=sum(guest.unmet for guest in guests) + self._exhaustion.unmet,
            exhaustions=self._exhaustion.times,
            moved=sum(guest.moved for guest in guests),
            direction_changes=sum(vm.direction_changes for vm in self._vms),
            below_min_seconds=sum(guest.below_minimum for guest in guests),
        )


def _draw_drivers(draw: random.Random) -> Iterator[BalloonDriver]:
    """Draw drivers whose speeds differ a little, as those of real guests do."""
    while True:
        speed = draw.uniform(1 - _SPEED_SPREAD, 1 + _SPEED_SPREAD)
        yield BalloonDriver(INFLATION_RATE * speed, DEFLATION_RATE * speed)


def _demand_changes(workload: NodeWorkload) -> list[_DemandChange]:
    """List all changes of demand after the start, in the order of their times."""
    return sorted(
        _DemandChange(float(time), index, int(demand))
        for index, trace in enumerate(workload.traces)
        for time, demand in zip(trace.times[1:], trace.demand[1:], strict=True)
        if time < workload.seconds
    )


def _target_changes(plan: MemoryPlan) -> Iterator[tuple[int, int]]:
    """Iterate over the targets that a plan changes: the VM's index, and the new target in bytes."""
    for index, (vm, target, *_) in enumerate(plan.decisions):
        if target is not None and target != vm.target:
            yield index, target


def _make_guest(trace: Trace, minimum: int, driver: BalloonDriver) -> SimulatedGuest:
    guest = SimulatedGuest(trace.size, minimum, float(trace.size), trace.size, driver)
    guest.set_demand(int(trace.demand[0]))
    return guest


def _area(times: Seconds, values: Bytes, end: float) -> float:
    """Integrate a step function from its first step to ``end``."""
    inside = times < end
    return float(np.diff(np.append(times[inside], end)) @ values[inside])
