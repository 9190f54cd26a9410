"""One node under kubeballoon: the core decides, modelled guests follow.

The order of things is a cluster's. Each control interval the agent reads every guest's statistics and takes them into
its estimates, the controller allocates, and the agent walks each guest to its target, looking at it several times a
second. While a grant waits for memory that others are still giving, the agent reports what has come free each second
and the controller decides again; guests' statistics are only read anew with the next interval. Rounds are
half an interval off the start, so that where samples fall on whole intervals a change of demand is seen half an
interval late, as it is on average on a cluster.

Most rounds change nothing, and are skipped. Once every balloon is at rest only time passes until the next change of
demand: needs decay toward the present, swapped memory comes back, cool-downs end. Whether a round moves a target is
tried on copies of what is known of the guests, in ever longer strides; of a stride at whose end one moves, the first
such round is found by bisection. That skips nothing but rounds without effect as long as a target, once due to move,
stays due until demand changes; the tests compare it with a replay of every round. What skipped rounds would have done
to the estimates is made up for exactly: exponential averages of a constant compose, and a guest whose counters run is
read one interval earlier as well.
"""

from __future__ import annotations

import bisect
import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from kubeballoon.core.decision import DecisionReason, TargetChange
from kubeballoon.core.memory import demand, guard, pacing
from kubeballoon.core.memory.allocation import COOL_DOWNS_BEFORE_REBALANCING, allocate_memory
from kubeballoon.core.memory.demand import GuestStatistics, Need
from kubeballoon.core.memory.model import COOL_DOWN, MemoryDecision, MemoryNode, MemoryPlan, MemoryTerms, MemoryVM
from kubeballoon.core.memory.node_state import MemoryStall, StallLimits, next_state
from kubeballoon.core.memory.pacing import BalloonSample, Pace
from kubeballoon.replay.guest import DEFLATION, INFLATION, BalloonDriver, SimulatedGuest
from kubeballoon.replay.strategies import NodeWorkload, bounds
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Bytes, Seconds, Trace
from kubeballoon.vocabulary import NodeState

WINDOW = 300.0
"""Seconds: the time constant of the slow average of a guest's need."""

TICK = 0.2
"""Seconds between two looks at a guest on its way."""

REPORT = 1.0
"""Seconds between two reports while granted memory is being freed."""

_SETTLING = 50  # rounds in which the first targets are found; a handful is usual
_FASTER = 16  # by which each stride over rounds without effect is longer than the one before
_SPREAD = 0.2  # by which guests' balloon speeds differ from the measured ones, either way
_RESTED = COOL_DOWNS_BEFORE_REBALANCING * COOL_DOWN  # seconds from which on a change's exact age does not matter
_LONG_AGO = {rose: TargetChange(rose, _RESTED) for rose in (True, False)}


@dataclass(slots=True)
class SimulatedVM:
    """One VM on the node, and what its agent and the controller know of it.

    Attributes:
        stats: the last statistics read.
        need: the estimate made from them.
        changed: when the target last moved, seconds.
        rose: whether it rose then; None if it has never moved.
        turns: how often it has changed direction.
        settled: whether reading the guest again would tell nothing new.
        shown: what the controller was last told; None when that is no longer so.
    """

    name: str
    policy: MemoryTerms
    guest: SimulatedGuest
    stats: GuestStatistics = field(init=False)
    need: Need | None = field(init=False)
    target: int = field(init=False)
    pace: Pace = field(default_factory=Pace)
    changed: float = 0.0
    rose: bool | None = None
    turns: int = 0
    settled: bool = False
    shown: MemoryVM | None = None

    def __post_init__(self) -> None:
        """Read the statistics for the first time."""
        self.target = self.guest.request
        self._meet()

    def _meet(self) -> None:
        self.stats, self.shown = self.guest.statistics(), None
        self.need = demand.update(None, None, self.stats, WINDOW)

    def place(self, target: int) -> None:
        """Start anew, the balloon already where it is wanted."""
        guest = self.guest
        guest.ask(guard.clamp(target, guest.minimum, guest.size))
        guest.actual = guest.goal
        guest.resident, guest.swapped = guest.used, guest.missing
        self.target = guest.request
        self._meet()

    def read(self, now: float, interval: float) -> None:
        """Read its statistics at ``now``, as has been done every ``interval`` before."""
        if not self.guest.calm and now - self.stats.updated > interval:
            self._read(now - interval)
        self._read(now)

    def _read(self, now: float) -> None:
        self.guest.advance(now)
        stats = self.guest.statistics()
        need = self.need = demand.update(self.need, self.stats, stats, WINDOW)
        self.stats, self.shown = stats, None
        self.settled = need is not None and not need.troubled and need.value == need.present and self.guest.calm

    def demands(self, wanted: int, now: float) -> None:
        """The guest works with ``wanted`` bytes from ``now`` on."""
        self.guest.advance(now)
        self.guest.demands(wanted)
        self.settled, self.shown = False, None

    def aim(self, target: int, now: float) -> None:
        """Give it another target."""
        rose = target > self.target
        self.turns += self.rose is not None and rose != self.rose
        self.target, self.changed, self.rose, self.shown = target, now, rose, None

    def step(self, now: float) -> bool:
        """Look at the guest on its way to its target; False when there is no point in looking again."""
        guest = self.guest
        guest.advance(now)
        troubled = self.need is not None and self.need.troubled
        actual, off = int(guest.actual), pacing.max_residual(guest.size)
        sample = BalloonSample(actual, now, max(0, int(guest.actual - guest.used)), troubled, off)
        goal = guard.clamp(self.target, guest.minimum, guest.size)
        self.pace, request = pacing.advance(self.pace, sample, goal, self.policy.max_rate)
        if request is not None:
            guest.ask(request)
        self.settled, self.shown = False, None
        arrived = self.pace.request is None or abs(guest.actual - self.pace.request) <= pacing.TOLERANCE
        return request is not None or guest.moving or not arrived or not self.pace.responsive

    def seen(self, now: float) -> MemoryVM:
        """What the controller is told."""
        change = self._change(now)
        if self.shown is None or self.shown.last_change != change:
            self.shown = self._seen(change, self.need)
        return self.shown

    def foreseen(self, now: float, interval: float) -> MemoryVM:
        """What the controller will be told at ``now`` if neither demand nor target change until then."""
        if self.settled:
            return self.seen(now)
        if self.guest.calm:
            need = demand.update(self.need, self.stats, self.guest.statistics(now), WINDOW)
            return self._seen(self._change(now), need)
        then = copy.copy(self)
        then.guest = copy.copy(self.guest)
        then.read(now, interval)
        return then.seen(now)

    def _change(self, now: float) -> TargetChange | None:
        if self.rose is None:
            return None
        age = now - self.changed
        return TargetChange(self.rose, age) if age < _RESTED else _LONG_AGO[self.rose]

    def _seen(self, change: TargetChange | None, need: Need | None) -> MemoryVM:
        return MemoryVM(
            uid=self.name,
            name=self.name,
            size=self.guest.size,
            actual=int(self.guest.actual),
            need=None if need is None else need.value,
            present_need=None if need is None else need.present,
            target=self.target,
            troubled=need is not None and need.troubled,
            responsive=self.pace.responsive,
            policy=self.policy,
            last_change=change,
        )


@dataclass(frozen=True, slots=True)
class ReplayMoment:
    """What the node looked like; bytes, ``targets`` in the order of the VMs."""

    at: float
    demand: float
    unmet: float
    targets: tuple[int, ...]


@dataclass(slots=True)
class Recording:
    """What to remember of a replay for its report.

    Attributes:
        step: seconds between two moments.
        explain_at: the end of the time whose decisions are kept, seconds.
    """

    step: float
    explain_at: float
    moments: list[ReplayMoment] = field(default_factory=list)
    decisions: tuple[MemoryDecision, ...] = ()


@dataclass(slots=True)
class _Overrun:
    """What the guests use beyond the node's memory.

    Attributes:
        area: byte-seconds.
        times: how often it began.
    """

    memory: int
    area: float = 0.0
    times: int = 0
    excess: float = 0.0

    def advance(self, seconds: float) -> None:
        """Time passes at the present excess."""
        self.area += self.excess * seconds

    def look(self, used: float) -> None:
        """The guests now use ``used`` bytes together."""
        excess = max(0.0, used - self.memory)
        self.times += excess > 0 and self.excess == 0
        self.excess = excess


class NodeReplay:
    """A node on its way through the workload."""

    def __init__(
        self,
        load: NodeWorkload,
        *,
        drivers: Iterable[BalloonDriver] | None = None,
        record: Recording | None = None,
        progress: Callable[[float], None] = lambda _: None,
        skip: bool = True,
    ) -> None:
        """Prepare a replay.

        Args:
            load: what to replay.
            drivers: how the guests' balloons behave, in the order of the VMs; drawn at random by default.
            record: filled with what the report needs.
            progress: told how many seconds have been simulated since it was last told.
            skip: leave out rounds without effect.
        """
        self._load = load
        self._record = record
        self._progress = progress
        self._skip = skip
        draw = random.Random(f"{load.seed}/{load.name}")  # noqa: S311 - not for secrets
        self._first_round = load.interval / 2
        behaviour = _drivers(draw) if drivers is None else iter(drivers)
        self._seats = [
            SimulatedVM(trace.name, load.policy, _guest(trace, int(minimum), driver))
            for trace, minimum, driver in zip(load.traces, bounds(load).minimum, behaviour, strict=False)
        ]
        self._events = _events(load)
        self._next_event = 0
        self._awake: set[int] = set()
        self._state = NodeState.AMPLE
        self._waiting = False
        self._overrun = _Overrun(load.memory)

    def run(self) -> ReplayTotals:
        """Replay all of it."""
        self._settle()
        self._overrun.look(self._used())
        load = self._load
        self._between(0.0, min(self._first_round, load.seconds))
        number = 0
        while (now := self._time(number)) < load.seconds:
            self._decide(now, read=True)
            self._between(now, min(self._time(number + 1), load.seconds))
            upcoming = self._next_round(number + 1)
            self._between(self._time(number + 1), min(self._time(upcoming), load.seconds))
            self._progress(self._time(upcoming) - now)
            number = upcoming
        return self._count()

    def _next_round(self, number: int) -> int:
        """The first round from ``number`` on that has anything to do."""
        end = self._rounds_before(self._event_time())
        if not self._skip or self._awake or number >= end:
            return number
        quiet, stride = number, 1  # no round before ``quiet`` moves a target
        while quiet < end:
            tried = min(quiet + stride, end) - 1
            if self._moves_target(tried):
                return quiet + bisect.bisect_left(range(quiet, tried), x=True, key=self._moves_target)
            quiet, stride = tried + 1, _FASTER * stride
        return end

    def _moves_target(self, number: int) -> bool:
        """Whether a round will move a target if nothing happens until then."""
        now, interval = self._time(number), self._load.interval
        plan = allocate_memory(self._node([seat.foreseen(now, interval) for seat in self._seats]))
        return any(True for _ in _moves(plan))

    def _time(self, number: int) -> float:
        return self._first_round + number * self._load.interval

    def _settle(self) -> None:
        """Start from where the first demands lead, at no cost: a replay measures changes, not the first boot."""
        for _ in range(_SETTLING):
            moves = list(_moves(allocate_memory(self._node([seat.seen(0.0) for seat in self._seats]))))
            if not moves:
                return
            for index, target in moves:
                self._seats[index].place(target)

    def _decide(self, now: float, *, read: bool) -> None:
        """One round of control."""
        if read:
            for seat in self._seats:
                if not seat.settled:
                    seat.read(now, self._load.interval)
        node = self._node([seat.seen(now) for seat in self._seats])
        self._state = node.state
        plan = allocate_memory(node)
        self._explain(plan, now)
        self._waiting = any(decision.reason is DecisionReason.WAITING for decision in plan.decisions)
        for index, target in _moves(plan):
            self._seats[index].aim(target, now)
            self._awake.add(index)

    def _node(self, vms: Iterable[MemoryVM]) -> MemoryNode:
        load = self._load
        available = int(load.memory - sum([seat.guest.resident for seat in self._seats]))
        return MemoryNode(
            name=load.name,
            total=load.memory,
            available=available,
            other=0,
            reserve=load.limits.ample,
            state=next_state(self._state, available, load.limits, MemoryStall(), StallLimits()),
            vms=tuple(vms),
        )

    def _between(self, start: float, end: float) -> None:
        """Let demands change and balloons move from one round to the next, or through rounds without effect."""
        now, report, news = start, start + REPORT, False
        while now < end:
            event = self._event_time()
            stops = [end, event]
            if self._awake:
                stops.append(now + TICK)
            if self._waiting and news:
                stops.append(report)
            elapsed, now = min(stops) - now, min(stops)
            self._overrun.advance(elapsed)
            if event <= now:
                self._change_demands(now)
            if self._awake:
                news = True
                self._walk(now)
                self._overrun.look(self._used())
            self._remember(now)
            if self._waiting and news and report <= now < end:
                self._decide(now, read=False)
                report, news = now + REPORT, False

    def _used(self) -> float:
        return sum([seat.guest.used for seat in self._seats])

    def _walk(self, now: float) -> None:
        """Look at every guest on its way."""
        for index in sorted(self._awake):
            if not self._seats[index].step(now):
                self._awake.discard(index)

    def _event_time(self) -> float:
        return self._events[self._next_event][0] if self._next_event < len(self._events) else self._load.seconds

    def _change_demands(self, now: float) -> None:
        interval = self._load.interval
        last_round = self._time(self._rounds_before(now) - 1)
        while self._event_time() <= now and self._next_event < len(self._events):
            _, index, wanted = self._events[self._next_event]
            seat = self._seats[index]
            if seat.stats.updated < last_round:  # skipped: nothing had changed by then
                seat.read(last_round, interval)
            seat.demands(wanted, now)
            self._awake.add(index)
            self._next_event += 1

    def _rounds_before(self, moment: float) -> int:
        """The number of the first round that sees what happens at ``moment``."""
        return math.ceil((moment - self._first_round) / self._load.interval)

    def _explain(self, plan: MemoryPlan, now: float) -> None:
        if self._record is not None and now <= self._record.explain_at:
            self._record.decisions = plan.decisions

    def _remember(self, now: float) -> None:
        record = self._record
        if record is None or (record.moments and now < record.moments[-1].at + record.step):
            return
        record.moments.append(
            ReplayMoment(
                now,
                demand=sum(seat.guest.demand for seat in self._seats),
                unmet=sum(seat.guest.missing for seat in self._seats),
                targets=tuple(seat.target for seat in self._seats),
            )
        )

    def _count(self) -> ReplayTotals:
        load = self._load
        guests = [seat.guest for seat in self._seats]
        for guest in guests:
            guest.advance(load.seconds)
        return ReplayTotals(
            demand=sum(_area(trace.times, trace.demand, load.seconds) for trace in load.traces),
            unmet=sum(guest.unmet for guest in guests) + self._overrun.area,
            exhaustions=self._overrun.times,
            moved=sum(guest.moved for guest in guests),
            direction_changes=sum(seat.turns for seat in self._seats),
            below_min_seconds=sum(guest.below for guest in guests),
        )


def kubeballoon(load: NodeWorkload) -> ReplayTotals:
    """The core, with guests whose balloons differ a little from one another."""
    return NodeReplay(load).run()


def _drivers(draw: random.Random) -> Iterator[BalloonDriver]:
    while True:
        speed = draw.uniform(1 - _SPREAD, 1 + _SPREAD)
        yield BalloonDriver(INFLATION * speed, DEFLATION * speed)


def _events(load: NodeWorkload) -> list[tuple[float, int, int]]:
    """Every change of demand after the first: when, of which VM, to how many bytes."""
    return sorted(
        (float(time), index, int(wanted))
        for index, trace in enumerate(load.traces)
        for time, wanted in zip(trace.times[1:], trace.demand[1:], strict=True)
        if time < load.seconds
    )


def _moves(plan: MemoryPlan) -> Iterator[tuple[int, int]]:
    """The targets that a plan changes: of which VM, to how many bytes."""
    for index, (vm, target, *_) in enumerate(plan.decisions):
        if target is not None and target != vm.target:
            yield index, target


def _guest(trace: Trace, minimum: int, driver: BalloonDriver) -> SimulatedGuest:
    guest = SimulatedGuest(trace.size, minimum, float(trace.size), trace.size, driver)
    guest.demands(int(trace.demand[0]))
    return guest


def _area(times: Seconds, values: Bytes, end: float) -> float:
    """The integral of a step function from its first step to ``end``."""
    inside = times < end
    return float(np.diff(np.append(times[inside], end)) @ values[inside])
