"""What was seen while the demo ran, taken from the guests and the node themselves and not from the report of either."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from hack.demo.stage import NODE_BYTES, Stage
from hack.testbed.lab import LabError

_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Moment:
    """One look; bytes by guest, seconds since the start.

    Attributes:
        actual: what each balloon leaves its guest.
        resident: what each QEMU holds of the node.
        load: what each guest's load holds.
        used: what the node uses, less page cache that it could drop.
    """

    at: float
    actual: dict[str, int]
    resident: dict[str, int]
    load: dict[str, int]
    used: int


@dataclass(slots=True)
class Recorder:
    """Looks twice a second, on a thread of its own, until stopped."""

    stage: Stage
    loads: dict[str, int] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def mark(self, text: str) -> float:
        """Note what happens now, and when that is."""
        self.marks.append((self.now(), text))
        return self.marks[-1][0]

    @property
    def last(self) -> Moment:
        """The latest look; waits for the first."""
        while not self.moments:
            self._stopped.wait(_SECONDS / 5)
        return self.moments[-1]

    def _run(self) -> None:
        while not self._stopped.wait(_SECONDS):
            try:
                self.moments.append(self._look())
            except LabError:
                continue  # a guest that does not answer now is looked at again

    def _look(self) -> Moment:
        actual, resident = {}, {}
        for pod in self.stage.pods:
            stats = pod.libvirt.memory_stats(pod.spec.domain_name)
            actual[pod.spec.name] = stats["actual"] * 1024
            resident[pod.spec.name] = stats["rss"] * 1024
        return Moment(self.now(), actual, resident, dict(self.loads), min(NODE_BYTES, self.stage.node.used_bytes()))
