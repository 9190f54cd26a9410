"""Recorder: measures guests and nodes while the demo runs, independently of kubeballoon's agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.lab import LabError

_PERIOD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of guests and nodes, in bytes, by their names.

    Attributes:
        actual: The memory that each balloon leaves its guest.
        resident: The memory that each guest's QEMU has resident.
        used: The memory in use on each node, without page cache that the kernel can drop.
    """

    actual: dict[str, int]
    resident: dict[str, int]
    used: dict[str, int]


@dataclass(frozen=True, slots=True)
class Measurement:
    """The memory of all guests and of all nodes at one time.

    Attributes:
        at: Seconds since the recorder was made.
        memory: What was measured.
        load: The memory that each guest's load holds, in bytes, by the guest's name.
    """

    at: float
    memory: Memory
    load: dict[str, int]

    @property
    def actual(self) -> dict[str, int]:
        """The memory that each balloon leaves its guest, in bytes."""
        return self.memory.actual

    @property
    def resident(self) -> dict[str, int]:
        """The memory that each guest's QEMU has resident, in bytes."""
        return self.memory.resident

    @property
    def used(self) -> int:
        """The memory in use on all nodes together, in bytes."""
        return sum(self.memory.used.values())


@dataclass(slots=True)
class Recorder:
    """A recorder that measures twice a second on its own thread; a context manager, which starts and stops it.

    Attributes:
        measure: Returns what the guests and nodes have now; a LabError or ControlPlaneError means that a guest did not
            answer, and it is measured again the next time.
        loads: The memory that each guest's load holds; whoever changes a load sets it.
        measurements: All measurements, in order.
        events: What happened in the scene, with the seconds since the recorder was made.
    """

    measure: Callable[[], Memory]
    loads: dict[str, int] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def now(self) -> float:
        """Return the seconds since the recorder was made."""
        return time.monotonic() - self._start

    def add_event(self, text: str) -> None:
        """Record that something happens now."""
        self.events.append((self.now(), text))

    @property
    def last(self) -> Measurement:
        """The latest measurement; waits for the first."""
        while not self.measurements:
            self._stopped.wait(_PERIOD_SECONDS / 5)
        return self.measurements[-1]

    def _run(self) -> None:
        while not self._stopped.wait(_PERIOD_SECONDS):
            try:
                found = self.measure()
            except (LabError, ControlPlaneError):
                continue
            self.measurements.append(Measurement(self.now(), found, dict(self.loads)))
