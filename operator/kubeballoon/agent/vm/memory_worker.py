"""This module moves the memory of one VM: it samples the VM, carries its request out, and never harms its guest.

Each VM has a worker with a task and a hypervisor connection of its own, so that one that hangs delays no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime

from kubeballoon.agent.foreign_text import one_line
from kubeballoon.agent.hypervisor import launcher_sockets
from kubeballoon.agent.hypervisor.errors import HypervisorError
from kubeballoon.agent.hypervisor.protocols import DomainSample, Hypervisor, MemoryControl, ProcessMemory
from kubeballoon.agent.report_changes import view_changed
from kubeballoon.agent.settings import AgentSettings
from kubeballoon.agent.vm.guest_program_client import CHANGING
from kubeballoon.agent.vm.implausible_figures import FigureCheck
from kubeballoon.agent.vm.memory_view import MemoryView
from kubeballoon.agent.vm.need_estimator import NeedEstimator
from kubeballoon.agent.vm.policy_backing import PolicyBacking
from kubeballoon.agent.vm.vmi import Instance
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.core.backoff import Backoff
from kubeballoon.core.memory import demand, pacing, request_checks, working_set
from kubeballoon.core.memory.balloon_steps import BalloonProgress, GuestSample, next_step
from kubeballoon.core.memory.statistics_period import GrowthMargin, stale_after, statistics_period
from kubeballoon.governance.report_bounds import SILENT_AFTER, clamp_to_size
from kubeballoon.vocabulary import AgentAction

_log = logging.getLogger(__name__)

_MIB = 1 << 20


class MemoryWorker:
    """A MemoryWorker moves the memory of one VM.

    Attributes:
        instance: the VM as its object says.
        backing: how far the requests on the VM are believed.
        urgent: whether memory that guests work with is needed at once.
        emergency_target: bytes that take the place of the request while the node or the guest is in trouble; None while
            the request holds.
        target_since: since when the VM has had its request, as far as the node's agents have seen; None without one.
        view: what is known of the VM's memory now.
        sampled_at: when the VM was last sampled, seconds of the wall clock; None before.
    """

    def __init__(
        self,
        instance: Instance,
        hypervisor: Hypervisor,
        settings: AgentSettings,
        changed: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        timed: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        process: ProcessMemory | None = None,
    ) -> None:
        """Work for ``instance``.

        Args:
            instance: the VM.
            hypervisor: reaches the VM.
            settings: what holds for every VM of the node.
            changed: is called when the VM's view changed enough to look at the whole node.
            clock: monotonic seconds, by which everything is timed: the wall clock may be set back.
            timed: measures how long a sample takes.
            process: the VM's process, which is read while the VM cannot be reached.
        """
        self.instance = instance
        self.backing = PolicyBacking()
        self.emergency_target: int | None = None
        self.urgent = False
        self.view = MemoryView()
        self.sampled_at: float | None = None
        self._hypervisor = hypervisor
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._wall_clock = settings.wall_clock
        self.target_since = self._utc_now() if instance.target is not None else None
        self._timed = timed
        self._process = process
        self._wait = settings.wait
        self._timing = settings.timing.memory
        self._retry = self._timing.reconnect
        self._started_at = self._period_set_at = clock()
        self._period = settings.period  # between two reports of the guest, as it was last asked for
        self._period_changed_at = 0.0
        self._wake = asyncio.Event()
        self._report_dates = 0.0, 0.0  # of the guest's last report: by the wall clock, and by the monotonic one
        self._estimator = NeedEstimator(settings.window)
        self._figure_check = FigureCheck()
        self._ineffective = Backoff()  # until when a balloon that frees nothing is left empty
        self._announced = MemoryView()  # the view of which ``changed`` was last called
        self._pod: str | None = None

    @property
    def target(self) -> int | None:
        """The request that the VM follows, bytes; None if there is none, or no policy stands behind it."""
        return self.instance.target if self.backing.binding else None

    def update(self, instance: Instance, backing: PolicyBacking) -> None:
        """Take over a new state of the VM's object and policy; act at once if something else is requested."""
        instructions, target = self._instructions(), self.target
        if instance.target != self.instance.target:
            self.target_since = self._utc_now() if instance.target is not None else None
        self.instance, self.backing = instance, backing
        if target != self.target:  # an emergency target replaces the request it was decided beside, and no later one
            self.emergency_target = None
        if instructions != self._instructions():
            self._wake.set()

    def restore(self, report: VirtualMachineReport, reported_at: float) -> None:
        """Start from what an earlier agent reported, for no balloon has moved since.

        The earlier agent's figures are reported until the VM has been sampled, and demand goes on falling slowly from
        there. ``reported_at`` is in seconds of the wall clock.
        """
        age = self._wall_clock() - reported_at
        recent = 0 <= age <= SILENT_AFTER
        if recent and report.target == self.target:
            self.emergency_target = report.emergency_target
        if self.target_since is not None and report.target_since is not None and report.target == self.instance.target:
            self.target_since = min(self.target_since, report.target_since)
        if report.actual is None:
            return
        statistics = demand.GuestStatistics(report.actual, updated=0.0)
        sample = DomainSample(report.size, report.resident, running=True, balloon=True, statistics=statistics)
        need = None
        if recent and report.need is not None:
            need = self._estimator.restore(report.need, self._clock() - age)
        problem = None if report.responsive or report.reason is None else Problem(report.reason, report.message or "")
        able = working_set.WorkingSetPace(report.swap_ability)
        self.view = self._announced = MemoryView(sample=sample, need=need, problem=problem, working_set=able)

    def set_emergency_target(self, target: int | None) -> None:
        """Let ``target``, in bytes, take the place of the request; None lets the request hold again."""
        if target != self.emergency_target:
            self.emergency_target = target
            self._wake.set()

    def read_resident(self) -> None:
        """Read anew what the VM's process holds, to be compared with what the node has free at the same moment.

        The last sample may be seconds old. What the VM has touched since would count as memory that others use.
        """
        sample = self.view.sample
        # Merged pages count as resident here: where KSM is to free memory, the last sample is nearer the truth.
        if self._process is None or sample is None or sample.resident is None or sample.free_delay:
            return
        resident = self._process.resident_if_found()
        if resident is not None:
            self.view = replace(self.view, sample=replace(sample, resident=resident))

    async def run(self) -> None:
        """Work until cancelled. An error ends the connection and nothing else: the VM is reported with a reason."""
        try:
            while True:
                try:
                    with contextlib.closing(await self._connect()) as control:
                        await self._follow(control)
                except HypervisorError as error:
                    await self._fail(error.reason, str(error))
                except Exception as error:  # noqa: BLE001 - an error that concerns one VM must not hide it, or others
                    await self._fail(
                        AgentReason.INTERNAL_ERROR, f"its memory worker failed: {one_line(repr(error))}", error
                    )
                self._retry = self._retry.failed(self._clock())
                await self._wait(self._wake, self._retry.pause)
        finally:
            if self._pod is not None:
                self._hypervisor.forget(self._pod)

    def _utc_now(self) -> datetime:
        return datetime.fromtimestamp(int(self._wall_clock()), UTC)

    def _instructions(self) -> tuple[object, ...]:
        """Collect everything that decides what the VM is to have."""
        instance, policy = self.instance, self.backing.policy
        problems = instance.ineligibility, instance.hold, instance.return_all, instance.fault
        return self.target, instance.minimum, *problems, None if policy is None else policy.terms

    async def _connect(self) -> MemoryControl:
        find = launcher_sockets.require_launcher
        launcher = await asyncio.to_thread(find, self._settings.pods, self.instance.pods)
        if self._pod not in (None, launcher.pod):  # the VM has migrated within the node, or was started anew
            self._hypervisor.forget(str(self._pod))
        self._pod = launcher.pod
        control = await self._hypervisor.connect_memory(launcher, self.instance.domain)
        try:
            if self._may_be_called:
                self._period = self._settings.period
                await control.set_statistics_period(self._period)
        except HypervisorError:
            control.close()
            raise
        return control

    async def _follow(self, control: MemoryControl) -> None:
        while True:
            with self._timed():
                sample = self._as_believed(await control.sample())
            self.sampled_at, self._retry = self._wall_clock(), self._retry.succeeded()
            moving = await self._act(control, sample)
            self._announce()
            pause = self._timing.moving_poll if moving else self._until_report(sample.statistics.updated)
            await self._wait(self._wake, pause)  # an instruction that changes ends the pause

    def _as_believed(self, sample: DomainSample) -> DomainSample:
        """Return a sample as far as the launcher and the guest behind it are believed.

        Its report is dated by the monotonic clock. Its figures are limited to the size that the VM's object says, for
        more would be a claim to others' memory. libvirt rounds that size up to whole MiB.
        """
        size = min(sample.size, -(-self.instance.size // _MIB) * _MIB) if self.instance.size else sample.size
        statistics = sample.statistics
        dated, updated = self._report_dates
        if statistics.updated and statistics.updated != dated:
            age = max(0.0, self._wall_clock() - statistics.updated)
            dated, updated = self._report_dates = statistics.updated, self._clock() - age
        believed = statistics._replace(
            actual=min(statistics.actual, size),
            updated=updated if statistics.updated else 0.0,
            usable=clamp_to_size(statistics.usable, size),
            unused=clamp_to_size(statistics.unused, size),
            disk_caches=clamp_to_size(statistics.disk_caches, size),
        )
        return replace(sample, size=size, statistics=believed)

    def _until_report(self, updated: float) -> float:
        """Compute the seconds until a guest that reported at ``updated`` has reported again; before, nothing is new."""
        timing = self._timing
        remaining = max(updated, self._period_changed_at) + self._period + timing.report_delay - self._clock()
        return min(timing.longest_poll, max(timing.moving_poll, remaining)) if remaining > 0 else timing.poll

    async def _act(self, control: MemoryControl, sample: DomainSample) -> bool:
        """Take a sample into the view and act on it; return whether the VM is on its way to its goal."""
        now = self._clock()
        need = self._estimator.estimate(sample, now, self.view.need, fresh=self._is_fresh(sample, now))
        self._judge_effect(sample, now)
        problem = self._problem(sample, now)
        goal = self._goal(sample, problem)
        self.view = replace(self.view, sample=sample, need=need, problem=problem, goal=goal)
        await self._renew_statistics(control, sample, now)
        if goal is None:
            self.view = replace(self.view, pace=replace(self.view.pace, request=None))
            return False
        # While a guest has not answered a request, it is not asked for more: only a rise need not wait.
        waits = sample.unanswered is not None and goal <= sample.unanswered
        if not waits:
            await self._move(control, sample, goal, now)
        under_way = waits or self.view.pace.request is not None
        return under_way and abs(sample.statistics.actual - goal) > pacing.TOLERANCE

    async def _renew_statistics(self, control: MemoryControl, sample: DomainSample, now: float) -> None:
        """Have a guest report as often as its memory needs watching, and again if it has stopped.

        Another client of libvirt may have ended its reports.
        """
        silent = sample.running and sample.balloon and sample.problem is None and not self._is_fresh(sample, now)
        # A guest that has never reported may have no driver at all: it is asked less often.
        pause = self._stale_after if sample.statistics.updated else self._timing.boot_grace
        period = int(statistics_period(self._growth_margin(sample), self._settings.period))
        overdue = silent and now - self._period_set_at > pause
        if self._may_be_called and (overdue or period != self._period):
            if period != self._period:
                self._period_changed_at = now
            self._period, self._period_set_at = period, now
            await control.set_statistics_period(period)

    def _growth_margin(self, sample: DomainSample) -> GrowthMargin:
        """Return how much the guest can grow before it needs more memory."""
        view, policy = self.view, self.backing.policy
        return GrowthMargin(
            sample.size,
            sample.statistics.actual,
            None if view.need is None else view.need.present,
            sample.size if policy is None else policy.terms.maximum.of(sample.size),
            growth=0 if view.need is None else view.need.growth,
            reclaims_working_set=view.working_set.limit is not None,
        )

    async def _move(self, control: MemoryControl, sample: DomainSample, goal: int, now: float) -> None:
        """Request the next step toward the goal."""
        policy, before = self.backing.policy, self.view
        guest = GuestSample(sample.size, sample.statistics, now, before.need, sample.spare)
        progress, request = next_step(
            BalloonProgress(before.pace, before.working_set),
            guest,
            goal,
            None if policy is None else policy.terms,
            urgent=self.urgent,
        )
        if progress.pace.responsive != before.pace.responsive:
            change = "follows again" if progress.pace.responsive else "stopped following"
            _log.warning("%s: driver %s", self.instance.domain, change, extra=self.instance.log_fields)
        self.view = replace(before, pace=progress.pace, working_set=progress.working_set)
        if request is not None:
            await control.set_memory(request)

    @property
    def _may_be_called(self) -> bool:
        """Whether calls may be made that change the VM; libvirt would block them while the VM migrates."""
        return self.instance.ineligibility is None and self.instance.hold is None

    def _goal(self, sample: DomainSample, problem: Problem | None) -> int | None:
        """Decide what the VM is to have, bytes; None if its memory must be left as it is."""
        instance = self.instance
        if instance.hold is None and instance.ineligibility is not None:
            # Nothing is reclaimed from it. What it lacks all the same was reclaimed while it was eligible.
            return sample.size if sample.balloon and sample.statistics.actual < sample.size else None
        if problem == CHANGING:  # meanwhile the guest program's side returns the memory
            return None
        obstacles = (instance.hold, problem, instance.return_all)
        actions = {obstacle.reason.memory for obstacle in obstacles if obstacle is not None}
        if AgentAction.HOLDS in actions:
            return None
        if AgentAction.RETURNS_ALL in actions or self.target is None:
            return sample.size
        request = self.target if self.emergency_target is None else self.emergency_target
        return request_checks.clamp(request, self.backing.minimum(instance, sample.size), sample.size)

    def _is_fresh(self, sample: DomainSample, now: float) -> bool:
        return now - sample.statistics.updated <= self._stale_after

    @property
    def _stale_after(self) -> float:
        """Seconds without a report after which a guest's statistics count as stale."""
        return stale_after(self._period, self._settings.period) + self._timing.poll

    def _judge_effect(self, sample: DomainSample, now: float) -> None:
        """Find out whether a balloon that stands still has freed memory of the node."""
        if (
            now < self._ineffective.until
            or now - self._estimator.calibration.still_since < request_checks.STILL_SECONDS + sample.free_delay
            or self.instance.ineligibility is not None
            or sample.resident is None
        ):
            return
        actual = sample.statistics.actual
        if request_checks.frees_nothing(sample.size, actual, sample.resident, self.instance.overhead):
            self._ineffective = self._ineffective.failed(now)
        elif actual < sample.size:
            self._ineffective = self._ineffective.succeeded()

    def _problem(self, sample: DomainSample, now: float) -> Problem | None:
        """Find the first reason why the VM does not follow its request, or is named; None if there is none."""
        implausible = self._figure_check.check(self.instance, sample.claimed, now)
        if self.instance.fault is not None:
            return Problem(AgentReason.BAD_REQUEST, self.instance.fault)
        if sample.problem is not None:
            return sample.problem
        if not sample.running:
            return Problem(AgentReason.PAUSED, "its guest is paused: it follows when it goes on")
        if not sample.balloon:
            return Problem.of(AgentReason.NO_BALLOON)
        if not sample.statistics.updated and now - self._started_at > self._timing.boot_grace:
            meaning, fault = AgentReason.NO_DRIVER.meaning, sample.program_fault
            return Problem(AgentReason.NO_DRIVER, meaning if fault is None else f"{meaning}; {fault}")
        if now < self._ineffective.until:
            return Problem(
                AgentReason.BALLOON_INEFFECTIVE,
                "its balloon frees nothing on the node, for its pages are pinned: it has them back",
            )
        if sample.statistics.updated and not self._is_fresh(sample, now) and now - self._started_at > self._stale_after:
            return Problem(
                AgentReason.STATISTICS_STALE,
                "its driver has stopped reporting: nothing is asked of it until it does again",
            )
        return implausible  # the last one, for nothing else follows from it

    async def _fail(self, reason: AgentReason, message: str, unexpected: Exception | None = None) -> None:
        """Report a VM that cannot be reached, or about which the agent failed."""
        if self.view.problem is None or self.view.problem.reason is not reason:
            fields = self.instance.log_fields
            _log.warning("%s: %s", self.instance.domain, message, exc_info=unexpected, extra=fields)
        # An estimate that cannot be renewed is no estimate: the controller must not act on it.
        self.view = replace(self.view, need=None, goal=None, problem=Problem(reason, message), pace=pacing.Pace())
        self._estimator.forget_statistics()
        await self._read_process()
        self._announce()

    async def _read_process(self) -> None:
        """Read what the process of a VM that cannot be sampled holds: its guest may use more memory all the same."""
        resident = None if self._process is None else await asyncio.to_thread(self._process.resident)
        sample = self.view.sample
        self.view = replace(self.view, resident=resident)
        # Merged pages count as resident here: where KSM is to free memory, the last sample is nearer the truth.
        if sample is not None and resident is not None and not sample.free_delay:
            self.view = replace(self.view, sample=replace(sample, resident=resident))

    def _announce(self) -> None:
        if view_changed(self._announced, self.view):
            self._announced = self.view
            self._changed()
