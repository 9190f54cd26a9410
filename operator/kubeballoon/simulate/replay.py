"""One node under kubeballoon: the core decides, modelled guests follow.

The order of things is a cluster's. Each control interval the agent reads every guest's statistics and takes them into
its estimates, the controller allocates, and the agent walks each guest to its target, looking at it several times a
second. While a grant waits for memory that others are still giving, the agent reports what has come free each second
and the controller decides again; guests' statistics are only read anew with the next interval. Rounds are
half an interval off the start, so that where samples fall on whole intervals a change of demand is seen half an
interval late, as it is on average on a cluster.

Most rounds change nothing, and are skipped. Once every balloon is at rest and a round has moved no target, only time
passes until the next change of demand: needs decay toward the present, swapped memory comes back, cool-downs end. The
next round that moves a target is then found by bisection. That skips nothing but rounds without effect as long as
a target, once due to move, stays due until demand changes; the tests compare it with a replay of every round. What
skipped rounds would have done to the estimates is made up for exactly: exponential averages of a constant compose, and
a guest whose counters run is read one interval earlier as well.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kubeballoon.core import demand, guard, pacing
from kubeballoon.core.allocate import allocate
from kubeballoon.core.demand import GuestStatistics, Need
from kubeballoon.core.model import COOL_DOWN, Change, Decision, Node, Plan, Policy, Reason, State, VirtualMachine
from kubeballoon.core.pacing import Pace, Sample
from kubeballoon.core.state import Stall, StallLimits, next_state
from kubeballoon.simulate.guest import DEFLATION, INFLATION, Driver, Guest
from kubeballoon.simulate.strategies import Load, bounds
from kubeballoon.simulate.tally import Tally
from kubeballoon.simulate.traces import Bytes, Seconds

WINDOW = 300.0
"""Seconds: the time constant of the slow average of a guest's need."""

TICK = 0.2
"""Seconds between two looks at a guest on its way."""

REPORT = 1.0
"""Seconds between two reports while granted memory is being freed."""

_SETTLING = 50  # rounds in which the first targets are found; a handful is usual
_SPREAD = 0.2  # by which guests' balloon speeds differ from the measured ones, either way
_ERROR = 1 << 20  # bytes by which balloons are off, at most
_LONG_AGO = {rose: Change(rose, COOL_DOWN) for rose in (True, False)}  # from then on its exact age does not matter
_TIMELESS = (None, *_LONG_AGO.values())


@dataclass(frozen=True, slots=True)
class Seat:
    """One VM on the node, and what its agent and the controller know of it.

    Attributes:
        stats: the last statistics read.
        need: the estimate made from them.
        changed: when the target last moved, seconds.
        rose: whether it rose then; None if it has never moved.
        turns: how often it has changed direction.
    """

    name: str
    policy: Policy
    guest: Guest
    stats: GuestStatistics
    need: Need | None
    target: int
    pace: Pace = field(default_factory=Pace)
    changed: float = 0.0
    rose: bool | None = None
    turns: int = 0

    @classmethod
    def new(cls, name: str, policy: Policy, guest: Guest) -> Seat:
        """A VM whose statistics have just been read for the first time."""
        stats = guest.statistics()
        return cls(name, policy, guest, stats, demand.update(None, None, stats, WINDOW), guest.request)

    @property
    def settled(self) -> bool:
        """Whether reading the guest again would tell nothing new, unless its demand changes."""
        need = self.need
        return self.guest.calm and need is not None and not need.troubled and need.value == need.now

    def read(self, now: float, interval: float) -> Seat:
        """The VM after its statistics have been read at ``now``, as they have been every ``interval`` before."""
        seat = self
        if not seat.guest.calm and now - seat.stats.updated > interval:
            seat = seat._read(now - interval)
        return seat._read(now)  # noqa: SLF001 - the same class

    def _read(self, now: float) -> Seat:
        guest = self.guest.until(now)
        stats = guest.statistics()
        return replace(self, guest=guest, stats=stats, need=demand.update(self.need, self.stats, stats, WINDOW))

    def aim(self, target: int, now: float) -> Seat:
        """The VM with another target."""
        rose = target > self.target
        turns = self.turns + (self.rose is not None and rose != self.rose)
        return replace(self, target=target, changed=now, rose=rose, turns=turns)

    def step(self, now: float) -> tuple[Seat, bool]:
        """Look at the guest on its way to its target; False when there is no point in looking again."""
        guest = self.guest.until(now)
        troubled = self.need is not None and self.need.troubled
        sample = Sample(int(guest.actual), now, spare=max(0, int(guest.actual - guest.used)), troubled=troubled)
        goal = guard.clamp(self.target, guest.minimum, guest.size)
        pace, request = pacing.advance(self.pace, sample, goal, self.policy.max_rate)
        if request is not None:
            guest = replace(guest, request=request)
        arrived = pace.asked is None or abs(guest.actual - pace.asked) <= pacing.TOLERANCE
        on_its_way = request is not None or guest.moving or not arrived or not pace.responsive
        return replace(self, guest=guest, pace=pace), on_its_way

    def seen(self, now: float) -> VirtualMachine:
        """What the controller is told."""
        need = self.need
        age = now - self.changed
        change = None
        if self.rose is not None:
            change = Change(self.rose, age) if age < COOL_DOWN else _LONG_AGO[self.rose]
        return VirtualMachine(
            uid=self.name,
            name=self.name,
            size=self.guest.size,
            actual=int(self.guest.actual),
            need=None if need is None else need.value,
            target=self.target,
            troubled=need is not None and need.troubled,
            responsive=self.pace.responsive,
            policy=self.policy,
            last_change=change,
        )


@dataclass(frozen=True, slots=True)
class Moment:
    """What the node looked like; bytes, ``targets`` in the order of the VMs."""

    at: float
    demand: float
    unmet: float
    targets: tuple[int, ...]


@dataclass(slots=True)
class Record:
    """What to remember of a replay for its report.

    Attributes:
        step: seconds between two moments.
        explain_at: the end of the time whose decisions are kept, seconds.
    """

    step: float
    explain_at: float
    moments: list[Moment] = field(default_factory=list)
    decisions: tuple[Decision, ...] = ()


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

    def advance(self, seconds: float, used: float) -> None:
        """Time passes at the present excess, and the guests now use ``used`` bytes together."""
        self.area += self.excess * seconds
        excess = max(0.0, used - self.memory)
        self.times += excess > 0 and self.excess == 0
        self.excess = excess


class Replay:
    """A node on its way through the workload."""

    def __init__(
        self,
        load: Load,
        *,
        drivers: Iterable[Driver] | None = None,
        record: Record | None = None,
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
            Seat.new(
                trace.name,
                load.policy,
                Guest(trace.size, int(minimum), float(trace.size), trace.size, driver).demanding(int(trace.demand[0])),
            )
            for trace, minimum, driver in zip(load.traces, bounds(load).minimum, behaviour, strict=False)
        ]
        self._events = _events(load)
        self._next_event = 0
        self._awake: set[int] = set()
        self._known: dict[int, tuple[Seat, VirtualMachine]] = {}
        self._state = State.HIGH
        self._waiting = self._needy = False
        self._overrun = _Overrun(load.memory)

    def run(self) -> Tally:
        """Replay all of it."""
        self._settle()
        load = self._load
        self._between(0.0, min(self._first_round, load.seconds))
        number, stride, seen = 0, 1, 0
        while (now := self._time(number)) < load.seconds:
            moved = self._decide(now, read=True)
            news, seen = self._next_event != seen, self._next_event
            self._between(now, min(self._time(number + 1), load.seconds))
            quiet = not (news or self._awake or self._next_event != seen or (moved and self._needy))
            stride = 2 * stride if quiet and self._skip else 1
            upcoming = max(number + 1, min(number + stride, self._rounds_before(self._event_time())))
            self._between(self._time(number + 1), min(self._time(upcoming), load.seconds))
            self._progress(self._time(upcoming) - now)
            number = upcoming
        return self._count()

    def _time(self, number: int) -> float:
        return self._first_round + number * self._load.interval

    def _settle(self) -> None:
        """Start from where the first demands lead, at no cost: a replay measures changes, not the first boot."""
        for _ in range(_SETTLING):
            plan = allocate(self._node(self._seats, 0.0))
            before = self._seats
            self._seats = [
                _placed(seat, seat.target if decision.target is None else decision.target)
                for seat, decision in zip(before, plan.decisions, strict=True)
            ]
            if all(old.target == new.target for old, new in zip(before, self._seats, strict=True)):
                return

    def _decide(self, now: float, *, read: bool) -> bool:
        """One round of control; whether it moved a target."""
        if read:
            self._seats = self._read(now)
        node = self._node(self._seats, now)
        self._state = node.state
        plan = allocate(node)
        self._explain(plan, now)
        self._waiting = any(decision.reason is Reason.WAITING for decision in plan.decisions)
        self._needy = self._waiting or any(vm.troubled for vm in node.vms)
        moved = list(_moves(self._seats, plan))
        for index, target in moved:
            self._seats[index] = self._seats[index].aim(target, now)
            self._awake.add(index)
        return bool(moved)

    def _read(self, now: float) -> list[Seat]:
        return [seat if seat.settled else seat.read(now, self._load.interval) for seat in self._seats]

    def _node(self, seats: list[Seat], now: float) -> Node:
        load = self._load
        available = int(load.memory - sum(seat.guest.resident for seat in seats))
        return Node(
            name=load.name,
            total=load.memory,
            available=available,
            other=0,
            reserve=load.limits.high,
            state=next_state(self._state, available, load.limits, Stall(), StallLimits()),
            vms=tuple(self._vm(index, seat, now) for index, seat in enumerate(seats)),
        )

    def _vm(self, index: int, seat: Seat, now: float) -> VirtualMachine:
        """``Seat.seen``, kept for as long as nothing about it can have changed."""
        known = self._known.get(index)
        if (
            known is not None
            and known[0] is seat
            and (seat.rose is None or known[1].last_change == _LONG_AGO[seat.rose])
        ):
            return known[1]
        vm = seat.seen(now)
        self._known[index] = seat, vm
        return vm

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
            if event <= now:
                self._change_demands(now)
            news |= bool(self._awake)
            self._walk(now)
            self._remember(now)
            self._overrun.advance(elapsed, sum(seat.guest.used for seat in self._seats))
            if self._waiting and news and report <= now < end:
                self._decide(now, read=False)
                report, news = now + REPORT, False

    def _walk(self, now: float) -> None:
        """Look at every guest on its way."""
        for index in sorted(self._awake):
            self._seats[index], on_its_way = self._seats[index].step(now)
            if not on_its_way:
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
                seat = seat.read(last_round, interval)
            self._seats[index] = replace(seat, guest=seat.guest.until(now).demanding(wanted))
            self._awake.add(index)
            self._next_event += 1

    def _rounds_before(self, moment: float) -> int:
        """The number of the first round that sees what happens at ``moment``."""
        return math.ceil((moment - self._first_round) / self._load.interval)

    def _explain(self, plan: Plan, now: float) -> None:
        if self._record is not None and now <= self._record.explain_at:
            self._record.decisions = plan.decisions

    def _remember(self, now: float) -> None:
        record = self._record
        if record is None or (record.moments and now < record.moments[-1].at + record.step):
            return
        record.moments.append(
            Moment(
                now,
                demand=sum(seat.guest.demand for seat in self._seats),
                unmet=sum(seat.guest.missing for seat in self._seats),
                targets=tuple(seat.target for seat in self._seats),
            )
        )

    def _count(self) -> Tally:
        load = self._load
        guests = [seat.guest.until(load.seconds) for seat in self._seats]
        return Tally(
            demand=sum(_area(trace.times, trace.demand, load.seconds) for trace in load.traces),
            unmet=sum(guest.unmet for guest in guests) + self._overrun.area,
            exhaustions=self._overrun.times,
            moved=sum(guest.moved for guest in guests),
            direction_changes=sum(seat.turns for seat in self._seats),
            below_min_seconds=sum(guest.below for guest in guests),
        )


def kubeballoon(load: Load) -> Tally:
    """The core, with guests whose balloons differ a little from one another."""
    return Replay(load).run()


def _drivers(draw: random.Random) -> Iterator[Driver]:
    while True:
        speed = draw.uniform(1 - _SPREAD, 1 + _SPREAD)
        yield Driver(INFLATION * speed, DEFLATION * speed, error=draw.randrange(_ERROR))


def _events(load: Load) -> list[tuple[float, int, int]]:
    """Every change of demand after the first: when, of which VM, to how many bytes."""
    return sorted(
        (float(time), index, int(wanted))
        for index, trace in enumerate(load.traces)
        for time, wanted in zip(trace.times[1:], trace.demand[1:], strict=True)
        if time < load.seconds
    )


def _moves(seats: Sequence[Seat], plan: Plan) -> Iterator[tuple[int, int]]:
    """The targets that a plan changes: of which VM, to how many bytes."""
    for index, (seat, decision) in enumerate(zip(seats, plan.decisions, strict=True)):
        if decision.target is not None and decision.target != seat.target:
            yield index, decision.target


def _placed(seat: Seat, target: int) -> Seat:
    """The VM with its balloon already where it is wanted."""
    guest = replace(seat.guest, request=guard.clamp(target, seat.guest.minimum, seat.guest.size))
    return Seat.new(
        seat.name, seat.policy, replace(guest, actual=guest.goal, resident=guest.used, swapped=guest.missing)
    )


def _area(times: Seconds, values: Bytes, end: float) -> float:
    """The integral of a step function from its first step to ``end``."""
    inside = times < end
    return float(np.diff(np.append(times[inside], end)) @ values[inside])
