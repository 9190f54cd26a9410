"""Reserves memory through the program in the guest, for guests whose balloon driver is absent or not to be used.

The memory path stays the worker's: it looks at a ``Domain`` and asks it for less memory. Here that domain is the real
one, with the program in the place of the balloon. Nothing of it waits for the guest: what the program says was read
before, and what is asked of it is written later, both by the VM's guest_worker.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kubeballoon.agent.hypervisor.guest_agent import GuestAgent
from kubeballoon.agent.hypervisor.interface import (
    AgentError,
    DomainSample,
    GuestControl,
    Hypervisor,
    HypervisorError,
    MemoryControl,
    VMProcess,
)
from kubeballoon.agent.hypervisor.launchers import Launcher
from kubeballoon.agent.hypervisor.qemu_process import ksm_runs
from kubeballoon.agent.problem import Problem
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import FreedBy
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.memory.pacing import TOLERANCE
from kubeballoon.vocabulary import ReclaimMethod

DIRECTORY = "/run/kubeballoon"
PROGRAM = "/usr/local/lib/kubeballoon/kubeballoon_guest.py"
PYTHON = "/usr/bin/python3"
LOOK = 1.0  # seconds between looks at the program; it looks at its guest twice as often
STEP = 0.25  # seconds between looks while it reserves
FORGOTTEN = 10.0  # seconds without a sign of life after which the program counts as gone
PROBE = 15.0  # seconds between looks for a program in a guest that had none
MERGING = 300.0  # seconds KSM may take, at its default pace some hundred MiB each

CHANGING = Problem(AgentReason.METHOD_CHANGING, AgentReason.METHOD_CHANGING.meaning)
"""The problem of a VM of which nothing can be asked meanwhile."""

_REFUSED = AgentReason.GUEST_AGENT_REFUSED


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """What the program says; bytes.

    Attributes:
        number: grows with every look at its guest.
        held: what it has reserved.
        available: what the guest could use beyond that.
        spare: what it could still reserve.
    """

    number: int
    asked: int
    held: int
    available: int
    spare: int

    def within(self, size: int) -> ProgramStatus:
        """As far as it can be true of a guest of ``size`` bytes."""
        return replace(
            self, held=min(self.held, size), available=min(self.available, size), spare=min(self.spare, size)
        )


def parse(text: bytes) -> ProgramStatus | None:
    """What a status file says; None where it is not one: the guest can write anything there."""
    try:
        status = json.loads(text)
        said = [status[key] for key in ("number", "asked", "held", "available")]
        said.append(status.get("spare", status["available"]))  # a program of before does not tell
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return ProgramStatus(*said) if all(type(figure) is int and figure >= 0 for figure in said) else None


class GuestProgram:
    """The program in one guest, as far as is known here.

    Attributes:
        method: how memory is to be reserved in this guest.
        wanted: how much is to be reserved, bytes; None while nobody has asked.
        held: what the program says, None while it says nothing.
        problem: why it cannot be used.
        hold: whether the VM must be left as it is.
    """

    def __init__(
        self,
        agent: GuestAgent,
        qemu: VMProcess,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.time,
        merges: Callable[[], bool] = ksm_runs,
    ) -> None:
        """Reach the guest through ``agent``; ``changed`` is called when there is something to write.

        ``clock`` is the wall's, in seconds; ``merges`` tells whether KSM runs.
        """
        self.method = ReclaimMethod.AUTO
        self.wanted: int | None = None
        self.held: ProgramStatus | None = None
        self.problem: Problem | None = None
        self.hold = False
        self._agent = agent
        self._qemu = qemu
        self._changed = changed
        self._clock = clock
        self._merges = merges
        self._balloon: bool | None = None  # whether the balloon works; None before that is known
        self._inflated = False  # whether the balloon holds anything back
        self._number: int | None = None  # of the program's last look that is known
        self._seen = 0.0  # when that became known
        self._shown: int | None = None  # of the look that the worker saw last
        self._asked_at = 0.0  # when the program was last asked for something else
        self._unsure = True  # whether a program may hold memory of which nothing is known
        self._merged = 0  # bytes of the VM's process
        self._looked: float | None = None  # when the guest was last asked; None: it is to be asked at once
        self._by_program = False  # whether files are refused, and the program itself is to be run

    @property
    def engaged(self) -> bool:
        """Whether the program takes the place of the balloon.

        It does not before the balloon has given all back, nor the balloon before the program has: a guest gives to one
        of the two at a time, so that together they never take it below what it is guaranteed.
        """
        return not self._inflated if self._chosen else self._holds

    @property
    def changing(self) -> bool:
        """Whether one of the two has yet to give back what the other is to reserve."""
        return self._inflated if self._chosen else self._holds

    @property
    def deflating(self) -> bool:
        """Whether the balloon has."""
        return self._chosen and self._inflated and not self.hold

    @property
    def due(self) -> bool:
        """Whether the guest should be asked now."""
        return self.rest <= 0

    @property
    def rest(self) -> float:
        """Seconds until the guest should be asked; infinite where that is of no use."""
        if self._looked is None:
            return 0.0
        return max(0.0, min(self._interval, self._looked + self._interval - self._clock()))

    @property
    def moving(self) -> bool:
        """Whether the program is on its way to what was asked of it, and not long after that."""
        if not self.engaged or self.held is None or self.wanted is None:
            return False
        return abs(self.wanted - self.held.held) > TOLERANCE and self._clock() - self._asked_at <= FORGOTTEN

    @property
    def freed_by(self) -> FreedBy:
        """How the node gets back what is reserved."""
        if self._merges():
            return FreedBy.KSM
        return FreedBy.NONE  # what the program holds is not free, so free page reporting does not return it

    def ask(self, reserve: int) -> None:
        """Have so many bytes reserved, as soon as the guest's agent can be asked."""
        if reserve != self.wanted:
            self.wanted, self._looked, self._asked_at = reserve, None, self._clock()
            self._changed()

    async def look(self) -> None:
        """Read what the program says, and write what is asked of it."""
        self._looked = self._clock()
        merged = await asyncio.to_thread(self._qemu.merged)
        self._merged = merged or 0
        try:
            text = await self._read()
            self._take(text)
            if self.held is None:
                self.problem = await self._diagnose() if self._needed else None
                return
            reserve = self._request()
            if reserve is not None and self.held.asked != reserve:
                await self._write(reserve)
        except AgentError as error:
            self._miss(Problem(error.reason, str(error)))
        except HypervisorError as error:
            self._miss(Problem(AgentReason.UNREACHABLE, str(error)))
            raise

    def sample(self, real: DomainSample) -> DomainSample:
        """What the worker is to see: the real sample, or the program in the balloon's place."""
        works = real.balloon and real.statistics.updated > 0
        inflated = real.balloon and real.size - real.statistics.actual > TOLERANCE
        if (works, inflated) != (self._balloon, self._inflated):
            self._balloon, self._inflated = works, inflated
            self._changed()
        if not self._chosen:
            self.wanted = None
        if not self.engaged:
            return self._beside(real)
        sample = replace(
            real,
            resident=max(0, real.resident - self._merged),
            balloon=True,
            lag=MERGING if self.freed_by is FreedBy.KSM else 0.0,
            problem=CHANGING if self.changing else self.problem,
            pending=self._pending(real.size),
        )
        self._shown = self._number
        if self.held is None:
            return replace(sample, statistics=GuestStatistics(actual=real.size, updated=0.0))
        said = self.held.within(real.size)
        held = real.size - said.held
        statistics = GuestStatistics(actual=held, updated=self._seen, usable=said.available, held=held)
        return replace(sample, statistics=statistics, spare=said.spare)

    def _pending(self, size: int) -> int | None:
        """What was asked, as long as nothing new was said by a program that knew of it, or had the time to."""
        if self.wanted is None or self.held is None or self._clock() - self._asked_at > FORGOTTEN:
            return None
        answered = self.held.asked == self.wanted and self._number != self._shown
        return None if answered else size - self.wanted

    def _beside(self, real: DomainSample) -> DomainSample:
        """The real sample, less what the program holds all the same."""
        if self.changing:
            held = 0 if self.held is None else self.held.within(real.statistics.actual).held
            left = real.statistics._replace(actual=real.statistics.actual - held)
            return replace(real, statistics=left, problem=CHANGING)
        if self.problem is None or self.problem.reason is not AgentReason.GUEST_UNSUPPORTED:
            return real
        return replace(real, alone=self.problem.message) if real.balloon else replace(real, problem=self.problem)

    @property
    def _chosen(self) -> bool:
        """Whether the program is what is to reserve."""
        if self.method is ReclaimMethod.AUTO:
            return self._balloon is False and self.held is not None
        return self.method is ReclaimMethod.GUEST_AGENT

    @property
    def _holds(self) -> bool:
        return self.held is not None and self.held.held > 0

    @property
    def _interval(self) -> float:
        """Seconds between looks."""
        if self.held is None:
            return PROBE if self._needed or self._unsure else math.inf
        if not (self._chosen or self._holds):
            return math.inf
        return STEP if self.moving else LOOK

    @property
    def _needed(self) -> bool:
        return self.method is ReclaimMethod.GUEST_AGENT or (self.method is ReclaimMethod.AUTO and not self._balloon)

    def _request(self) -> int | None:
        """What is to be reserved, bytes; None while that is not known, and all stays as it is."""
        if self._chosen:
            return self.wanted if self.engaged else None
        return None if self._balloon is None else 0

    def _take(self, text: bytes | None) -> None:
        now, held = self._clock(), None if text is None else parse(text)
        if held is None:
            self.held, self._unsure = None, text is not None
        elif held.number != self._number:
            self.held, self._number, self._seen, self.problem, self._unsure = held, held.number, now, None, False
        elif now - self._seen > FORGOTTEN:  # it has ended, and its memory is free; or it was only stopped
            self.held, self._unsure = None, held.held > 0

    def _miss(self, problem: Problem) -> None:
        """The guest cannot be asked; what the program holds it holds on."""
        self.problem = problem
        if self._clock() - self._seen > FORGOTTEN and not (self.held is not None and self.held.held):
            self.held = None

    async def _read(self) -> bytes | None:
        """The status; None where nothing gives one."""
        try:
            if not self._by_program:
                return await self._agent.read_file(f"{DIRECTORY}/status")
        except AgentError as error:
            if error.reason != _REFUSED:
                raise
            self._by_program = True
        try:
            status, output = await self._run("--status")
        except AgentError as error:
            if error.reason != _REFUSED:
                raise
            return None
        return output if status == 0 else None

    async def _write(self, reserve: int) -> None:
        if self._by_program:
            await self._run("--ask", str(reserve))
            return
        request: dict[str, Any] = {"reserve": reserve, "id": str(reserve)}
        await self._agent.write_file(f"{DIRECTORY}/request", json.dumps(request).encode())

    async def _run(self, *arguments: str) -> tuple[int, bytes]:
        """Have the program do something; its exit status and what it prints."""
        return await self._agent.run(PYTHON, PROGRAM, *arguments)

    async def _diagnose(self) -> Problem:
        """Why no program answers."""
        system = await self._agent.system()
        if system == "mswindows":
            return Problem(
                AgentReason.GUEST_UNSUPPORTED, "its guest is Windows, for which there is no reservation program"
            )
        try:
            status, _ = await self._agent.run(PYTHON, "--version")
        except AgentError as error:
            if error.reason != _REFUSED or "No such file" not in str(error):
                raise
            status = -1
        if status != 0:
            return Problem(
                AgentReason.GUEST_UNSUPPORTED, "its guest has no Python, which the reservation program needs"
            )
        return Problem(AgentReason.GUEST_PROGRAM_ABSENT, "the reservation program does not run in its guest")


class ProgramHypervisor:
    """A hypervisor whose domains reserve by the program where the balloon does not; see ``Hypervisor``."""

    def __init__(self, hypervisor: Hypervisor, guest_program: GuestProgram) -> None:
        """Stand before ``hypervisor``, for one VM."""
        self._hypervisor = hypervisor
        self._reservation = guest_program

    async def connect(self, launcher: Launcher, domain: str) -> MemoryControl:
        """See ``Hypervisor.connect``."""
        return ProgramMemoryControl(await self._hypervisor.connect(launcher, domain), self._reservation)

    async def open(self, launcher: Launcher, domain: str) -> GuestControl:
        """See ``Hypervisor.open``."""
        return await self._hypervisor.open(launcher, domain)

    def forget(self, pod: str) -> None:
        """See ``Hypervisor.forget``."""
        self._hypervisor.forget(pod)


class ProgramMemoryControl:
    """A domain with the program in the place of its balloon, where that is so; see ``Domain``."""

    def __init__(self, domain: MemoryControl, guest_program: GuestProgram) -> None:
        """Stand before ``domain``."""
        self._domain = domain
        self._reservation = guest_program
        self._size = 0

    async def sample(self) -> DomainSample:
        """See ``Domain.sample``."""
        sample = self._reservation.sample(await self._domain.sample())
        self._size = sample.size
        if self._reservation.deflating:
            await self._domain.set_memory(sample.size)
        return sample

    async def set_memory(self, size: int) -> None:
        """See ``Domain.set_memory``."""
        if self._reservation.changing:
            return
        if self._reservation.engaged:
            self._reservation.ask(max(0, self._size - size))
        else:
            await self._domain.set_memory(size)

    async def set_statistics_period(self, seconds: int) -> None:
        """See ``Domain.set_statistics_period``."""
        await self._domain.set_statistics_period(seconds)

    def close(self) -> None:
        """See ``Domain.close``."""
        self._domain.close()
