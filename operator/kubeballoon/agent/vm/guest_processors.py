"""Carries out how many processors a VM may use, and says how far that went.

Two ways. The guest's agent has the guest take a processor offline. The driver way unplugs it through ACPI: the guest
kernel's own driver gives it up, and its thread leaves the node. What came of it is judged by the guest and by QEMU's
threads, never by a call's answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kubeballoon.agent.hypervisor.guest_agent import GuestAgent, GuestProcessor
from kubeballoon.agent.hypervisor.interface import (
    AgentError,
    GoneError,
    GuestControl,
    HungError,
    HypervisorError,
    PluggedProcessors,
    VMProcess,
)
from kubeballoon.agent.problem import Problem
from kubeballoon.agent.vm.instance import Instance, InstanceProcessors
from kubeballoon.api.meta import LONGEST_MESSAGE
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import ProcessorMethod, ProcessorReport
from kubeballoon.vocabulary import AgentAction

PATIENCE = 8.0  # seconds a guest's kernel has to give a processor up; it takes a fraction of one
RETRY = 300.0  # seconds until a guest that did not is asked again
SILENT = (
    60.0  # seconds without a guest agent after which Auto turns to the driver: a guest that boots has none for a while
)
TRIES = 5  # looks without progress after which a guest counts as one that does not follow


@dataclass(frozen=True, slots=True)
class ProcessorView:
    """What is known of a VM's processors.

    Attributes:
        online: how many the guest uses, None while that is not known.
        usage: percent of one of the node's processors.
        method: what carries requests out.
        problem: why it does not have what is asked.
    """

    online: int | None = None
    offlinable: int | None = None
    usage: int | None = None
    method: ProcessorMethod | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look.

    Attributes:
        guest: the processors as the guest sees them; None while its agent does not say.
        failure: why it does not.
        threads: how many have a thread on the node; libvirt's account where threads cannot be seen.
    """

    guest: tuple[GuestProcessor, ...] | None
    failure: AgentError | None
    plugged: PluggedProcessors
    threads: int

    @property
    def online(self) -> int:
        return self.threads if self.guest is None else sum(each.online for each in self.guest)

    @property
    def spare(self) -> list[int]:
        """What the guest could give up, the last one first; never the one it booted on."""
        return [each.index for each in reversed(self.guest or ()) if each.online and each.offlinable and each.index]

    @property
    def offline(self) -> list[int]:
        return [each.index for each in self.guest or () if not each.online]


@dataclass(slots=True)
class _Unplugging:
    """A processor that the guest's kernel was asked to give up."""

    threads: int
    since: float


@dataclass(slots=True)
class GuestProcessors:
    """The processors of one VM.

    Attributes:
        view: what is known of them now.
        returning: whether what was asked has yet to be undone once nothing is: processors that the guest's owner took
            offline are not ours to bring back.
    """

    agent: GuestAgent
    qemu: VMProcess
    clock: Callable[[], float] = time.monotonic
    view: ProcessorView = field(default_factory=ProcessorView)
    returning: bool = False
    _offline: bool = False  # whether the guest's agent took some offline
    _settled: bool = True
    _unplugging: _Unplugging | None = None
    _lost_of: int | None = None  # the QEMU whose unplugged processors libvirt did not hear of
    _refused_until: float = 0.0
    _heard: float | None = None  # when the guest's agent last answered, or was first asked
    _tries: int = 0  # looks without progress
    _used: tuple[float, float] | None = None  # processor seconds, and when

    @property
    def moving(self) -> bool:
        """Whether something is under way that is worth looking at soon."""
        return not self._settled

    async def look(self, channel: GuestControl, request: InstanceProcessors) -> None:
        """Look at the VM, and have it do what is asked.

        Raises:
            HypervisorError: it cannot be looked at.
        """
        seen = await self._see(channel, request)
        problem, wanted = None, self._wanted(request)
        self._settled = True
        if wanted is not None:
            try:
                problem = await self._pursue(channel, request, seen, wanted)
                if seen.online != wanted:
                    before, seen = seen, await self._see(channel, request)
                    problem = problem or self._doubt(before, seen, wanted)
            except AgentError as error:  # nothing was done, so there is nothing else to see
                problem = Problem(error.reason, str(error))
            self._settled = problem is not None or seen.online == wanted
            self._settle(request, seen, wanted)
        self.view = ProcessorView(
            online=seen.online,
            offlinable=len(seen.spare) if seen.guest is not None else len(seen.plugged.removable),
            usage=self._usage(seen.plugged.seconds),
            method=self._method(channel, request, seen),
            problem=problem,
        )

    def recall(self, report: ProcessorReport) -> None:
        """Know from the last report what the agent before this one had asked."""
        self.returning = report.target is not None or report.returning
        self._offline = self.returning and report.method is not ProcessorMethod.DRIVER

    def expect(self, request: InstanceProcessors) -> None:
        """Know what is asked before the VM can be looked at: what went before may have been taken on another node."""
        if not self.returning and request.target is not None and request.ineligibility is None:
            self.returning, self._offline = True, request.method is not ProcessorMethod.DRIVER

    def fail(self, reason: AgentReason, message: str) -> None:
        """The VM cannot be looked at."""
        self.view = replace(self.view, online=None, usage=None, problem=Problem(reason, message))
        self._used = self._unplugging = None

    def _settle(self, request: InstanceProcessors, seen: _Seen, wanted: int) -> None:
        """Whether all is back; of what the guest took offline only the guest can tell."""
        back = seen.online >= wanted and (seen.guest is not None or not self._offline)
        self.returning = request.target is not None or not back
        self._offline = self._offline and self.returning

    def _wanted(self, request: InstanceProcessors) -> int | None:
        """How many processors the guest is to use; None where that is its own affair."""
        if request.ineligibility is not None or request.fault is not None:
            return None
        if request.target is None:
            return request.size if self.returning else None
        return max(1, min(request.target, request.size))

    async def _see(self, channel: GuestControl, request: InstanceProcessors) -> _Seen:
        plugged = await channel.plugged()
        guest = failure = None
        try:
            if request.ineligibility is None:
                guest = await self.agent.processors()
        except AgentError as error:
            failure = error
        if guest is not None or self._heard is None:
            self._heard = self.clock()
        threads = await asyncio.to_thread(self.qemu.vcpus)
        return _Seen(guest, failure, plugged, plugged.counted if threads is None else len(threads))

    def _doubt(self, before: _Seen, now: _Seen, wanted: int) -> Problem | None:
        """Whether the guest was asked often enough, and nothing came of it."""
        idle = now.online == before.online != wanted and now.threads == before.threads and self._unplugging is None
        self._tries = self._tries + 1 if idle else 0
        if self._tries < TRIES:
            return None
        return Problem(AgentReason.NOT_FOLLOWING, f"its guest uses {now.online} processors, whatever it is asked")

    def _method(self, channel: GuestControl, request: InstanceProcessors, seen: _Seen) -> ProcessorMethod:
        """What carries requests out."""
        able = bool(seen.plugged.removable) or seen.threads < request.size
        by_driver = self._by_driver(channel, request, seen) and able and self._driver_fault(seen) is None
        return ProcessorMethod.DRIVER if by_driver else ProcessorMethod.GUEST_AGENT

    def _by_driver(self, channel: GuestControl, request: InstanceProcessors, seen: _Seen) -> bool:
        """Auto takes the agent, whose doing is undone at once; the driver where there is none, and no loss to fear."""
        if request.method is not ProcessorMethod.AUTO:
            return request.method is ProcessorMethod.DRIVER
        silent = self._heard is not None and self.clock() - self._heard >= SILENT
        return seen.guest is None and silent and not channel.emulated

    def _driver_fault(self, seen: _Seen) -> Problem | None:
        """Why processors are not unplugged any more."""
        if self._lost_of is not None and self._lost_of == self.qemu.pid:
            lost = seen.plugged.counted - seen.threads
            return Problem(
                AgentReason.UNPLUG_LOST,
                f"libvirt did not hear that {lost} processors were unplugged: they come back when the VM is restarted; "
                "others are taken by the guest agent",
            )
        if self.clock() < self._refused_until:
            return Problem(
                AgentReason.UNPLUG_REFUSED, "its guest did not give a processor up: they are taken by the guest agent"
            )
        return None

    async def _pursue(
        self, channel: GuestControl, request: InstanceProcessors, seen: _Seen, wanted: int
    ) -> Problem | None:
        """Do the next thing on the way to ``wanted``; why it cannot be reached, if it cannot."""
        self._judge(seen)
        if self._unplugging is not None:
            return None
        if seen.online > wanted:
            return await self._take(channel, request, seen, wanted)
        if seen.online < wanted:
            return await self._give(channel, request, seen, wanted)
        return self._driver_fault(seen)

    def _judge(self, seen: _Seen) -> None:
        """What has come of the last unplugging."""
        under_way = self._unplugging
        if under_way is None:
            return
        late = self.clock() - under_way.since > PATIENCE
        if seen.threads < under_way.threads:
            if seen.plugged.counted <= seen.threads:
                self._unplugging = None
            elif late:
                self._unplugging, self._lost_of = None, self.qemu.pid
        elif late:
            self._unplugging, self._refused_until = None, self.clock() + RETRY

    async def _take(
        self, channel: GuestControl, request: InstanceProcessors, seen: _Seen, wanted: int
    ) -> Problem | None:
        fault = None
        if self._by_driver(channel, request, seen):
            fault = self._driver_fault(seen)
            if fault is None and seen.plugged.removable:
                fault = await self._unplug(channel, seen)
                if fault is None:
                    return None
            fault = fault or Problem(
                AgentReason.NOT_REMOVABLE, "its processors cannot be unplugged: they are taken by the guest agent"
            )
        if seen.guest is None:
            raise seen.failure or AgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest agent does not answer")
        given_up = seen.spare[: seen.online - wanted]
        if given_up:
            self._offline = True
            await self.agent.set_processors(given_up, online=False)
        if len(given_up) < seen.online - wanted:
            kept = seen.online - len(given_up)
            return Problem(AgentReason.NOT_OFFLINABLE, f"its guest offers no more processors to take: it keeps {kept}")
        return fault

    async def _unplug(self, channel: GuestControl, seen: _Seen) -> Problem | None:
        """Have the last processor unplugged; why not, where QEMU refuses."""
        try:
            await channel.unplug(seen.plugged.removable[0])
        except (GoneError, HungError):
            raise
        except HypervisorError as error:
            self._refused_until = self.clock() + RETRY
            return Problem(AgentReason.UNPLUG_REFUSED, f"{error}: its processors are taken by the guest agent")
        self._unplugging = _Unplugging(seen.threads, self.clock())
        return None

    async def _give(
        self, channel: GuestControl, request: InstanceProcessors, seen: _Seen, wanted: int
    ) -> Problem | None:
        """First what the guest has offline, then what is unplugged."""
        back = seen.offline[: wanted - seen.online]
        if back:
            await self.agent.set_processors(back, online=True)
        if seen.online + len(back) >= wanted:
            return None
        if seen.plugged.counted > seen.threads:
            self._lost_of = self.qemu.pid
            return self._driver_fault(seen)
        if seen.threads < request.size:
            await channel.plug(min(request.size, seen.threads + wanted - seen.online - len(back)))
            return None
        return None

    def _usage(self, seconds: float) -> int | None:
        """Percent of one processor since the last look."""
        now, before = self.clock(), self._used
        self._used = seconds, now
        if before is None or now <= before[1]:
            return self.view.usage
        return max(0, round(100 * (seconds - before[0]) / (now - before[1])))


def report(instance: Instance, processors: GuestProcessors) -> ProcessorReport:
    """What is reported of a VM's processors."""
    request, view = instance.processors, processors.view
    fault = None if request.fault is None else Problem(AgentReason.BAD_REQUEST, request.fault)
    held_up = instance.hold or fault or view.problem
    reason = request.ineligibility or held_up
    message = request.why if reason is None else reason.message
    return ProcessorReport(
        size=request.size,
        online=view.online,
        offlinable=view.offlinable,
        usage=view.usage,
        target=None if request.target is None else max(0, min(request.target, request.size)),
        returning=request.target is None and processors.returning,
        policy=request.policy,
        requested_method=request.method,
        method=view.method,
        eligible=request.ineligibility is None,
        responsive=held_up is None or held_up.reason.processors is AgentAction.FOLLOWS,
        reason=None if reason is None else reason.reason,
        message=None if message is None else message[:LONGEST_MESSAGE],
    )
