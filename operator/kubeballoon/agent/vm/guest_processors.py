"""This module carries out how many processors a VM may use, in one of two ways, and finds out what came of it.

The guest agent has the guest take a processor offline. The driver way unplugs it through ACPI: the guest kernel's own
driver gives it up, and its thread leaves the node. Both are judged by the guest and by QEMU's threads afterwards, not
by a call's answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kubeballoon.agent.hypervisor.errors import GoneError, GuestAgentError, HungError, HypervisorError
from kubeballoon.agent.hypervisor.protocols import GuestControl, PluggedProcessors, VMProcess
from kubeballoon.agent.hypervisor.qemu_guest_agent import GuestAgent, GuestProcessor
from kubeballoon.agent.vm.vmi import InstanceProcessors
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.agent.wait_times import DEFAULT_TIMING, ProcessorTiming
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import ProcessorMethod, ProcessorReport
from kubeballoon.vocabulary import AgentAction


@dataclass(frozen=True, slots=True)
class ProcessorView:
    """A ProcessorView is what the agent knows of a VM's processors at one moment.

    Attributes:
        online: how many the guest uses; None while that is not known.
        offlinable: how many of those the guest could give up; None while that is not known.
        usage: percent of one of the node's processors; None while that is not known.
        method: the way that requests are carried out; None before the first look.
        problem: why the VM does not have what is requested; None if it has.
    """

    online: int | None = None
    offlinable: int | None = None
    usage: int | None = None
    method: ProcessorMethod | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class _Observation:
    """An _Observation is what one look at a VM's processors shows.

    Attributes:
        guest: the processors as the guest sees them; None while its agent does not say.
        failure: why the guest agent does not say.
        plugged: the processors as the hypervisor sees them.
        threads: how many processors have a thread on the node; libvirt's count where threads cannot be seen.
        started: how many of them the guest's kernel has started; the same where threads cannot be seen.
        pid: the number of the VM's process; None where it cannot be seen.
    """

    guest: tuple[GuestProcessor, ...] | None
    failure: GuestAgentError | None
    plugged: PluggedProcessors
    threads: int
    started: int
    pid: int | None

    @property
    def online(self) -> int:
        """How many processors the guest uses, as far as that can be told."""
        return self.started if self.guest is None else sum(each.online for each in self.guest)

    @property
    def offlinable(self) -> list[int]:
        """The indices of the processors that the guest could give up, the last one first; never its boot processor."""
        return [each.index for each in reversed(self.guest or ()) if each.online and each.offlinable and each.index]

    @property
    def offline(self) -> list[int]:
        """The indices of the processors that the guest has and does not use."""
        return [each.index for each in self.guest or () if not each.online]


@dataclass(slots=True)
class _Unplugging:
    """An _Unplugging is a processor that the guest's kernel was asked to give up.

    Attributes:
        threads: how many processors had a thread then.
        since: when the kernel was asked, seconds.
    """

    threads: int
    since: float


@dataclass(slots=True)
class GuestProcessors:
    """GuestProcessors are the processors of one VM, of which the guest is to use as many as is requested.

    Attributes:
        guest_agent: reaches the guest.
        qemu: the VM's process.
        clock: gives seconds.
        timing: how long to wait.
        view: what is known of the processors now.
        returning: whether processors have to be given back once nothing is requested any more. What the guest's owner
            took offline is not brought back.
    """

    guest_agent: GuestAgent
    qemu: VMProcess
    clock: Callable[[], float] = time.monotonic
    timing: ProcessorTiming = DEFAULT_TIMING.processors
    view: ProcessorView = field(default_factory=ProcessorView)
    returning: bool = False
    _agent_offlined: bool = False  # whether the agent had the guest agent take some offline
    _settled: bool = True
    _unplugging: _Unplugging | None = None
    _lost_in: int | None = None  # the pid of the QEMU of whose unplugged processors libvirt did not hear
    _left_offline_in: int | None = None  # the pid of the QEMU whose guest left processors offline that were plugged in
    _refused_until: float = 0.0  # no processor is unplugged before, because the guest or QEMU refused
    _agent_absent_since: float | None = None  # when the guest agent last answered, or was first asked
    _attempts: int = 0  # requests without any effect
    _last_usage: tuple[float, float] | None = None  # processor seconds used, and when that was

    @property
    def moving(self) -> bool:
        """Whether processors are coming or going, so that it is worth looking again soon."""
        return not self._settled

    async def advance(self, control: GuestControl, request: InstanceProcessors) -> None:
        """Look at the VM, and take the next step toward what is requested.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        found = await self._observe(control, request)
        problem, target = None, self._target(request)
        self._settled = True
        if target is not None:
            try:
                problem = await self._step(control, request, found, target)
                if found.online != target:
                    before, found = found, await self._observe(control, request)
                    problem = problem or self._judge_progress(before, found, target)
            except GuestAgentError as error:  # nothing was done, so there is nothing else to see
                problem = Problem(error.reason, str(error))
            self._settled = problem is not None or found.online == target
            self._update_returning(request, found, target)
        self.view = ProcessorView(
            online=found.online,
            offlinable=len(found.offlinable) if found.guest is not None else len(found.plugged.removable),
            usage=self._usage(found.plugged.cpu_seconds),
            method=self._method(control, request, found),
            problem=problem,
        )

    def restore(self, report: ProcessorReport) -> None:
        """Take over from an earlier agent's report what it had requested."""
        self.returning = report.target is not None or report.returning
        self._agent_offlined = self.returning and report.method is not ProcessorMethod.DRIVER

    def expect(self, request: InstanceProcessors) -> None:
        """Take over what is requested before the VM can be reached.

        The VM may have migrated here, with processors that were reclaimed on another node: they are to be given back
        even if the request ends before the first look.
        """
        if not self.returning and request.target is not None and request.ineligibility is None:
            self.returning, self._agent_offlined = True, request.method is not ProcessorMethod.DRIVER

    def fail(self, reason: AgentReason, message: str) -> None:
        """Note that the VM cannot be reached."""
        self.view = replace(self.view, online=None, usage=None, problem=Problem(reason, message))
        self._last_usage = self._unplugging = None

    def _update_returning(self, request: InstanceProcessors, found: _Observation, target: int) -> None:
        """Find out whether all processors are back; of those that the guest took offline only the guest can tell."""
        all_back = found.online >= target and (found.guest is not None or not self._agent_offlined)
        self.returning = request.target is not None or not all_back
        self._agent_offlined = self._agent_offlined and self.returning

    def _target(self, request: InstanceProcessors) -> int | None:
        """Decide how many processors the guest is to use; None if that is the guest's own affair."""
        obstacle = request.ineligibility or request.unreadable
        if obstacle is not None and obstacle.reason.processors is AgentAction.HOLDS:
            return None
        if request.target is None:
            return request.size if self.returning else None
        return max(1, min(request.target, request.size))

    async def _observe(self, control: GuestControl, request: InstanceProcessors) -> _Observation:
        plugged = await control.plugged()
        guest, failure = await self._ask_guest(request)
        # To find the process may hang, so nothing else here asks for its number.
        pid, threads, started = await asyncio.to_thread(
            lambda: (self.qemu.pid, self.qemu.vcpus(), self.qemu.started_vcpus())
        )
        count = plugged.count if threads is None else len(threads)
        return _Observation(guest, failure, plugged, count, count if started is None else len(started), pid)

    async def _ask_guest(
        self, request: InstanceProcessors
    ) -> tuple[tuple[GuestProcessor, ...] | None, GuestAgentError | None]:
        """Ask the guest for its processors, if anything is requested: the first command taints the VM's domain.

        Returns:
            The processors, or None where the guest was not asked or did not say, and why it did not.
        """
        if request.ineligibility is not None or self._target(request) is None:
            return None, None
        guest = failure = None
        try:
            guest = await self.guest_agent.processors()
        except GuestAgentError as error:
            failure = error
        if guest is not None or self._agent_absent_since is None:
            self._agent_absent_since = self.clock()
        return guest, failure

    def _judge_progress(self, before: _Observation, now: _Observation, target: int) -> Problem | None:
        """Find out whether the guest was asked often enough, and nothing came of it."""
        idle = now.online == before.online != target and now.threads == before.threads and self._unplugging is None
        self._attempts = self._attempts + 1 if idle else 0
        if self._attempts < self.timing.attempts:
            return None
        if now.guest is None and now.threads >= target > now.online:
            self._left_offline_in = now.pid
            return self._left_offline(target - now.online)
        return Problem(AgentReason.NOT_FOLLOWING, f"its guest uses {now.online} processors, whatever it is asked")

    @staticmethod
    def _left_offline(count: int) -> Problem:
        return Problem(
            AgentReason.NOT_FOLLOWING,
            f"its guest leaves {count} processors offline that are plugged in again: it needs a udev rule that brings "
            "them online, or the guest agent",
        )

    def _method(self, control: GuestControl, request: InstanceProcessors, found: _Observation) -> ProcessorMethod:
        """Find the way that requests are carried out at present."""
        able = bool(found.plugged.removable) or found.threads < request.size
        by_driver = self._uses_driver(control, request, found) and able and self._driver_fault(found) is None
        return ProcessorMethod.DRIVER if by_driver else ProcessorMethod.GUEST_AGENT

    def _uses_driver(self, control: GuestControl, request: InstanceProcessors, found: _Observation) -> bool:
        """Whether processors are to be unplugged.

        Auto prefers the guest agent, because what it does is undone at once. It unplugs where there is no guest agent
        and libvirt will hear of it.
        """
        if request.method is not ProcessorMethod.AUTO:
            return request.method is ProcessorMethod.DRIVER
        since = self._agent_absent_since
        absent = since is not None and self.clock() - since >= self.timing.agent_absent_after
        return found.guest is None and absent and not control.emulated

    def _driver_fault(self, found: _Observation) -> Problem | None:
        """Find why processors are not unplugged any more; None if they are."""
        if self._lost_in is not None and self._lost_in == found.pid:
            lost = found.plugged.count - found.threads
            return Problem(
                AgentReason.UNPLUG_LOST,
                f"libvirt did not hear that {lost} processors were unplugged: they come back when the VM is restarted; "
                "others are reclaimed by the guest agent",
            )
        if self._left_offline_in is not None and self._left_offline_in == found.pid:
            return Problem(
                AgentReason.NOT_FOLLOWING,
                "its guest left processors offline that were plugged in again: they are reclaimed by the guest agent",
            )
        if self.clock() < self._refused_until:
            return Problem(
                AgentReason.UNPLUG_REFUSED,
                "its guest did not give a processor up: they are reclaimed by the guest agent",
            )
        return None

    async def _step(
        self, control: GuestControl, request: InstanceProcessors, found: _Observation, target: int
    ) -> Problem | None:
        """Take the next step toward ``target``; return why it cannot be reached, if it cannot."""
        self._judge_unplugging(found)
        if self._unplugging is not None:
            return None
        if found.online > target:
            return await self._reclaim(control, request, found, target)
        if found.online < target:
            return await self._give_back(control, request, found, target)
        fault = self._driver_fault(found)
        return None if fault is not None and fault.reason is AgentReason.NOT_FOLLOWING else fault  # it followed

    def _judge_unplugging(self, found: _Observation) -> None:
        """Find out what came of the last unplugging."""
        unplugging = self._unplugging
        if unplugging is None:
            return
        late = self.clock() - unplugging.since > self.timing.unplug_deadline
        if found.threads < unplugging.threads:
            if found.plugged.count <= found.threads:
                self._unplugging = None
            elif late:  # the thread is gone, and libvirt still counts it: under TCG it never hears of that
                self._unplugging, self._lost_in = None, found.pid
        elif late:
            self._unplugging, self._refused_until = None, self.clock() + self.timing.unplug_again

    async def _reclaim(
        self, control: GuestControl, request: InstanceProcessors, found: _Observation, target: int
    ) -> Problem | None:
        fault = None
        if self._uses_driver(control, request, found):
            fault = self._driver_fault(found)
            if fault is None and found.plugged.removable:
                fault = await self._unplug(control, found)
                if fault is None:
                    return None
            fault = fault or Problem(
                AgentReason.NOT_REMOVABLE, "its processors cannot be unplugged: they are reclaimed by the guest agent"
            )
        if found.guest is None:
            raise found.failure or GuestAgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest agent does not answer")
        to_offline = found.offlinable[: found.online - target]
        if to_offline:
            self._agent_offlined = True
            await self.guest_agent.set_processors(to_offline, online=False)
        left = found.online - len(to_offline)
        if left > target:
            return Problem(
                AgentReason.NOT_OFFLINABLE, f"its guest offers no more processors to reclaim: it keeps {left}"
            )
        return fault

    async def _unplug(self, control: GuestControl, found: _Observation) -> Problem | None:
        """Have the last processor unplugged; return why not, where QEMU refuses."""
        try:
            await control.unplug(found.plugged.removable[0])
        except (GoneError, HungError):
            raise
        except HypervisorError as error:
            self._refused_until = self.clock() + self.timing.unplug_again
            return Problem(AgentReason.UNPLUG_REFUSED, f"{error}: its processors are reclaimed by the guest agent")
        self._unplugging = _Unplugging(found.threads, self.clock())
        return None

    async def _give_back(
        self, control: GuestControl, request: InstanceProcessors, found: _Observation, target: int
    ) -> Problem | None:
        """Bring online what the guest has offline, then plug in what is unplugged."""
        to_online = found.offline[: target - found.online]
        if to_online:
            await self.guest_agent.set_processors(to_online, online=True)
        online = found.online + len(to_online)
        if online >= target:
            return None
        if found.plugged.count > found.threads:  # libvirt believes that they are plugged in already
            self._lost_in = found.pid
            return self._driver_fault(found)
        if found.threads < request.size:
            await control.plug(min(request.size, found.threads + target - online))
        return None

    def _usage(self, cpu_seconds: float) -> int | None:
        """Compute what the VM used since the last look, in percent of one processor."""
        now, last = self.clock(), self._last_usage
        self._last_usage = cpu_seconds, now
        if last is None or now <= last[1]:
            return self.view.usage
        return max(0, round(100 * (cpu_seconds - last[0]) / (now - last[1])))
