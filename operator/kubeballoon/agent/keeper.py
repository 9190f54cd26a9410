"""One VM's keeper: looks at it, carries its request out, and never does it harm.

Each keeper is a task of its own, with a hypervisor connection of its own, so that one that hangs delays no other.
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

from kubeballoon.agent.hypervisor import Domain, HungError, Hypervisor, HypervisorError, Sample
from kubeballoon.agent.instance import Instance
from kubeballoon.agent.launchers import find
from kubeballoon.core import demand, pacing
from kubeballoon.core.guard import clamp
from kubeballoon.core.wording import human

_log = logging.getLogger(__name__)

LOOK = 2.0  # seconds between looks at a VM that stands still
STEP = 0.2  # seconds between looks at one that is on its way
RETRY = (1.0, 2.0, 5.0, 10.0)  # seconds between attempts to reach it, growing
_KEPT = 32  # a guest keeps this part of its size free, whatever it is asked for
GRACE = 30.0  # seconds a driver has to report for the first time, as a guest boots


@dataclass(frozen=True, slots=True)
class Settings:
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
class View:
    """What is known of a VM now.

    Attributes:
        sample: the last look, None before the first.
        need: the estimate, None while the guest's statistics are missing or stale.
        problem: why it does not do what it should, as (reason, message).
    """

    sample: Sample | None = None
    need: demand.Need | None = None
    problem: tuple[str, str] | None = None
    pace: pacing.Pace = field(default_factory=pacing.Pace)

    @property
    def responsive(self) -> bool:
        """Whether it answers, and its driver follows."""
        return self.problem is None and self.pace.responsive


class Keeper:
    """Keeps one VM."""

    def __init__(
        self,
        instance: Instance,
        hypervisor: Hypervisor,
        settings: Settings,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
        timed: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """Keep ``instance``; ``changed`` is called after every look; ``clock`` is the wall's: guests report by it."""
        self.instance = instance
        self.view = View()
        self._hypervisor = hypervisor
        self._settings = settings
        self._changed = changed
        self._clock = clock
        self._timed = timed  # measures each look
        self._since = clock()
        self._wake = asyncio.Event()
        self._before: demand.GuestStatistics | None = None
        self._ruler = demand.Ruler()
        self._pod: str | None = None

    def update(self, instance: Instance) -> None:
        """The VM's object changed: look at once if it asks for something else."""
        asks = (self.instance.target, self.instance.minimum, self.instance.bar, self.instance.frozen)
        self.instance = instance
        if asks != (instance.target, instance.minimum, instance.bar, instance.frozen):
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
                    self._fail(error)
                await self._pause(RETRY[min(failures, len(RETRY) - 1)])
                failures += 1
        finally:
            if self._pod is not None:
                self._hypervisor.forget(self._pod)

    async def _connect(self) -> Domain:
        launcher = await asyncio.to_thread(find, self._settings.pods, list(self.instance.pods))
        if launcher is None:
            raise HypervisorError(f"no libvirt socket of its launcher pod under {self._settings.pods}")
        if self._pod not in (None, launcher.pod):
            self._hypervisor.forget(str(self._pod))
        self._pod = launcher.pod
        domain = await self._hypervisor.connect(launcher, self.instance.domain)
        if self.instance.bar is None:
            await domain.set_statistics_period(self._settings.period)
        return domain

    async def _keep(self, domain: Domain) -> None:
        while True:
            with self._timed():
                sample = await domain.sample()
            moving = await self._look(domain, sample)
            self._changed()
            await self._pause(STEP if moving else LOOK)

    async def _look(self, domain: Domain, sample: Sample) -> bool:
        """Take one look in, and act on it; whether the VM is on its way somewhere."""
        now = self._clock()
        need = self._estimate(sample, now)
        problem = self._problem(sample, now)
        self.view = replace(self.view, sample=sample, need=need, problem=problem)
        goal = self._goal(sample)
        if goal is None or problem is not None:
            self.view = replace(self.view, pace=replace(self.view.pace, asked=None))
            return False
        statistics = sample.statistics
        spare = None if need is None else max(0, statistics.actual - need.now - sample.size // _KEPT)
        seen = pacing.Sample(statistics.actual, now, spare, need is not None and need.troubled)
        pace, request = pacing.advance(self.view.pace, seen, goal)
        if pace.responsive != self.view.pace.responsive:
            _log.warning(
                "%s: driver %s", self.instance.domain, "follows again" if pace.responsive else "stopped following"
            )
        self.view = replace(self.view, pace=pace)
        if request is not None:
            await domain.set_memory(request)
        return pace.asked is not None and abs(statistics.actual - goal) > pacing.TOLERANCE

    def _goal(self, sample: Sample) -> int | None:
        """Where the VM is to be, bytes; None when it must be left as it is."""
        instance = self.instance
        if instance.bar is not None or instance.frozen is not None or instance.fault is not None:
            return None
        if instance.target is None:
            return sample.size  # nobody asks for any of its memory: it has all of it
        return clamp(instance.target, instance.minimum, sample.size)

    def _estimate(self, sample: Sample, now: float) -> demand.Need | None:
        """The need, from statistics that are fresh."""
        self._ruler = self._ruler.look(sample.statistics, sample.size, now)
        if not sample.statistics.updated or now - sample.statistics.updated > 3 * self._settings.period + LOOK:
            self._before = None
            return None
        statistics = self._ruler.measure(sample.statistics)
        if statistics is None:
            return self.view.need
        need = demand.update(self.view.need, self._before, statistics, self._settings.window)
        if self._before is None or statistics.updated > self._before.updated:
            self._before = statistics
        return need

    def _problem(self, sample: Sample, now: float) -> tuple[str, str] | None:
        if self.instance.fault is not None:
            return "BadRequest", self.instance.fault
        if not sample.running:
            return "Paused", "its guest is paused: it follows when it goes on"
        if not sample.balloon:
            return "NoBalloon", "its libvirt domain has no balloon"
        if not sample.statistics.updated and now - self._since > GRACE:
            return "NoDriver", "its guest has no balloon driver, or one that has never reported"
        return None

    def _fail(self, error: HypervisorError) -> None:
        reason = "Hung" if isinstance(error, HungError) else "Unreachable"
        if self.view.problem is None or self.view.problem[0] != reason:
            _log.warning("%s: %s", self.instance.domain, error)
        # An estimate that cannot be renewed is no estimate: the controller must not act on it.
        self.view = replace(self.view, need=None, problem=(reason, str(error)), pace=pacing.Pace())
        self._before = None
        self._changed()

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the object changes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()


def describe(instance: Instance, view: View) -> str | None:
    """Why the VM has what it has, for its report; None when there is nothing to say."""
    if instance.bar is not None:
        return instance.bar[1]
    if instance.frozen is not None:
        return instance.frozen[1]
    if view.problem is not None:
        return view.problem[1]
    if not view.pace.responsive:
        held = view.sample.statistics.actual if view.sample is not None else 0
        return f"its driver does not follow requests: it holds {human(held)}"
    return instance.why
