"""A model of a guest: what it works with, its page cache, its swap device, its balloon driver and its statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.core.memory.demand import GuestStatistics
from kubeballoon.core.units import GIB, MIB
from kubeballoon.governance.loaded_policy import LoadedMemoryPolicy

EPOCH = 1_000_000
"""The wall clock when a loop begins, seconds: guests date their reports by it, and 0 means that none was made."""

OVERHEAD = 96 * MIB
"""Bytes of QEMU's own memory."""

KERNEL = 40 * MIB
"""Bytes that a guest's kernel keeps for itself: they are part of what it works with, and not of its MemTotal."""

SWAP_RATE = 64 * MIB
"""Bytes a second that a guest's swap device reads, or writes while its guest thrashes."""

SWAP_OUT_RATE = 1 * GIB
"""Bytes a second that a guest writes to swap while its balloon grows: these writes are large and nobody waits."""

TOUCH_SECONDS = 10.0
"""Seconds in which a guest touches all that it works with."""

_PAGE_CLUSTER = 32 << 10  # bytes that one major fault brings in: Linux reads eight pages from swap at a time

Amount = Callable[[float], float]
"""Bytes, as a function of the seconds since the loop began."""


def constant(amount: float) -> Amount:
    """Return an amount that stays the same."""
    return lambda _: amount


def ramp(before: float, after: float, start: float, rate: float) -> Amount:
    """Return an amount that rises from ``before`` to ``after`` bytes, by ``rate`` bytes a second from ``start`` on."""
    return lambda now: min(after, before + max(0.0, now - start) * rate)


@dataclass
class ModelGuest:
    """A ModelGuest is a guest and its VM; amounts are bytes, rates are bytes a second, times are seconds.

    It also stands for the connection to the VM (``MemoryControl``), which the agent's memory worker samples.

    What the guest works with is anonymous memory: it needs room, or swap. A guest that lacks room swaps out what is
    cold first. What it swaps out of the rest it reads back within ``TOUCH_SECONDS``, and swaps out something else: it
    thrashes. A guest without swap gives its balloon no memory that it works with. If it comes to work with more than
    it has, that stays unmet, and it refaults its programs' pages.

    Memory that a guest has touched stays with its VM's process until the balloon takes it.

    Attributes:
        name: the VM's name and uid.
        size: the memory that the VM was given.
        policy: governs the VM; None if none does.
        working_set: what the guest works with.
        cold: the part of it that the guest does not touch.
        cache: the page cache that the guest would fill if it had room.
        fill_rate: how fast it fills.
        swap: the size of the guest's swap space.
        starts_at: when the VM starts.
        boot_seconds: how long the guest takes until its driver works.
        touch_rate: how fast the guest touches all of its memory once it starts, as Windows does.
        inflation: how fast the driver takes memory; 0 for one that does nothing.
        deflation: how fast the driver gives memory back.
        reports_until: when the guest's statistics stop.
        file_faults: major faults a second on pages of files.
        paging_reads: bytes a second that reads of files add to the counter of swap-ins, as Windows' driver counts them.
        actual: what the balloon leaves the guest; its size at first.
        namespace: the VM's namespace.
    """

    name: str
    size: int
    policy: LoadedMemoryPolicy | None
    working_set: Amount
    cold: float = 0.0
    cache: Amount = field(default_factory=lambda: constant(0.0))
    fill_rate: float = math.inf
    swap: int = 0
    starts_at: float = 0.0
    boot_seconds: float = 0.0
    touch_rate: float = 0.0
    inflation: float = 1 * GIB
    deflation: float = 2 * GIB
    reports_until: float = math.inf
    file_faults: float = 0.0
    paging_reads: float = 0.0
    actual: float = -1.0
    namespace: str = "default"

    requests: list[tuple[float, int]] = field(default_factory=list)
    """What was requested of the driver, and when."""
    resident: float = 0.0
    """What the guest has touched, and its balloon has not taken."""
    cached: float = 0.0
    """The page cache that it has."""
    swapped: float = 0.0
    """What it has in swap of what it works with."""
    unmet: float = 0.0
    """What it worked with and had not in memory, cold memory aside, since the loop began, byte-seconds."""
    lowest_actual: float = math.inf
    """The least that the balloon ever left it."""
    now: float = 0.0
    """The time of this state."""

    _request: float | None = None
    _period: float = 10.0  # what KubeVirt sets, and agents by default
    _reported_at: float = -math.inf
    _statistics: GuestStatistics | None = None
    _swap_in: float = 0.0
    _swap_out: float = 0.0
    _faults: float = 0.0

    def __post_init__(self) -> None:
        """Start with all of the memory, unless another amount is given."""
        if self.actual < 0:
            self.actual = float(self.size)
        self.lowest_actual = self.actual
        self.now = self.starts_at

    @property
    def lacks(self) -> float:
        """What the guest touches and does not have in memory now, bytes."""
        return max(0.0, self.swapped - self.cold) + self._missing

    @property
    def _booted(self) -> bool:
        return self.now >= self.starts_at + self.boot_seconds

    @property
    def _missing(self) -> float:
        """What the guest works with, and has neither in memory nor in swap."""
        return max(0.0, self.working_set(self.now) - self.swapped - self.actual)

    @property
    def in_memory(self) -> float:
        """What the guest works with and has in memory, bytes."""
        return min(self.actual, self.working_set(self.now) - self.swapped)

    @property
    def usable(self) -> float:
        """What the guest could use without swapping (MemAvailable), bytes."""
        return max(0.0, self.actual - self.in_memory)

    def advance(self, now: float) -> None:
        """Let time pass until ``now``, seconds."""
        seconds, self.now = now - self.now, now
        if seconds <= 0:
            return
        self._move_balloon(seconds)
        self._page(seconds)
        self.cached = min(self.cache(now), self.usable, self.cached + self.fill_rate * seconds)
        touched = max(self.in_memory + self.cached, self.touch_rate * (now - self.starts_at))
        self.resident = min(self.actual, max(self.resident, touched))
        self.unmet += self.lacks * seconds
        self._faults += self.file_faults * seconds
        self._swap_in += self.paging_reads * seconds
        self.lowest_actual = min(self.lowest_actual, self.actual)
        if self._booted and now >= self._reported_at + self._period and now <= self.reports_until:
            self._report()

    def _move_balloon(self, seconds: float) -> None:
        """Let the driver follow its last request, as far as the guest can give memory."""
        if self._request is None or not self._booted:
            return
        if self._request >= self.actual:
            self.actual = min(self._request, self.actual + self.deflation * seconds)
            return
        room = max(0.0, self.swap - self.swapped)
        can_give = self.usable + min(room, SWAP_OUT_RATE * seconds)
        self.actual -= min(self.actual - self._request, self.inflation * seconds, can_give)

    def _page(self, seconds: float) -> None:
        """Swap out what has no room, read back what has, and count what the guest's kernel would count."""
        working_set = self.working_set(self.now)
        self.swapped = min(self.swapped, working_set)  # what the guest frees is never read back
        over = max(0.0, working_set - self.actual)
        out = min(max(0.0, over - self.swapped), self.swap - self.swapped)
        back = 0.0
        if self.swapped > over:  # what is touched comes back to stay; what is cold stays where it is
            touched = max(0.0, self.swapped - self.cold) * -math.expm1(-seconds / TOUCH_SECONDS)
            back = min(self.swapped - over, touched, SWAP_RATE * seconds)
        self.swapped += out - back
        hot = max(0.0, min(self.swapped, over) - self.cold)
        thrashed = min(SWAP_RATE, hot / TOUCH_SECONDS) * seconds
        self._swap_out += out + thrashed
        self._swap_in += back + thrashed
        refaulted = min(SWAP_RATE, self._missing / TOUCH_SECONDS) * seconds
        self._faults += (back + thrashed + refaulted) / _PAGE_CLUSTER

    def _report(self) -> None:
        """Make the driver's report of now."""
        self._reported_at = self.now
        self._statistics = GuestStatistics(
            actual=int(self.actual),
            updated=float(EPOCH + math.floor(self.now)),
            usable=int(self.usable),
            unused=int(self.usable - self.cached),
            available=int(self.actual) - KERNEL,
            disk_caches=int(self.cached),
            swap_in=int(self._swap_in),
            swap_out=int(self._swap_out),
            major_faults=int(self._faults),
        )

    async def sample(self) -> DomainSample:
        """Read the VM as the agent does: the balloon as it is now, and the driver's last report."""
        statistics = self._statistics or GuestStatistics(int(self.actual), updated=0.0)
        return DomainSample(
            size=self.size,
            resident=int(self.resident) + OVERHEAD,
            running=True,
            balloon=True,
            statistics=statistics._replace(actual=int(self.actual)),
        )

    async def set_memory(self, size: int) -> None:
        """Request of the driver to leave the guest ``size`` bytes."""
        self.requests.append((self.now, size))
        self._request = float(size)

    async def set_statistics_period(self, seconds: int) -> None:
        """Have the driver report every ``seconds`` seconds."""
        self._period = seconds

    def close(self) -> None:
        """Do nothing: no connection is open."""
