"""Whether an event loop is held, judged by what it gets done while a process beside it does the same.

usage: python -m hack.testbed.hostile.metronome FILE

Both count to one more each 20 ms. A machine that is busy slows both; a loop that is held counts less than the process.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

INTERVAL = 0.02  # seconds between two counts
_COUNT = struct.Struct("Q")
_LONG = 200  # counts


@dataclass(frozen=True)
class Ticks:
    """Ticks are how far a loop, and the process beside it, have counted.

    Attributes:
        loop: how far the loop has counted.
        beside: how far the process has counted.
        longest_pause: how far the process counted at most between two counts of the loop.
    """

    loop: int = 0
    beside: int = 0
    longest_pause: int = 0

    @property
    def held(self) -> bool:
        """Whether the loop was held for long once, or was held most of the time.

        A loop has more to do than to count, so a busy machine delays it more: where seven processes shared a processor
        it still counted two fifths. 200 counts are four seconds of a machine that is not busy.
        """
        return 5 * self.loop < self.beside or self.longest_pause > _LONG


class Metronome:
    """A Metronome counts in its running event loop, and in a process beside it, while it is entered.

    Attributes:
        ticks: how far both have counted.
    """

    def __init__(self, file: Path) -> None:
        """Let the process write its count into ``file``."""
        self.ticks = Ticks()
        self._file = file
        self._process: subprocess.Popen[bytes] | None = None
        self._counting: asyncio.Task[None] | None = None

    def count_beside(self) -> int:
        """Read how far the process has counted."""
        (count,) = _COUNT.unpack(self._file.read_bytes())
        return int(count)

    def __enter__(self) -> Self:
        """Begin to count in the event loop, and in a process beside it."""
        self._file.write_bytes(_COUNT.pack(0))
        command = [sys.executable, "-m", "hack.testbed.hostile.metronome", str(self._file)]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdin=subprocess.PIPE)
        self._counting = asyncio.create_task(self._count())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End both counts, of the loop and of the process."""
        if self._counting is not None:
            self._counting.cancel()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            before, beside = self.ticks, self.count_beside()
            self.ticks = Ticks(before.loop + 1, beside, max(before.longest_pause, beside - before.beside))


def counted(work: Callable[P, Awaitable[T]], ticks: Path) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a function that does ``work`` and meanwhile writes how far its event loop has counted.

    The file ``ticks`` then has the fields of `Ticks` as JSON; they are written twice a second.
    """

    async def work_and_count(*arguments: P.args, **options: P.kwargs) -> T:
        with Metronome(ticks.with_suffix(".beside")) as metronome:
            working = asyncio.ensure_future(work(*arguments, **options))
            while not working.done():
                await asyncio.wait({working}, timeout=0.5)
                written = ticks.with_suffix(".new")
                written.write_text(json.dumps(asdict(metronome.ticks)))
                written.replace(ticks)
            return await working

    return work_and_count


def main(file: str) -> None:
    """Count into a file until the parent has ended."""
    parent = os.getppid()
    with Path(file).open("r+b") as opened, mmap.mmap(opened.fileno(), _COUNT.size) as memory:
        count = 0
        while os.getppid() == parent:
            time.sleep(INTERVAL)
            count += 1
            memory[:] = _COUNT.pack(count)


if __name__ == "__main__":
    main(sys.argv[1])
