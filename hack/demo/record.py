"""Recorder: measures guests and node while the demo runs, by the lab itself, independently of kubeballoon's agent."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from hack.demo.stage import NODE_BYTES, Stage
from hack.testbed.lab import LabError

_PERIOD_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Measurement:
    """The memory of all guests and of the node at one time; in bytes, and of guests by their name.

    Attributes:
        at: Seconds since the recorder was made.
        actual: The memory that each balloon leaves its guest.
        resident: The memory that each guest's QEMU has resident.
        load: The memory that each guest's load holds.
        used: The memory in use on the node, without page cache that the kernel can drop.
    """

    at: float
    actual: dict[str, int]
    resident: dict[str, int]
    load: dict[str, int]
    used: int


@dataclass(slots=True)
class Recorder:
    """A recorder that measures twice a second on its own thread; a context manager, which starts and stops it.

    Attributes:
        loads: The memory that each guest's load holds; whoever changes a load sets it.
        measurements: All measurements, in order.
        events: What happened in the scene, with the seconds since the recorder was made.
    """

    stage: Stage
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
                self.measurements.append(self._measure())
            except LabError:
                continue  # a guest did not answer: it is measured again the next time

    def _measure(self) -> Measurement:
        actual, resident = {}, {}
        for pod in self.stage.pods:
            stats = pod.libvirt.memory_stats(pod.spec.domain_name)
            actual[pod.spec.name] = stats["actual"] * 1024
            resident[pod.spec.name] = stats["rss"] * 1024
        used = min(NODE_BYTES, self.stage.node.used_bytes())
        return Measurement(self.now(), actual, resident, dict(self.loads), used)
