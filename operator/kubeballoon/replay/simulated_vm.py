"""This module models a VM: a guest, and what its node's agent and the controller know of it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.core.memory import demand, pacing, request_checks
from kubeballoon.core.memory.balloon_steps import BalloonProgress, GuestSample, next_step
from kubeballoon.core.memory.demand import GuestStatistics, Need
from kubeballoon.core.memory.division import COOL_DOWNS_BEFORE_REBALANCING
from kubeballoon.core.memory.emergency import is_short
from kubeballoon.core.memory.model import COOL_DOWN, MemoryTerms, MemoryVM
from kubeballoon.core.memory.statistics_period import GrowthMargin, statistics_period
from kubeballoon.replay.simulated_guest import SimulatedGuest
from kubeballoon.vocabulary import AgentAction, SwapAbility

DEMAND_WINDOW = 300.0
"""Seconds: the time constant of the slow average of a guest's need, as agents have it by default."""

PACING_SECONDS = 0.2
"""Seconds between two steps of a guest toward its target."""

_NEWS = 1 / 100  # the part of a VM's size by which its need must have moved to be reported before the next round

# Seconds after which the exact age of a target's change no longer matters to an allocation. Older changes are reported
# as of this age, so that a VM that stays as it is need not be reported anew each round.
_OLD_CHANGE = COOL_DOWNS_BEFORE_REBALANCING * COOL_DOWN
_OLD_CHANGES = {up: TargetChange(up, _OLD_CHANGE) for up in (True, False)}


@dataclass(slots=True)
class SimulatedVM:
    """A SimulatedVM is one VM on the node, with what its agent and the controller know of it.

    Attributes:
        statistics: the guest's statistics, as last read.
        need: the estimate made from them.
        target: what the controller requests, bytes.
        progress: how far the guest has come on the way to its target.
        urgent: whether memory that guests work with is needed at once.
        emergency_target: what the agent has the guest have instead for now, bytes; None while the request holds.
        demand_changed_at: when the demand last changed, seconds.
        changed_at: when the target last changed, seconds.
        last_rose: whether the target rose then; None if it has never changed.
        direction_changes: how often the target rose after a fall, or fell after a rise.
        steady: whether reading the guest's statistics again would change nothing.
        reported: what the controller was last told; None if that is out of date.
        returns_at: when the VM, which was killed, runs again, seconds; None while it runs.
        silent_until: when the guest, which boots, begins to report, seconds.
        migrating: whether the VM is on its way to another node, and is left alone until it is there.
    """

    name: str
    policy: MemoryTerms
    guest: SimulatedGuest
    statistics: GuestStatistics = field(init=False)
    need: Need | None = field(init=False)
    target: int = field(init=False)
    progress: BalloonProgress = field(default_factory=BalloonProgress)
    urgent: bool = False
    changed_at: float = 0.0
    last_rose: bool | None = None
    direction_changes: int = 0
    steady: bool = False
    reported: MemoryVM | None = None
    emergency_target: int | None = None
    demand_changed_at: float = -math.inf
    returns_at: float | None = None
    silent_until: float = -math.inf
    migrating: bool = False

    def __post_init__(self) -> None:
        """Read the guest's statistics for the first time."""
        self.target = self.guest.request
        self._start_estimate()

    def _start_estimate(self) -> None:
        self.statistics, self.reported = self.guest.statistics(), None
        self.need = demand.update(None, None, self.statistics, DEMAND_WINDOW)

    def start_at(self, target: int) -> None:
        """Start anew with the balloon at rest at ``target`` bytes."""
        guest = self.guest
        guest.set_request(request_checks.clamp(target, guest.minimum, guest.size))
        guest.actual = guest.goal
        guest.resident, guest.swapped = guest.used, guest.missing
        self.target = guest.request
        self._start_estimate()

    @property
    def running(self) -> bool:
        """Whether the VM runs: it does not from when it is killed until it is back."""
        return self.returns_at is None

    @property
    def awaits_report(self) -> bool:
        """Whether the guest has not reported yet since it booted."""
        return self.running and self.need is None

    @property
    def in_force(self) -> int:
        """The target that the guest is held to, bytes."""
        return self.target if self.emergency_target is None else self.emergency_target

    def kill(self, now: float, returns_at: float) -> None:
        """End the VM at ``now``; it holds nothing, and its demand is unmet, until it runs again at ``returns_at``."""
        self.guest.advance(now)
        self.guest.stop()
        self.returns_at, self.migrating = returns_at, False

    def boot(self, now: float, silent_seconds: float, touch_rate: float = 0.0) -> None:
        """Start the VM anew at ``now``, with all of its memory.

        Args:
            now: the time, seconds.
            silent_seconds: how long it takes until the guest's driver works and reports.
            touch_rate: how much of its memory the guest touches in a second as it boots, bytes.
        """
        self.guest.advance(now)
        self.guest.start(touch_rate)
        self.returns_at, self.silent_until = None, now + silent_seconds
        self.target, self.emergency_target, self.progress = self.guest.size, None, BalloonProgress()
        self.changed_at, self.last_rose = now, None
        self.steady, self.reported, self.need, self.statistics = False, None, None, self.guest.statistics()

    def begin_migration(self) -> None:
        """Leave the VM alone from now on, as agents do with VMs that are being migrated."""
        self.migrating, self.reported = True, None

    def arrive(self, now: float) -> None:
        """End the VM's migration: it keeps what it holds and its request; the new node's agent knows nothing of it."""
        self.guest.advance(now)
        self.migrating, self.steady, self.urgent = False, False, False
        self.target, self.emergency_target, self.progress = self.in_force, None, BalloonProgress()
        self._start_estimate()

    def read_statistics(self, now: float, interval: float) -> None:
        """Read the guest's statistics at ``now``, as if they had been read every ``interval`` seconds before.

        Rounds without effect are skipped, and with them their reads. For a steady guest one read makes up for all of
        them; for one whose counters run the core needs the rate over the last interval, so a second read is made there.
        """
        if now < self.silent_until:
            return
        if self.need is None:  # the first report after a boot
            self.guest.advance(now)
            self._start_estimate()
            return
        if not self.guest.is_steady and now - self.statistics.updated > interval:
            self._read(now - interval)
        self._read(now)

    def _read(self, now: float) -> None:
        self.guest.advance(now)
        statistics = self.guest.statistics()
        need = self.need = demand.update(self.need, self.statistics, statistics, DEMAND_WINDOW)
        self.statistics, self.reported = statistics, None
        self.steady = need is not None and not need.troubled and need.value == need.present and self.guest.is_steady

    def set_demand(self, demand: int, now: float) -> None:
        """Let the guest work with ``demand`` bytes from ``now`` on."""
        self.guest.advance(now)
        self.guest.set_demand(demand)
        self.steady, self.reported, self.demand_changed_at = False, None, now

    def set_target(self, target: int, now: float) -> None:
        """Request another amount of memory at ``now``."""
        rises = target > self.target
        self.direction_changes += self.last_rose is not None and rises != self.last_rose
        self.target, self.changed_at, self.last_rose, self.reported = target, now, rises, None
        self.emergency_target = None

    def set_emergency_target(self, target: int | None) -> None:
        """Let ``target``, in bytes, take the place of the request; None lets the request hold again."""
        self.emergency_target, self.reported = target, None

    def pace_balloon(self, now: float) -> bool:
        """Take the guest a step toward its target, as its agent does several times a second.

        Returns:
            Whether another step may be needed.
        """
        guest = self.guest
        guest.advance(now)
        if self.migrating:
            self.steady, self.reported = False, None
            return guest.is_moving
        statistics = self.statistics._replace(actual=int(guest.actual))
        sample = GuestSample(guest.size, statistics, now, self.need)
        goal = request_checks.clamp(self.in_force, guest.minimum, guest.size)
        self.progress, request = next_step(self.progress, sample, goal, self.policy, urgent=self.urgent)
        if request is not None:
            guest.set_request(request)
        self.steady, self.reported = False, None
        pace = self.progress.pace
        arrived = pace.request is None or abs(guest.actual - pace.request) <= pacing.TOLERANCE
        return request is not None or guest.is_moving or not arrived or not pace.responsive

    @property
    def follows(self) -> bool:
        """Whether the guest has what its target leaves it, or is not asked for the rest."""
        return self.guest.actual - self.in_force <= pacing.TOLERANCE

    @property
    def swap_ability(self) -> SwapAbility:
        """Whether the guest can swap, as far as its agent has seen."""
        return self.progress.working_set.ability

    def look_at(self, interval: float) -> float:
        """Return when the agent looks at the guest though no round is due, seconds; infinite if it need not.

        A guest without enough to spare reports more often than rounds come, which are ``interval`` seconds apart.
        """
        reclaim, last = self.progress.working_set, self.statistics.updated
        if not self.running or self.need is None:
            return math.inf
        due = self._next_report(statistics_period(self._growth_margin(self.need), interval), interval)
        if reclaim.limit is not None or reclaim.wanted_since is None:
            return due
        unable = reclaim.ability is SwapAbility.UNABLE
        step = reclaim.retry.until if unable else reclaim.wanted_since + self.policy.working_set_delay
        return min(due, max(step, last + PACING_SECONDS))

    def _growth_margin(self, need: Need) -> GrowthMargin:
        size, asked = self.guest.size, self.progress.working_set.limit is not None
        most = self.policy.maximum.of(size)
        return GrowthMargin(size, int(self.guest.actual), need.present, most, need.growth, reclaims_working_set=asked)

    def _next_report(self, period: float, interval: float) -> float:
        """Return when a guest that reports each ``period`` seconds reports something that no round will see as soon."""
        last = self.statistics.updated
        if period >= interval:
            return math.inf
        if self.progress.working_set.limit is not None or not self.guest.is_steady:
            return last + period
        # A steady guest reports the same until its demand changes: on average half a period before its next report.
        return math.inf if self.demand_changed_at <= last else self.demand_changed_at + period / 2

    def look(self, now: float, interval: float) -> bool:
        """Read the guest's statistics before a round is due, and say whether the controller is told at once."""
        before = self.need
        self.read_statistics(now, interval)
        need = self.need
        if before is None or need is None:
            return before is not need
        if is_short(self.guest.size, int(self.guest.actual), need.value, troubled=need.troubled):
            return True
        return need.troubled != before.troubled or abs(need.value - before.value) > _NEWS * self.guest.size

    def report(self, now: float) -> MemoryVM:
        """Return what the controller is told of the VM at ``now``."""
        change, untouched = self._last_change(now), self._untouched(now)
        known = self.reported
        if known is None or known.last_change != change or known.untouched != untouched:
            self.reported = known = self._make_report(change, self.need, untouched)
        return known

    def predict_report(self, now: float, interval: float) -> MemoryVM:
        """Return what the controller will be told at ``now`` if neither demand nor target changes until then."""
        if self.steady or self.need is None:
            return self.report(now)
        if self.guest.is_steady:
            need = demand.update(self.need, self.statistics, self.guest.statistics(now), DEMAND_WINDOW)
            return self._make_report(self._last_change(now), need, self._untouched(now))
        future = copy.copy(self)
        future.guest = copy.copy(self.guest)
        future.read_statistics(now, interval)
        return future.report(now)

    def _last_change(self, now: float) -> TargetChange | None:
        if self.last_rose is None:
            return None
        age = now - self.changed_at
        return TargetChange(self.last_rose, age) if age < _OLD_CHANGE else _OLD_CHANGES[self.last_rose]

    def _untouched(self, now: float) -> int:
        """Return how much of what its balloon leaves it the guest has not touched by ``now``, bytes."""
        return max(0, int(self.guest.actual) - int(self.guest.resident_at(now)))

    def _make_report(self, change: TargetChange | None, need: Need | None, untouched: int) -> MemoryVM:
        return MemoryVM(
            uid=self.name,
            name=self.name,
            size=self.guest.size,
            actual=int(self.guest.actual),
            need=None if need is None else need.value,
            present_need=None if need is None else need.present,
            target=self.in_force,
            troubled=need is not None and need.troubled,
            responsive=self.progress.pace.responsive,
            policy=self.policy,
            excluded="it is migrating" if self.migrating else None,
            agent_action=AgentAction.HOLDS if self.migrating else AgentAction.FOLLOWS,
            last_change=change,
            swap_ability=self.swap_ability,
            untouched=untouched,
        )
