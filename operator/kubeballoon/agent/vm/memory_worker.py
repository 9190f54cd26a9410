"""One VM's worker: looks at it, carries its request out, and never does it harm.

Each worker is a task of its own, with a hypervisor connection of its own, so that one that hangs delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kubeballoon.agent.hypervisor.interface import (
    DomainSample,
    HungError,
    Hypervisor,
    HypervisorError,
    MemoryControl,
    VMProcess,
)
from kubeballoon.agent.hypervisor.launchers import find_launcher
from kubeballoon.agent.problem import Problem
from kubeballoon.agent.vm.authorization import Authorization
from kubeballoon.agent.vm.guest_program import CHANGING
from kubeballoon.agent.vm.instance import Instance
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.backoff import Backoff
from kubeballoon.core.memory import demand, guard, pacing
from kubeballoon.core.wording import human
from kubeballoon.governance.reports import SILENT_AFTER
from kubeballoon.vocabulary import AgentAction

_log = logging.getLogger(__name__)

LOOK = 3.0  # seconds between looks at a VM whose guest does not report
REST = 10.0  # seconds between looks at one that stands still, at the most: it is looked at when its guest has reported
LATE = 1.25  # seconds in which a guest's report has come: it is dated in whole seconds, rounded down
STEP = 0.2  # seconds between looks at one that is on its way
RETRY = (1.0, 2.0, 5.0, 10.0)  # seconds between attempts to reach it, growing
_KEPT = 32  # a guest keeps this part of its size free, whatever it is asked for
_NEWS = 100  # a figure is worth a look at the whole node when it moved by this part of the VM's size
GRACE = 30.0  # seconds a driver has to report for the first time, as a guest boots


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What holds for every VM of the node.

    Attributes:
        pods: where the kubelet's pods are.
        window: time constant of the demand's slow average, seconds.
        period: how often guests are to report, seconds.
    """

    pods: Path
    window: float
    period: int


@dataclass(frozen=True, slots=True)
class MemoryView:
    """What is known of a VM now.

    Attributes:
        sample: the last look, None before the first.
        need: the estimate, None while the guest's statistics are missing or stale.
        goal: where it is to be, bytes; None while it is left as it is.
        problem: why it does not do what it should, as (reason, message).
        resident: what its process holds of the node's memory while there is no sample, bytes; None where not known.
    """

    sample: DomainSample | None = None
    need: demand.Need | None = None
    goal: int | None = None
    problem: Problem | None = None
    pace: pacing.Pace = field(default_factory=pacing.Pace)
    resident: int | None = None

    @property
    def known(self) -> bool:
        """Whether there is something to tell of it."""
        return self.sample is not None or self.problem is not None

    @property
    def responsive(self) -> bool:
        """Whether it answers, and its driver follows."""
        return self.problem is None and self.pace.responsive

    @property
    def withheld(self) -> int:
        """What the guest was asked for and does not have to give, bytes."""
        if self.sample is None or self.goal is None or self.pace.request is not None or not self.responsive:
            return 0
        excess = self.sample.statistics.actual - self.goal
        return excess if excess > pacing.max_residual(self.sample.size) else 0


class MemoryWorker:
    """Keeps one VM."""

    def __init__(
        self,
        instance: Instance,
        hypervisor: Hypervisor,
        settings: WorkerSettings,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
        timed: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        process: VMProcess | None = None,
    ) -> None:
        """Keep ``instance``; ``changed`` is called after news; ``clock`` is the wall's: guests report by it.

        ``authorization`` is what stands behind the requests; ``emergency_target`` takes the place of the request while
        node or guest is in trouble, in bytes; ``looked`` is when the VM was last looked at, seconds.
        """
        self.instance = instance
        self.authorization = Authorization()
        self.emergency_target: int | None = None
        self.view = MemoryView()
        self.looked: float | None = None
        self._hypervisor = hypervisor
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._timed = timed  # measures each look
        self._process = process  # the VM's
        self._since = self._rearmed = clock()
        self._wake = asyncio.Event()
        self._before: demand.GuestStatistics | None = None
        self._remembered: demand.Need | None = None  # the last estimate: demand falls slowly over gaps too
        self._ruler = demand.BalloonCalibration()
        self._barren = Backoff()
        self._told = MemoryView()
        self._pod: str | None = None

    @property
    def target(self) -> int | None:
        """The request that the VM is to follow, bytes; None where there is none, or nothing stands behind it."""
        return self.instance.target if self.authorization.bound else None

    def update(self, instance: Instance, authorization: Authorization) -> None:
        """The VM's object or its policy changed: look at once if something else is asked of it."""
        asks, target = self._asks(), self.target
        self.instance, self.authorization = instance, authorization
        if target != self.target:  # what the agent decided alone stood in the place of the request before this one
            self.emergency_target = None
        if asks != self._asks():
            self._wake.set()

    def recall(self, report: VirtualMachineReport, at: float) -> None:
        """Know what the agent before this one had seen by ``at``, seconds: nobody has moved the balloon since.

        It is what is reported until there is a look, and demand goes on falling slowly from there.
        """
        if report.target == self.target:
            self.emergency_target = report.emergency_target
        if report.actual is None:
            return
        statistics = demand.GuestStatistics(report.actual, updated=0.0)
        sample = DomainSample(report.size, report.resident or 0, running=True, balloon=True, statistics=statistics)
        need = None
        if report.need is not None and 0 <= self._clock() - at <= SILENT_AFTER:
            need = self._remembered = demand.Need(report.need, report.need, report.need, at)
        problem = None if report.responsive or report.reason is None else Problem(report.reason, report.message or "")
        self.view = self._told = MemoryView(sample=sample, need=need, problem=problem)

    def set_emergency_target(self, target: int | None) -> None:
        """Let ``target``, in bytes, take the place of the request; None: the request holds again."""
        if target != self.emergency_target:
            self.emergency_target = target
            self._wake.set()

    async def run(self) -> None:
        """Keep the VM until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    domain = await self._connect()
                    with contextlib.closing(domain):
                        failures = 0
                        await self._keep(domain)
                except HypervisorError as error:
                    await self._fail(error)
                await self._pause(RETRY[min(failures, len(RETRY) - 1)])
                failures += 1
        finally:
            if self._pod is not None:
                self._hypervisor.forget(self._pod)

    def _asks(self) -> tuple[object, ...]:
        instance = self.instance
        return (
            *(
                self.target,
                instance.minimum,
                instance.ineligibility,
                instance.hold,
                instance.return_all,
                instance.fault,
            ),
            None if self.authorization.policy is None else self.authorization.policy.terms,
        )

    async def _connect(self) -> MemoryControl:
        launcher = find_launcher(self._settings.pods, list(self.instance.pods))
        if launcher is None:
            raise HypervisorError(f"no libvirt socket of its launcher pod under {self._settings.pods}")
        if self._pod not in (None, launcher.pod):
            self._hypervisor.forget(str(self._pod))
        self._pod = launcher.pod
        domain = await self._hypervisor.connect(launcher, self.instance.domain)
        try:
            if self._may_ask:
                await domain.set_statistics_period(self._settings.period)
        except HypervisorError:
            domain.close()
            raise
        return domain

    async def _keep(self, domain: MemoryControl) -> None:
        while True:
            with self._timed():
                sample = await domain.sample()
            self.looked = self._clock()
            moving = await self._look(domain, sample)
            self._tell()
            await self._pause(STEP if moving else self._rest(sample.statistics.updated))

    def _rest(self, updated: float) -> float:
        """Seconds until a guest that reported at ``updated`` has done so again: there is little to see before."""
        due = updated + self._settings.period + LATE - self._clock()
        return min(REST, max(STEP, due)) if due > 0 else LOOK

    async def _look(self, domain: MemoryControl, sample: DomainSample) -> bool:
        """Take one look in, and act on it; whether the VM is on its way somewhere."""
        now = self._clock()
        need = self._estimate(sample, now)
        self._judge_effect(sample, now)
        problem = self._problem(sample, now)
        goal = self._goal(sample, problem)
        self.view = replace(self.view, sample=sample, need=need, problem=problem, goal=goal)
        await self._rearm(domain, sample, now)
        if goal is None:
            self.view = replace(self.view, pace=replace(self.view.pace, request=None))
            return False
        waits = sample.pending is not None and goal <= sample.pending  # before its answer nothing more is asked
        if not waits:
            await self._pursue(domain, sample, goal, now)
        under_way = waits or self.view.pace.request is not None
        return under_way and abs(sample.statistics.actual - goal) > pacing.TOLERANCE

    async def _rearm(self, domain: MemoryControl, sample: DomainSample, now: float) -> None:
        """Have a guest report again that does not: another client may have ended it, or nobody has begun it."""
        at_fault = sample.running and sample.balloon and sample.problem is None and not self._is_fresh(sample, now)
        pause = self._patience if sample.statistics.updated else GRACE  # there may be no driver at all
        if at_fault and self._may_ask and now - self._rearmed > pause:
            self._rearmed = now
            await domain.set_statistics_period(self._settings.period)

    async def _pursue(self, domain: MemoryControl, sample: DomainSample, goal: int, now: float) -> None:
        """Ask for the next step on the way."""
        statistics, need, policy = sample.statistics, self.view.need, self.authorization.policy
        troubled = need is not None and need.troubled
        seen = pacing.BalloonSample(
            statistics.actual, now, _spare(sample, need), troubled, pacing.max_residual(sample.size)
        )
        max_rate = None if policy is None else policy.terms.max_rate
        pace, request = pacing.advance(self.view.pace, seen, goal, max_rate)
        if pace.responsive != self.view.pace.responsive:
            _log.warning(
                "%s: driver %s", self.instance.domain, "follows again" if pace.responsive else "stopped following"
            )
        self.view = replace(self.view, pace=pace)
        if request is not None:
            await domain.set_memory(request)

    @property
    def _may_ask(self) -> bool:
        """Whether the VM may be asked for anything: a migration's job would hold the call up."""
        return self.instance.ineligibility is None and self.instance.hold is None

    def _goal(self, sample: DomainSample, problem: Problem | None) -> int | None:
        """Where the VM is to be, bytes; None when it must be left as it is."""
        instance = self.instance
        if instance.hold is not None:
            return None
        if instance.ineligibility is not None:  # nothing is taken from it; what it lacks all the same was taken before
            return sample.size if sample.balloon and sample.statistics.actual < sample.size else None
        action = AgentAction.FOLLOWS if problem is None else problem.reason.memory
        if action is AgentAction.HOLDS or problem == CHANGING:  # the guest worker moves it while the method changes
            return None
        if self.target is None or instance.return_all is not None or action is AgentAction.RETURNS_ALL:
            return sample.size
        wanted = self.target if self.emergency_target is None else self.emergency_target
        return guard.clamp(wanted, self.authorization.minimum(instance, sample.size), sample.size)

    def _estimate(self, sample: DomainSample, now: float) -> demand.Need | None:
        """The need, from statistics that are fresh."""
        self._ruler = self._ruler.observe(sample.statistics, sample.size, now)
        if not self._is_fresh(sample, now):
            self._before = None
            return None
        statistics = self._ruler.calibrate(sample.statistics)
        if statistics is None:
            return self.view.need
        known = (
            self._remembered
            if self._remembered is not None and 0 <= now - self._remembered.updated <= SILENT_AFTER
            else None
        )
        need = self._remembered = demand.update(known, self._before, statistics, self._settings.window)
        if self._before is None or statistics.updated != self._before.updated:
            self._before = statistics
        return need

    def _is_fresh(self, sample: DomainSample, now: float) -> bool:
        return now - sample.statistics.updated <= self._patience

    @property
    def _patience(self) -> float:
        """How long a guest may take to report, seconds."""
        return 3 * self._settings.period + LOOK

    def _judge_effect(self, sample: DomainSample, now: float) -> None:
        """Whether a balloon that stands still gives the node anything."""
        if (
            now < self._barren.until
            or now - self._ruler.still_since < guard.STILL_SECONDS + sample.lag
            or self.instance.ineligibility is not None
        ):
            return
        actual = sample.statistics.actual
        if guard.frees_nothing(sample.size, actual, sample.resident, self.instance.overhead):
            self._barren = self._barren.failed(now)
        elif actual < sample.size:
            self._barren = Backoff()

    def _problem(self, sample: DomainSample, now: float) -> Problem | None:
        if self.instance.fault is not None:
            return Problem(AgentReason.BAD_REQUEST, self.instance.fault)
        if sample.problem is not None:
            return sample.problem
        if not sample.running:
            return Problem(AgentReason.PAUSED, "its guest is paused: it follows when it goes on")
        if not sample.balloon:
            return Problem(AgentReason.NO_BALLOON, "its libvirt domain has no balloon")
        if not sample.statistics.updated and now - self._since > GRACE:
            alone = "" if sample.alone is None else f"; {sample.alone}"
            return Problem(
                AgentReason.NO_DRIVER, f"its guest has no balloon driver, or one that has never reported{alone}"
            )
        if now < self._barren.until:
            return Problem(
                AgentReason.BALLOON_INEFFECTIVE,
                "its balloon frees nothing on the node, for its pages are pinned: it has them back",
            )
        if sample.statistics.updated and not self._is_fresh(sample, now) and now - self._since > self._patience:
            return Problem(
                AgentReason.STATISTICS_STALE,
                "its driver has stopped reporting: nothing is asked of it until it does again",
            )
        return None

    async def _fail(self, error: HypervisorError) -> None:
        reason = AgentReason.HUNG if isinstance(error, HungError) else AgentReason.UNREACHABLE
        if self.view.problem is None or self.view.problem.reason is not reason:
            _log.warning("%s: %s", self.instance.domain, error)
        # An estimate that cannot be renewed is no estimate: the controller must not act on it.
        self.view = replace(self.view, need=None, goal=None, problem=Problem(reason, str(error)), pace=pacing.Pace())
        self._before = None
        await self._weigh()
        self._tell()

    async def _weigh(self) -> None:
        """What the process of a VM that cannot be looked at holds: its guest may go on all the same."""
        resident = None if self._process is None else await asyncio.to_thread(self._process.resident)
        sample = self.view.sample
        self.view = replace(self.view, resident=resident)
        if sample is not None and resident is not None and not sample.lag:  # merged pages are held, but not used up
            self.view = replace(self.view, sample=replace(sample, resident=resident))

    def _tell(self) -> None:
        """Say that there is news, if there is."""
        if _is_news(self._told, self.view):
            self._told = self.view
            self._changed()

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until something else is asked."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()


def _spare(sample: DomainSample, need: demand.Need | None) -> int | None:
    """What a guest could give without harm, bytes; None where its statistics do not tell."""
    if need is None:
        return None
    spare = max(0, sample.statistics.actual - need.present - sample.size // _KEPT)
    return spare if sample.spare is None else min(spare, sample.spare)


def describe(instance: Instance, view: MemoryView, *, bound: bool) -> str | None:
    """Why the VM has what it has, for its report; None when there is nothing to say."""
    held_back = instance.ineligibility or instance.hold or instance.return_all or view.problem
    if held_back is not None:
        return held_back.message
    held = view.sample.statistics.actual if view.sample is not None else 0
    if not view.pace.responsive:
        return f"its driver does not follow requests: it holds {human(held)}"
    if view.withheld:
        return f"its guest has nothing more to give: it holds {human(held)}, {human(view.withheld)} above its request"
    if instance.target is not None and not bound:
        return "no policy asks anything of it: its request is not followed"
    return instance.why


def _is_news(before: MemoryView, now: MemoryView) -> bool:
    """Whether the node should be looked at because of what changed."""
    old, new = before.sample, now.sample
    if old is None or new is None or before.problem != now.problem or before.responsive != now.responsive:
        return True
    if (before.need is None) != (now.need is None) or bool(before.withheld) != bool(now.withheld):
        return True
    figures = [
        (old.statistics.actual, new.statistics.actual),
        (old.resident, new.resident),
        (old.size, new.size),
    ]
    if before.need is not None and now.need is not None:
        if before.need.troubled != now.need.troubled:
            return True
        figures.append((before.need.value, now.need.value))
    return any(abs(was - value) * _NEWS > new.size for was, value in figures)
