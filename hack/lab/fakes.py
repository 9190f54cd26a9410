"""A hypervisor that is none: guests of numbers, that do as they are told. For tests and benchmarks without guests."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from kubeballoon.agent.hypervisor import Domain, HungError, HypervisorError, Sample
from kubeballoon.agent.launchers import Launcher
from kubeballoon.agent.libvirt import CallThread
from kubeballoon.core.demand import GuestStatistics

from .spec import MIB

KERNEL = 40 * MIB


@dataclass
class FakeDomain:
    """A guest that follows at once, unless told otherwise.

    Attributes:
        used: what the guest works with, its kernel included.
        follows: whether its driver does what it is asked.
        reports: whether its driver reports.
        hangs: calls never return, and so miss their deadline.
        requests: everything that was asked, in order.
        thread: makes each call there, as libvirt's are made; without one they are made at once.
    """

    size: int = 1024 * MIB
    used: int = 200 * MIB
    actual: int = 1024 * MIB
    follows: bool = True
    reports: bool = True
    running: bool = True
    balloon: bool = True
    hangs: bool = False
    gone: HypervisorError | None = None
    requests: list[int] = field(default_factory=list)
    period: int = 0
    thread: CallThread | None = None

    async def sample(self) -> Sample:
        """Look at the numbers."""
        await self._answer()
        statistics = GuestStatistics(
            actual=self.actual,
            updated=time.time() if self.reports else 0.0,
            available=self.actual - KERNEL if self.reports else None,
            usable=max(0, self.actual - self.used) if self.reports else None,
        )
        return Sample(self.size, self.actual, self.running, self.balloon, statistics)

    async def set_memory(self, size: int) -> None:
        """Do as asked, if the test lets it."""
        await self._answer()
        self.requests.append(size)
        if self.follows:
            self.actual = size

    async def set_statistics_period(self, seconds: int) -> None:
        """Remember the period."""
        await self._answer()
        self.period = seconds

    def close(self) -> None:
        """Nothing is open."""

    async def _answer(self) -> None:
        if self.thread is not None:
            await self.thread.call(5.0, time.time)
        if self.gone is not None:
            raise self.gone
        if self.hangs:
            await asyncio.sleep(0.5)
            raise HungError("the fake hangs")


@dataclass
class FakeHypervisor:
    """Connects to the fakes it is given, by the name of their domain."""

    domains: dict[str, FakeDomain]
    connected: int = 0
    forgotten: list[str] = field(default_factory=list)

    async def connect(self, launcher: Launcher, domain: str) -> Domain:  # noqa: ARG002 - any launcher will do
        """Find the fake."""
        self.connected += 1
        return self.domains[domain]

    def forget(self, pod: str) -> None:
        """Remember what was forgotten."""
        self.forgotten.append(pod)
