"""This module reclaims memory through the program in a guest, where the balloon driver is absent or is not used.

The VM's memory worker samples a ``MemoryControl``, and requests less memory through it. Here that control is the real
one with the program in the balloon's place. It never waits for the guest: it shows what the program said last, and what
is requested is written later. Reading and writing are done by the VM's guest worker.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field, TypeAdapter

from kubeballoon.agent.foreign_text import parse_json
from kubeballoon.agent.hypervisor.errors import GuestAgentError, HypervisorError
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher
from kubeballoon.agent.hypervisor.protocols import DomainSample, GuestControl, Hypervisor, MemoryControl, VMProcess
from kubeballoon.agent.hypervisor.qemu_guest_agent import LONGEST_FILE, GuestAgent
from kubeballoon.agent.hypervisor.qemu_process import ksm_runs
from kubeballoon.agent.vm.offline_memory import OnlineMemoryControl
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.agent.wait_times import DEFAULT_TIMING, ProgramTiming
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import FreedBy
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.pacing import TOLERANCE
from kubeballoon.core.memory.reclaim_state import BalloonStatus, ReclaimState, may_need_program, reclaim_state
from kubeballoon.vocabulary import ReclaimMethod

DIRECTORY = "/run/kubeballoon"
PROGRAM = "/usr/local/lib/kubeballoon/kubeballoon_guest.py"
PYTHON = "/usr/bin/python3"

CHANGING = Problem.of(AgentReason.METHOD_CHANGING)
"""The problem of a VM while balloon and program change places: meanwhile nothing can be requested of it."""


_Figure = Annotated[int, Field(ge=0, lt=1 << 63, strict=True)]


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """A ProgramStatus is what the program in a guest says; sizes are in bytes.

    Attributes:
        number: grows with every look of the program at its guest.
        requested: how much the program is requested to lock, as far as it knows.
        locked: how much memory it has locked.
        available: how much more the guest could use without swapping.
        spare: how much more the program could lock.
    """

    number: _Figure
    requested: _Figure
    locked: _Figure
    available: _Figure
    spare: _Figure

    def within(self, size: int) -> ProgramStatus:
        """Limit the figures to what can be true of a guest of ``size`` bytes."""
        return replace(
            self, locked=min(self.locked, size), available=min(self.available, size), spare=min(self.spare, size)
        )


_STATUS = TypeAdapter(ProgramStatus)


def parse_status(text: bytes) -> ProgramStatus | None:
    """Parse a program's status file; None if it is none, for the guest can write anything there."""
    try:
        return parse_json(text, _STATUS, LONGEST_FILE)
    except ValueError:
        return None


class GuestProgram:
    """A GuestProgram is the program in one guest, as far as the agent knows it.

    Attributes:
        method: how the guest's memory is to be reclaimed.
        requested: how much memory the program is to lock, bytes; None while nothing is requested.
        status: what the program says; None while it says nothing.
        problem: why the program cannot be used; None if it can, or is not needed.
        hold: whether the VM must be left exactly as it is.
        governed: whether a policy may have memory reclaimed, so that a program may be needed.
        suspected: whether a program may have memory locked of which nothing is known. The guest is asked whatever else
            holds, until it has answered.
        past_unknown: whether it is not known who reclaimed memory before, since the VM came from another node. The
            guest is asked if its balloon does not work.
    """

    def __init__(
        self,
        guest_agent: GuestAgent,
        qemu: VMProcess,
        changed: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        merges: Callable[[], bool] = ksm_runs,
        timing: ProgramTiming = DEFAULT_TIMING.program,
    ) -> None:
        """Begin with nothing known of the program.

        Args:
            guest_agent: reaches the guest.
            qemu: the VM's process.
            changed: is called when the program should be asked at once.
            clock: monotonic seconds.
            wall_clock: seconds of the wall clock, by which samples are dated.
            merges: whether KSM runs on the node.
            timing: how long to wait.
        """
        self.method = ReclaimMethod.AUTO
        self.requested: int | None = None
        self.status: ProgramStatus | None = None
        self.problem: Problem | None = None
        self.hold = False
        self.governed = self.suspected = True
        self.past_unknown = False
        self._guest_agent = guest_agent
        self._qemu = qemu
        self._changed = changed
        self._clock = clock
        self._wall_clock = wall_clock
        self._merges = merges
        self._timing = timing
        self._balloon = BalloonStatus()
        self._has_balloon = True  # until the first sample says otherwise
        self._number: int | None = None  # the sequence number of the newest status
        self._status_at = -math.inf  # when the newest status was read
        self._status_dated = 0.0  # the same by the wall clock
        self._sampled_number: int | None = None  # the number of the status in the memory worker's last sample
        self._requested_at = -math.inf  # when the request last changed
        self._started_at = clock()
        self._merged = 0  # bytes of the VM's process that KSM has merged
        self._polled_at: float | None = None  # when the guest was last asked; None: it is to be asked at once
        self._files_refused = False  # whether the guest agent refuses files, so that the program itself is to be run

    @property
    def state(self) -> ReclaimState:
        """Whether the balloon or the program reclaims this guest's memory, or has to give it back first."""
        return reclaim_state(self.method, self._balloon, None if self.status is None else self.status.locked)

    @property
    def due(self) -> bool:
        """Whether the guest should be asked now."""
        return self.until_due <= 0

    @property
    def until_due(self) -> float:
        """Seconds until the guest should be asked; infinite where nothing could come of that."""
        interval = self._interval()
        if self._polled_at is None:
            return interval if math.isinf(interval) else 0.0
        return max(0.0, self._polled_at + interval - self._clock())

    @property
    def moving(self) -> bool:
        """Whether the program was requested a short while ago to lock or free memory, and is not done yet."""
        if not self.state.program_in_charge or self.status is None or self.requested is None:
            return False
        recent = self._clock() - self._requested_at <= self._timing.gone_after
        return recent and abs(self.requested - self.status.locked) > TOLERANCE

    @property
    def freed_by(self) -> FreedBy:
        """How the node gets back what the program has locked.

        Free page reporting does not return it: to the guest's kernel it is in use.
        """
        return FreedBy.KSM if self._merges() else FreedBy.NONE

    def request(self, size: int) -> None:
        """Have ``size`` bytes locked, as soon as the guest agent can be asked."""
        if size != self.requested:
            self.requested, self._polled_at, self._requested_at = size, None, self._clock()
            self._changed()

    async def poll(self) -> None:
        """Read what the program says, and write what is requested of it.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        self._polled_at = self._clock()
        merged = await asyncio.to_thread(self._qemu.merged)
        self._merged = merged or 0
        try:
            self._take_status(await self._read())
            if self.status is None:
                self.problem = await self._diagnose() if may_need_program(self.method, self._balloon) else None
                return
            size = self._size_to_lock()
            if size is not None and self.status.requested != size:
                await self._write(size)
        except GuestAgentError as error:
            self._take_failure(Problem(error.reason, str(error)))
        except HypervisorError as error:
            # The memory worker has a connection of its own: to it the VM is not unreachable, only its guest agent is.
            self._take_failure(Problem(AgentReason.GUEST_AGENT_ABSENT, str(error)))
            raise

    def sample(self, real: DomainSample) -> DomainSample:
        """Make the sample that the memory worker is to see, from the VM's real one."""
        self._has_balloon = real.balloon
        balloon = BalloonStatus(
            works=real.balloon and real.statistics.updated > 0,
            inflated=real.balloon and real.size - real.statistics.actual > TOLERANCE,
        )
        if balloon != self._balloon:
            self._balloon = balloon
            self._changed()
        match self.state:
            case ReclaimState.BALLOON_RECLAIMS:
                self.requested = None
                return self._sample_of_balloon(real)
            case ReclaimState.EMPTYING_PROGRAM:
                self.requested = None
                return self._sample_of_program(real, CHANGING)
            case ReclaimState.PROGRAM_RECLAIMS:
                return self._sample_of_program(real, self.problem)
            case ReclaimState.EMPTYING_BALLOON:
                return self._sample_of_both(real)

    def _sample_of_balloon(self, real: DomainSample) -> DomainSample:
        """Show the real sample, and that no program can help where that is known."""
        if self.problem is None or self.problem.reason is not AgentReason.GUEST_UNSUPPORTED:
            return real
        if real.balloon:  # its driver may still start, so the memory worker is the one to judge
            return replace(real, program_fault=self.problem.message)
        return replace(real, problem=self.problem)

    def _sample_of_both(self, real: DomainSample) -> DomainSample:
        """Show the balloon while it gives memory back, and take off what the program has locked at the same time."""
        locked = 0 if self.status is None else self.status.within(real.statistics.actual).locked
        statistics = real.statistics._replace(actual=real.statistics.actual - locked)
        return replace(real, statistics=statistics, problem=CHANGING)

    def _sample_of_program(self, real: DomainSample, problem: Problem | None) -> DomainSample:
        """Show the program in the balloon's place."""
        sample = replace(
            real,
            resident=None if real.resident is None else max(0, real.resident - self._merged),
            balloon=True,
            free_delay=self._timing.merge_time if self.freed_by is FreedBy.KSM else 0.0,
            problem=problem,
            unanswered=self._unanswered(real.size),
        )
        self._sampled_number = self._number
        if self.status is None:
            return replace(sample, statistics=GuestStatistics(actual=real.size, updated=0.0))
        status = self.status.within(real.size)
        left = real.size - status.locked
        statistics = GuestStatistics(
            actual=left, updated=self._status_dated, usable=status.available, actual_at_report=left
        )
        claims = (self.status.locked, self.status.available, self.status.spare)
        return replace(sample, statistics=statistics, spare=status.spare, claimed=max(real.claimed, *claims))

    def _unanswered(self, size: int) -> int | None:
        """Find the request to which the program has not answered; None if it has, or has had long enough."""
        if self.requested is None or self.status is None:
            return None
        late = self._clock() - self._requested_at > self._timing.gone_after
        answered = self.status.requested == self.requested and self._number != self._sampled_number
        return None if late or answered else size - self.requested

    def _interval(self) -> float:
        """Decide the seconds between two polls; infinite where nothing could come of them."""
        if self.status is None:
            return self._timing.probe_interval if self._is_worth_asking() else math.inf
        if self.state is ReclaimState.BALLOON_RECLAIMS:
            return math.inf
        return self._timing.moving_poll if self.moving else self._timing.poll

    def _is_worth_asking(self) -> bool:
        """Whether a guest in which no program reports is to be asked: its first answer taints the VM's domain."""
        if self.suspected or (self.governed and self.method is ReclaimMethod.GUEST_AGENT):
            return True
        driver_may_come = self._has_balloon and self._clock() - self._started_at < self._timing.driver_grace
        if self._balloon.works is not False or driver_may_come:
            return False
        return (self.governed or self.past_unknown) and may_need_program(self.method, self._balloon)

    def _size_to_lock(self) -> int | None:
        """Decide what the program is to lock, bytes; None while that is not known, and what it has locked stays."""
        match self.state:
            case ReclaimState.PROGRAM_RECLAIMS:
                return self.requested
            case ReclaimState.EMPTYING_BALLOON:
                return None
            case ReclaimState.BALLOON_RECLAIMS | ReclaimState.EMPTYING_PROGRAM:
                return None if self._balloon.works is None else 0

    def _take_status(self, text: bytes | None) -> None:
        """Take over what was read of the status file; None if there is none."""
        now, status = self._clock(), None if text is None else parse_status(text)
        if status is None:
            # A status of an unknown form may be one of a program that has memory locked.
            self.status, self.suspected, self.past_unknown = None, text is not None, False
        elif status.number != self._number:
            self.status, self._number, self._status_at = status, status.number, now
            self._status_dated = self._wall_clock()
            self.problem, self.suspected, self.past_unknown = None, False, False
        elif now - self._status_at > self._timing.gone_after:
            # The program has ended, and its memory is free; or it was only stopped, and it is not.
            self.status, self.suspected = None, status.locked > 0

    def _take_failure(self, problem: Problem) -> None:
        """Note that the guest could not be asked; what the program has locked it keeps meanwhile."""
        self.problem = problem
        locks = self.status is not None and self.status.locked > 0
        if self._clock() - self._status_at > self._timing.gone_after and not locks:
            self.status = None

    async def _read(self) -> bytes | None:
        """Read the program's status: its file, or what it prints where the guest agent refuses files; None if neither.

        Raises:
            HypervisorError: the VM or its guest agent cannot be reached, or did not answer in time.
        """
        try:
            if not self._files_refused:
                return await self._guest_agent.read_file(f"{DIRECTORY}/status")
        except GuestAgentError as error:
            if error.reason is not AgentReason.GUEST_AGENT_REFUSED:
                raise
            self._files_refused = True
        try:
            exit_status, output = await self._run("--status")
        except GuestAgentError as error:
            if error.reason is not AgentReason.GUEST_AGENT_REFUSED:
                raise
            return None
        return output if exit_status == 0 else None

    async def _write(self, size: int) -> None:
        if self._files_refused:
            await self._run("--ask", str(size))
            return
        await self._guest_agent.write_file(f"{DIRECTORY}/request", json.dumps({"lock": size}).encode())

    async def _run(self, *arguments: str) -> tuple[int, bytes]:
        """Run the program with ``arguments`` in the guest; return its exit status and what it prints."""
        return await self._guest_agent.run(PYTHON, PROGRAM, *arguments)

    async def _diagnose(self) -> Problem:
        """Find out why no program says anything."""
        system = await self._guest_agent.system()
        if system == "mswindows":
            return Problem(AgentReason.GUEST_UNSUPPORTED, "its guest is Windows, for which there is no guest program")
        try:
            exit_status, _ = await self._guest_agent.run(PYTHON, "--version")
        except GuestAgentError as error:
            if error.reason is not AgentReason.GUEST_AGENT_REFUSED or "No such file" not in str(error):
                raise
            exit_status = -1
        if exit_status != 0:
            return Problem(AgentReason.GUEST_UNSUPPORTED, "its guest has no Python, which the guest program needs")
        return Problem.of(AgentReason.GUEST_PROGRAM_ABSENT)


class ProgramHypervisor:
    """A ProgramHypervisor connects to one VM, with the guest program in the balloon's place if it is in charge."""

    def __init__(self, hypervisor: Hypervisor, guest_program: GuestProgram) -> None:
        """Connect through ``hypervisor``; ``guest_program`` reclaims while it is in charge."""
        self._hypervisor = hypervisor
        self._guest_program = guest_program

    async def connect_memory(self, launcher: Launcher, domain: str) -> MemoryControl:
        """Connect to the VM ``domain`` at the daemon of ``launcher``, for its memory.

        Raises:
            HypervisorError: the daemon cannot be reached, did not answer in time, or knows no such VM.
        """
        control = OnlineMemoryControl(await self._hypervisor.connect_memory(launcher, domain), domain)
        return ProgramMemoryControl(control, self._guest_program)

    async def connect_guest(self, launcher: Launcher, domain: str) -> GuestControl:
        """Connect to the VM ``domain`` at the daemon of ``launcher``, for its guest agent and processors.

        Raises:
            HypervisorError: the daemon cannot be reached, did not answer in time, or knows no such VM.
        """
        return await self._hypervisor.connect_guest(launcher, domain)

    def forget(self, pod: str) -> None:
        """Give up everything that is kept for a pod that is gone, by its uid."""
        self._hypervisor.forget(pod)


class ProgramMemoryControl:
    """A ProgramMemoryControl is a connection to a VM, with the program in the balloon's place if it is in charge."""

    def __init__(self, control: MemoryControl, guest_program: GuestProgram) -> None:
        """Pass calls on to the real connection, ``control``, or to ``guest_program`` while it is in charge."""
        self._control = control
        self._guest_program = guest_program
        self._size = 0  # of the guest, by the last sample

    async def sample(self) -> DomainSample:
        """Read the VM's memory and state; have the balloon give everything back where the program is to take over.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        sample = self._guest_program.sample(await self._control.sample())
        self._size = sample.size
        if self._guest_program.state is ReclaimState.EMPTYING_BALLOON and not self._guest_program.hold:
            await self._control.set_memory(sample.size)
        return sample

    async def set_memory(self, size: int) -> None:
        """Ask for ``size`` bytes to be left to the guest; nothing is asked while balloon and program change places.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        match self._guest_program.state:
            case ReclaimState.BALLOON_RECLAIMS:
                await self._control.set_memory(size)
            case ReclaimState.PROGRAM_RECLAIMS:
                self._guest_program.request(max(0, self._size - size))

    async def set_statistics_period(self, seconds: int) -> None:
        """Have the guest report its statistics every ``seconds`` seconds.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        await self._control.set_statistics_period(seconds)

    def close(self) -> None:
        """Close the connection, without waiting for that."""
        self._control.close()
