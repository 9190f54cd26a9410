"""This module replays one node: the core decides, simulated guests follow.

Things happen in the order in which they happen on a cluster. Each interval the agent reads the guests' statistics and
updates its estimates, the controller allocates, and the agent takes each guest to its target in several steps a second.
Where a guest or the node is in trouble, the agent decides emergency targets beside the controller's, by the same rules
as on a node. While a grant waits for memory that other VMs have yet to give, or an emergency target holds, the agent
reports each second what has come free, and the controller decides again; guests' statistics are read only with the next
interval. Rounds start half an interval after the replay does. So where traces' samples fall on whole intervals, a
change of demand is seen half an interval late, which is the average on a cluster.

Between rounds, page caches grow and balloons move, and the node's state changes as soon as free memory crosses a
threshold; the controller then decides at once. If memory is used up, VMs are killed (``exhaustion``), and return after
a while.

Most rounds change nothing, and are skipped. Once every balloon is at rest, only time passes until the next event, which
is a change of demand, or of the node's state by its page caches, or a VM's return: needs decay toward the present,
swapped memory comes back, cool-downs end. Whether a round would change a target is tried on copies of the VMs, in ever
longer strides. If the last round of a stride would, bisection finds the first such round of the stride. As long as a
target that is due to change stays due until the next event, only rounds without effect are skipped; the tests compare
this with a replay of every round. The estimates come out as if no round had been skipped: exponential averages of a
constant compose, and a guest whose counters run is read one interval earlier as well.

Without the core's decisions a replay shows fixed allocations in the same model.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.emergency import emergency_targets, is_urgent
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM
from kubeballoon.core.memory.node_state import MemoryStall, StallLimits, next_state
from kubeballoon.replay.exhaustion import Exhaustion
from kubeballoon.replay.node_workload import NodeWorkload, vm_bounds
from kubeballoon.replay.simulated_guest import DEFLATION_RATE, INFLATION_RATE, BalloonDriver, SimulatedGuest
from kubeballoon.replay.simulated_vm import PACING_SECONDS, SimulatedVM
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import BytesArray, SecondsArray, Trace
from kubeballoon.vocabulary import NodeState

REPORT_SECONDS = 1.0
"""Seconds between two reports while a grant waits for memory that others have yet to give."""

BOOT_SECONDS = 20.0
"""Seconds after which the balloon driver of a guest that boots works and reports; Linux and Windows take about that."""

TOUCH_RATE = float(96 << 20)
"""Bytes a second of its memory that each guest touches in a boot storm, as Windows does: a guess, 8 GiB in 90 s."""

_GUARD_SECONDS = 0.5  # between two looks of an agent at its node's free memory
_FIXED_STRIDE = 3600.0  # seconds of a replay without decisions between two reports of progress
_MAX_START_ROUNDS = 50  # a bound for finding the first targets; a handful of rounds is usual
_STRIDE_GROWTH = 16  # factor by which each stride over rounds without effect is longer than the one before
_SPEED_SPREAD = 0.2  # share by which guests' balloons are faster or slower than measured


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """A TimelinePoint is the node at one time; amounts are bytes.

    Attributes:
        at: the time, seconds.
        demand: what the guests work with.
        unmet: the part of it that they do not have.
        targets: what each VM is to have, in the VMs' order.
        held: what each VM's balloon leaves it.
        available: what the node has free.
        withheld: what VMs keep beyond their fair shares, because their guests cannot give it, as the controller says.
    """

    at: float
    demand: float
    unmet: float
    targets: tuple[int, ...]
    held: tuple[int, ...] = ()
    available: int = 0
    withheld: int = 0


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
        fixed: Sequence[int] | None = None,
        period: float = math.inf,
    ) -> None:
        """Prepare a replay.

        Args:
            workload: what to replay.
            drivers: how the guests' balloons behave, in the order of the VMs; drawn at random by default.
            recording: filled with what the report needs.
            progress: called with the seconds that were replayed since the last call.
            skip: whether to skip rounds without effect.
            fixed: what each VM may use for good, bytes; None for what the core decides.
            period: seconds after which what was counted is noted down, again and again, in ``periods``.
        """
        self._workload = workload
        self._recording = recording
        self._progress = progress
        self._skip = skip
        draw = random.Random(f"{workload.seed}/{workload.name}")  # noqa: S311 - not for secrets
        self._first_round = workload.interval / 2
        behaviour = _draw_drivers(draw) if drivers is None else iter(drivers)
        self._vms = [
            SimulatedVM(trace.name, workload.policy_of(trace), _make_guest(workload, trace, int(minimum), driver))
            for trace, minimum, driver in zip(workload.traces, vm_bounds(workload).minimum, behaviour, strict=False)
        ]
        for vm, trace in zip(self._vms, workload.traces, strict=True):
            if (starts_at := workload.start_of(trace)) > 0:
                vm.kill(0.0, starts_at)
        self._fixed = fixed
        self._period, self._counted = period, [ReplayTotals()]
        self._short_seconds = 0.0
        self._incoming: dict[str, int] = {}  # what VMs that are being migrated to the node hold, bytes, by their names
        self._room_needed = 0  # what the controller keeps free for VMs whose migration to the node begins then, bytes
        self._set_changes(0.0)
        self._paced: set[int] = set()  # indices of the VMs whose guests are on the way to their targets
        self._state = NodeState.AMPLE
        self._next_number = 0  # of the next round that has any effect
        self._time = 0.0  # up to which the node was replayed, seconds
        self._grant_waits = False
        self._withheld = 0
        self._exhaustion = Exhaustion(workload, self._vms)
        self._guard_due = math.inf  # when free memory may have fallen below the next threshold
        self._storm_at = math.inf if workload.guests.boot_storm_at is None else workload.guests.boot_storm_at

    def run(self) -> ReplayTotals:
        """Replay the workload from its start to its end."""
        if self._fixed is not None:
            self._run_fixed(self._fixed)
        else:
            self.begin()
            self.run_to(self._last_round)
        return self.totals(self._workload.seconds)

    def begin(self) -> None:
        """Bring the node to its first round."""
        self._find_start()
        self._guard(0.0)
        self._advance_to(0)

    def run_to(self, last: int) -> None:
        """Replay the node, which has begun, to the time of the round of this number, which is not yet decided."""
        last = min(last, self._last_round)
        while (number := self._next_number) < last:
            self._advance_to(number)
            self._decide(self._time, read=True)
            self._advance_to(number + 1)
            self._next_number = self._next_round(number + 1)
            self._progress(self._round_time(self._next_number) - self._round_time(number))
        self._advance_to(last)

    def _advance_to(self, number: int) -> None:
        """Let time pass until a round, without deciding."""
        start, self._time = self._time, self.time_of(number)
        self._advance(start, self._time)

    def _reconsider(self) -> None:
        """Let no round be skipped that was found to be without effect, since the node's VMs have changed."""
        self._next_number = min(self._next_number, self.round_from(self._time))

    def snapshot(self, now: float) -> MemoryNode:
        """Describe the node at ``now``, as the controller knows it; VMs that are on their way to it do not count."""
        reports = [vm.predict_report(now, self._workload.interval) for vm in self._vms if vm.running]
        node, incoming = self._node(now, reports), sum(self._incoming.values())
        return replace(node, other=0, available=min(node.total, node.available + incoming))

    def round_from(self, time: float) -> int:
        """Return the number of the first round at ``time`` or later."""
        return max(0, self._first_round_after(time))

    def time_of(self, number: int) -> float:
        """Return when a round takes place, seconds; the end of the workload for rounds after it."""
        return min(self._round_time(number), self._workload.seconds)

    def begin_migration(self, name: str, now: float) -> float:
        """Let a VM leave the node, and return what it occupies, bytes; it is left alone until its migration ends."""
        vm = self._vms[self._index(name)]
        vm.begin_migration()
        self._reconsider()
        return vm.guest.resident_at(now)

    def expect(self, name: str, occupied: int) -> None:
        """Let a VM come to the node: from now on what it occupies counts as used there, bytes."""
        self._incoming[name] = occupied
        self._reconsider()

    def make_room(self, needed: int) -> None:
        """Keep so many bytes free from the next round on, beside the reserve."""
        if needed != self._room_needed:
            self._room_needed = needed
            self._reconsider()

    def migrates(self, name: str) -> bool:
        """Whether a migration of a VM goes on: it ends early if the VM is killed, or leaves for good."""
        return any(vm.name == name and vm.migrating for vm in self._vms)

    def remove(self, name: str, now: float) -> tuple[SimulatedVM, Trace]:
        """Take a VM off the node, with all that was counted of it."""
        index = self._index(name)
        vm, trace = self._vms[index], self._workload.traces[index]
        vm.guest.advance(now)
        others = [each for each in zip(self._vms, self._workload.traces, strict=True) if each[0] is not vm]
        self._set_vms(others, now)
        return vm, trace

    def add(self, vm: SimulatedVM, trace: Trace, now: float) -> None:
        """Put a VM on the node whose migration to it ends."""
        vm.arrive(now)
        self._set_vms([*zip(self._vms, self._workload.traces, strict=True), (vm, trace)], now)

    def stop_expecting(self, name: str) -> None:
        """Free what was set aside for a VM on its way to the node: it is there, or does not come."""
        del self._incoming[name]
        self._reconsider()

    def _index(self, name: str) -> int:
        return next(index for index, vm in enumerate(self._vms) if vm.name == name)

    def _set_vms(self, vms: Sequence[tuple[SimulatedVM, Trace]], now: float) -> None:
        self._vms[:] = [vm for vm, _ in vms]
        self._workload = replace(self._workload, traces=[trace for _, trace in vms])
        self._exhaustion.workload = self._workload
        self._set_changes(now)
        self._paced = set(range(len(vms)))
        self._guard(now)
        self._reconsider()

    def _set_changes(self, now: float) -> None:
        """List what the traces bring after ``now``."""
        traces, end = self._workload.traces, self._workload.seconds
        self._demand_changes, self._next_change = _demand_changes(self._workload, now), 0
        departures = [(trace.end, index) for index, trace in enumerate(traces) if now < trace.end < end]
        self._departures = sorted(departures, reverse=True)  # the next one is the last

    @property
    def _last_round(self) -> int:
        """The number of the first round that is not within the workload."""
        return self._first_round_after(self._workload.seconds)

    @property
    def periods(self) -> list[ReplayTotals]:
        """What was counted in each whole period of the workload."""
        return [after.since(before) for before, after in pairwise(self._counted)]

    def _run_fixed(self, allocation: Sequence[int]) -> None:
        """Replay the node with allocations that never change."""
        for vm, target in zip(self._vms, allocation, strict=True):
            if vm.running:
                vm.start_at(target)
        self._guard(0.0)
        start, end = 0.0, self._workload.seconds
        while start < end:
            stop = min(start + _FIXED_STRIDE, end)
            self._advance(start, stop)
            self._progress(stop - start)
            start = stop

    def _find_start(self) -> None:
        """Start at the targets to which the first demands lead: a replay measures changes, not the first boot."""
        for _ in range(_MAX_START_ROUNDS):
            changes = list(self._target_changes(allocate_memory(self._node(0.0, self._reports(0.0)))))
            if not changes:
                return
            for index, target in changes:
                self._vms[index].start_at(target)

    def _round_time(self, number: int) -> float:
        return self._first_round + number * self._workload.interval

    def _next_round(self, number: int) -> int:
        """Find the first round, from ``number`` on, that has any effect."""
        end = self._first_round_after(min(self._next_event_time(), self._workload.seconds))
        # What a round reads of a guest that changes decides when the guest is looked at next.
        watched = any(vm.running and (not vm.guest.is_steady or math.isfinite(self._look_at(vm))) for vm in self._vms)
        if not self._skip or self._paced or watched or number >= end:
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
        node = self._node(now, [vm.predict_report(now, interval) for vm in self._vms if vm.running])
        changes = self._target_changes(allocate_memory(self._with_room(node)))
        return any(True for _ in changes) or any(True for _ in self._emergency_changes(node))

    def _decide(self, now: float, *, read: bool) -> None:
        """Make the controller's decisions at ``now``, after statistics were read or, within an interval, without."""
        if read:
            for index, vm in enumerate(self._vms):
                if vm.running and not vm.steady:
                    self._read(index, now)
        else:
            self._make_up_for_reads(now, [vm for vm in self._vms if not vm.steady])
        node = self._node(now, self._reports(now))
        self._state = node.state
        plan = allocate_memory(self._with_room(node))
        if self._recording is not None and now <= self._recording.decisions_until:
            self._recording.decisions = plan.decisions
        self._grant_waits = any(decision.reason is DecisionReason.WAITING for decision in plan.decisions)
        self._withheld = plan.withheld
        for index, target in self._target_changes(plan):
            self._vms[index].set_target(target, now)
            self._paced.add(index)
        self._help(self._node(now, self._reports(now)))

    def _help(self, node: MemoryNode) -> None:
        """Decide, as the node's agent does, emergency targets and whether memory is needed at once."""
        for index, emergency_target in list(self._emergency_changes(node)):
            self._vms[index].set_emergency_target(emergency_target)
            self._paced.add(index)
        urgent = is_urgent(node)
        for index, vm in enumerate(self._vms):
            if vm.urgent is not urgent:
                vm.urgent = urgent
                if not vm.follows:
                    self._paced.add(index)

    def _read(self, index: int, now: float) -> bool:
        """Read a guest's statistics, by which it may be asked for more, and say whether the controller is told."""
        vm = self._vms[index]
        news = vm.look(now, self._workload.interval)
        if not vm.follows:
            self._paced.add(index)
        return news

    def _look_at(self, vm: SimulatedVM) -> float:
        """Return when a guest is looked at though no round is due, seconds; never while no target can change."""
        return math.inf if self._fixed is not None else vm.look_at(self._workload.interval)

    def _look(self, now: float) -> bool:
        """Look at the guests that are watched more closely, and say whether the controller is told."""
        news = False
        for index, vm in enumerate(self._vms):
            if self._look_at(vm) <= now:
                news |= self._read(index, now)
        return news

    def _reports(self, now: float) -> list[MemoryVM]:
        return [vm.report(now) for vm in self._vms if vm.running]

    def _target_changes(self, plan: MemoryPlan) -> Iterator[tuple[int, int]]:
        """Iterate over the requests that a plan changes: the VM's index, and the new target in bytes."""
        running = [index for index, vm in enumerate(self._vms) if vm.running]
        for index, (_, target, *_) in zip(running, plan.decisions, strict=True):
            if target is not None and target != self._vms[index].target:
                yield index, target

    def _emergency_changes(self, node: MemoryNode) -> Iterator[tuple[int, int | None]]:
        """Iterate over the emergency targets that the agent changes: the VM's index, and the new target in bytes."""
        targets = emergency_targets(node, {vm.name: vm.target for vm in self._vms if vm.running})
        for index, vm in enumerate(self._vms):
            if vm.running and targets.get(vm.name) != vm.emergency_target:
                yield index, targets.get(vm.name)

    def _available(self, now: float) -> float:
        """Compute the node's free memory, bytes; below zero where guests use more than there is."""
        incoming = sum(self._incoming.values())
        return self._workload.memory - incoming - sum([vm.guest.resident_at(now) for vm in self._vms])

    def _node(self, now: float, vms: Iterable[MemoryVM]) -> MemoryNode:
        workload, thresholds = self._workload, self._workload.thresholds
        available = max(0, int(self._available(now)))
        return MemoryNode(
            name=workload.name,
            total=workload.memory,
            available=available,
            other=sum(self._incoming.values()),
            reserve=workload.limits.reserve,
            state=next_state(self._state, available, thresholds, MemoryStall(), StallLimits()),
            vms=tuple(vms),
        )

    def _with_room(self, node: MemoryNode) -> MemoryNode:
        """Count what VMs that are to come need as used: the controller knows of it, the agent does not."""
        return replace(node, other=node.other + self._room_needed) if self._room_needed else node

    def _guard(self, now: float) -> bool:
        """Look at the node's free memory, as the kubelet and the agent do.

        Returns:
            Whether the controller has to decide: the node's state has changed, or a VM was killed.
        """
        killed = self._exhaustion.check(now, lambda: self._available(now))
        thresholds, available = self._workload.thresholds, self._available(now)
        before = self._state
        self._state = next_state(before, max(0, int(available)), thresholds, MemoryStall(), StallLimits())
        growth = sum([vm.guest.growth for vm in self._vms if vm.guest.resident_at(now) < vm.guest.actual])
        bounds = (thresholds.tight, thresholds.scarce, thresholds.critical, self._workload.eviction_threshold, 0)
        below = next((bound for bound in bounds if bound <= available), None)
        self._guard_due = math.inf
        if growth and below is not None:
            self._guard_due = now + max(_GUARD_SECONDS, (available - below) / growth)
        if self._exhaustion.due is not None:
            self._guard_due = min(self._guard_due, self._exhaustion.due)
        return killed or self._state is not before

    def _advance(self, start: float, end: float) -> None:
        """Let time pass from one round to the next, or through rounds without effect."""
        now, report_time, balloons_moved = start, start + REPORT_SECONDS, False
        while now < end:
            event_time = self._next_event_time()
            stops = [end, max(now, event_time)]
            if self._paced:
                stops.append(now + PACING_SECONDS)
            reporting = balloons_moved and self._hurries
            if reporting:
                stops.append(report_time)
            elapsed, now = min(stops) - now, min(stops)
            self._exhaustion.advance(elapsed)
            if self._state.severity >= NodeState.SCARCE.severity:
                self._short_seconds += elapsed
            if self._period_end <= now:
                self._counted.append(self.totals(now))
            news = False
            if event_time <= now:
                self._change_demands(now)
                self._remove_vms(now)
                self._boot_vms(now)
                news = self._read_first_reports(now)
                news |= self._look(now)
            if self._paced:
                balloons_moved = True
                news |= self._pace_balloons(now)
            if now < self._workload.seconds:
                news |= self._guard(now)
            self._record(now)
            if self._fixed is None and now < end and (news or (reporting and report_time <= now)):
                self._decide(now, read=False)
                report_time, balloons_moved = now + REPORT_SECONDS, False

    @property
    def _hurries(self) -> bool:
        """Whether rounds do not wait for the next interval."""
        return self._grant_waits or any(vm.emergency_target is not None for vm in self._vms)

    def _next_event_time(self) -> float:
        """Return when something next happens that no round decides, seconds."""
        returns = [vm.returns_at for vm in self._vms if vm.returns_at is not None]
        reports = [vm.silent_until for vm in self._vms if vm.awaits_report]
        looks = [self._look_at(vm) for vm in self._vms]
        departure = self._departures[-1][0] if self._departures else math.inf
        others = (self._guard_due, self._storm_at, departure, self._period_end)
        return min(self._next_change_time(), *others, *returns, *reports, *looks)

    @property
    def _period_end(self) -> float:
        """When the present period ends, seconds; infinite if that is not within the workload."""
        end = len(self._counted) * self._period
        return end if end <= self._workload.seconds else math.inf

    def _read_first_reports(self, now: float) -> bool:
        """Read the statistics of guests whose drivers begin to report, and say whether there are any."""
        reporting = [vm for vm in self._vms if vm.awaits_report and vm.silent_until <= now]
        for vm in reporting:
            vm.read_statistics(now, self._workload.interval)
        return bool(reporting)

    def _remove_vms(self, now: float) -> None:
        """End the VMs that leave the node at ``now``."""
        while self._departures and self._departures[-1][0] <= now:
            self._vms[self._departures.pop()[1]].kill(now, math.inf)

    def _boot_vms(self, now: float) -> None:
        """Start VMs that begin, or were killed, and in a boot storm all that are on the node."""
        storm, touch_rate = self._storm_at <= now, 0.0
        if storm:
            self._storm_at, touch_rate = math.inf, TOUCH_RATE
        for index, (vm, trace) in enumerate(zip(self._vms, self._workload.traces, strict=True)):
            boots = storm and self._workload.start_of(trace) <= now < trace.end
            if boots or (vm.returns_at is not None and vm.returns_at <= now):
                vm.boot(now, BOOT_SECONDS, touch_rate)
                self._paced.add(index)
                if self._fixed is not None:
                    vm.start_at(self._fixed[index])

    def _pace_balloons(self, now: float) -> bool:
        """Take guests a step toward their targets, and say whether it was found of any whether it can swap."""
        if self._fixed is not None:
            for index in self._paced:
                self._vms[index].guest.advance(now)
            self._paced.clear()
        found = False
        for index in sorted(self._paced):
            vm = self._vms[index]
            ability = vm.swap_ability
            if not vm.running or not vm.pace_balloon(now):
                self._paced.discard(index)
            found |= vm.swap_ability is not ability
        return found

    def _next_change_time(self) -> float:
        """Return when a demand changes next, seconds; the end of the workload after the last change."""
        if self._next_change < len(self._demand_changes):
            return self._demand_changes[self._next_change].time
        return self._workload.seconds

    def _change_demands(self, now: float) -> None:
        """Make the changes of demand that are due at ``now``."""
        while self._next_change_time() <= now and self._next_change < len(self._demand_changes):
            change = self._demand_changes[self._next_change]
            vm = self._vms[change.vm]
            if self._fixed is None:
                self._make_up_for_reads(now, [vm])
            vm.set_demand(change.demand, now)
            self._paced.add(change.vm)
            self._next_change += 1

    def _make_up_for_reads(self, now: float, vms: Iterable[SimulatedVM]) -> None:
        """Read what was not read because the last round before ``now`` was skipped; later it could not be read."""
        last_round = self._round_time(self._first_round_after(now) - 1)
        for vm in vms:
            if vm.running and vm.statistics.updated < last_round:
                vm.read_statistics(last_round, self._workload.interval)

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
                targets=tuple(vm.in_force if vm.running else 0 for vm in self._vms),
                held=tuple(int(vm.guest.actual) for vm in self._vms),
                available=int(self._available(now)),
                withheld=self._withheld,
            )
        )

    def totals(self, now: float) -> ReplayTotals:
        """Return what was counted from the start to ``now``, seconds, of the node and of the VMs that are on it now."""
        workload = self._workload
        guests = [vm.guest for vm in self._vms]
        for guest in guests:
            guest.advance(now)
        return ReplayTotals(
            demand=sum(_area(trace.times, trace.demand, now) for trace in workload.traces),
            unmet=sum(guest.unmet for guest in guests),
            exhaustions=self._exhaustion.times,
            exhausted_seconds=self._exhaustion.seconds,
            killed=self._exhaustion.killed,
            moved=sum(guest.moved for guest in guests),
            direction_changes=sum(vm.direction_changes for vm in self._vms),
            below_min_seconds=sum(guest.below_minimum for guest in guests),
            short_seconds=self._short_seconds,
        )


def _draw_drivers(draw: random.Random) -> Iterator[BalloonDriver]:
    """Draw drivers whose speeds differ a little, as those of real guests do."""
    while True:
        speed = draw.uniform(1 - _SPEED_SPREAD, 1 + _SPEED_SPREAD)
        yield BalloonDriver(INFLATION_RATE * speed, DEFLATION_RATE * speed)


def _demand_changes(workload: NodeWorkload, after: float) -> list[_DemandChange]:
    """List all changes of demand after a time, in the order of their times."""
    return sorted(
        _DemandChange(float(time), index, int(demand))
        for index, trace in enumerate(workload.traces)
        for time, demand in zip(trace.times[1:], trace.demand[1:], strict=True)
        if after < time < workload.seconds
    )


def _make_guest(workload: NodeWorkload, trace: Trace, minimum: int, driver: BalloonDriver) -> SimulatedGuest:
    draw = random.Random(f"{workload.seed}/{workload.name}/{trace.name}")  # noqa: S311 - not for secrets
    guest = SimulatedGuest(
        trace.size,
        minimum,
        float(trace.size),
        trace.size,
        driver,
        swaps=draw.random() < workload.guests.swap_share,
        cache_rate=workload.cache_rate(trace),
    )
    guest.set_demand(int(trace.demand[0]))
    return guest


def _area(times: SecondsArray, values: BytesArray, end: float) -> float:
    """Integrate a step function from its first step to ``end``."""
    inside = times < end
    return float(np.diff(np.append(times[inside], end)) @ values[inside])
