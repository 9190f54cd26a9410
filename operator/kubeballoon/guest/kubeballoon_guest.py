#!/usr/bin/env python3
"""Reserves memory of this guest when the node asks for it, so that the node can use it for other VMs.

It takes the place of a balloon driver where there is none. The node's agent writes how much is to be reserved into a
file, through the QEMU guest agent; this program holds that much memory, locked and zero-filled, as far as the guest can
spare it, gives it back at once when the guest runs short, and says in another file what it holds.

usage: kubeballoon_guest.py            run, as root
       kubeballoon_guest.py --ask N    ask the one that runs to reserve N bytes
       kubeballoon_guest.py --status   print what it says
       kubeballoon_guest.py --version

It needs Linux 3.14 and Python 3.6, and nothing else: hence the old style of its code.
"""

import argparse
import json
import mmap
import os
import signal
import sys
import time
from typing import Any, Dict, List, Optional

VERSION = 1
DIRECTORY = "/run/kubeballoon"
REQUEST = "request"
STATUS = "status"

MIB = 1 << 20
CHUNK = MIB  # what is reserved and given back at a time
FIRST_STEP = 16 * MIB  # bytes reserved between two looks at the guest, at first
LARGEST_STEP = 512 * MIB
KEPT = 16  # this part of the guest's memory stays available to it
KEPT_AT_LEAST = 32 * MIB
LOOK = 0.5  # seconds between looks when there is nothing to do
STEP = 0.05  # seconds between steps
STALLED = 0.2  # part of the time since the last look in which tasks waited for memory: the guest is short
PAUSE = 10.0  # seconds after running short before more is reserved

# From linux/mman.h: Python names few of them. Locked pages are filled at once, with zeros, and never swapped out.
MAP_PRIVATE = 0x02
MAP_ANONYMOUS = 0x20
MAP_LOCKED = 0x2000


class Guest:
    """What the guest's kernel tells of its memory."""

    def __init__(self, proc: str = "/proc") -> None:
        """Read from ``proc``."""
        self._proc = proc

    def available(self) -> int:
        """Bytes that could be had without swapping."""
        return self._meminfo("MemAvailable")

    def total(self) -> int:
        """All of the guest's memory, bytes."""
        return self._meminfo("MemTotal")

    def stalled(self) -> float:
        """Seconds for which some task has waited for memory since the guest booted; 0 where that is not told."""
        try:
            with open(os.path.join(self._proc, "pressure/memory")) as file:
                return int(file.readline().rpartition("total=")[2]) / 1e6
        except (OSError, ValueError):
            return 0.0

    def _meminfo(self, name: str) -> int:
        with open(os.path.join(self._proc, "meminfo")) as file:
            for line in file:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) * 1024
        raise OSError("/proc/meminfo has no " + name)


class Hoard:
    """Memory that is held: locked, and all zeros, so that the node can merge it to nothing."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._chunks: List[mmap.mmap] = []

    @property
    def held(self) -> int:
        """Bytes held."""
        return len(self._chunks) * CHUNK

    def grow(self, size: int) -> None:
        """Hold so many bytes more, in whole chunks.

        Raises:
            OSError: the kernel gives no more.
        """
        for _ in range(size // CHUNK):
            self._chunks.append(mmap.mmap(-1, CHUNK, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED))

    def shrink(self, size: int) -> None:
        """Give at least so many bytes back, as far as they are held."""
        for _ in range(min(len(self._chunks), -(-size // CHUNK))):
            self._chunks.pop().close()


class Reservation:
    """Follows the request, in steps as large as the guest is seen to bear."""

    def __init__(self, guest: Guest, hoard: Hoard) -> None:
        """Reserve memory of ``guest`` in ``hoard``.

        ``short`` says whether the guest has run short of late, ``spare`` how many bytes more it could give.
        """
        self._guest = guest
        self._hoard = hoard
        self._step = FIRST_STEP
        self._stalled = guest.stalled()
        self._looked = time.monotonic()
        self._short_at: Optional[float] = None
        self.short = False
        self.spare = 0

    def look(self, asked: int) -> bool:
        """Take one step toward what is asked, bytes; whether another should follow soon."""
        now = time.monotonic()
        stalls = self._stalls(now)
        available, kept = self._guest.available(), max(KEPT_AT_LEAST, self._guest.total() // KEPT)
        if stalls or available < kept // 2:
            self._short_at, self._step = now, FIRST_STEP
            self._hoard.shrink(max(kept - available, self._hoard.held // 4))
        self.short = self._short_at is not None and now - self._short_at < PAUSE
        self.spare = 0 if self.short else max(0, available - kept)
        missing = asked - self._hoard.held
        if missing < 0:
            self._hoard.shrink(-missing)
            return False
        return self._grow(min(missing, self._step, self.spare), now)

    def _grow(self, step: int, now: float) -> bool:
        """Hold about ``step`` bytes more; whether that went well."""
        if step < CHUNK:
            return False
        before = self._hoard.held
        try:
            self._hoard.grow(step)
        except OSError:
            self._short_at, self.spare = now, 0
            return False
        self.spare -= self._hoard.held - before
        self._step = min(LARGEST_STEP, 2 * self._step)
        return True

    def _stalls(self, now: float) -> bool:
        """Whether the guest's tasks have waited for memory since the last look."""
        stalled, before, elapsed = self._guest.stalled(), self._stalled, now - self._looked
        self._stalled, self._looked = stalled, now
        return elapsed > 0 and (stalled - before) / elapsed > STALLED


def read_request(path: str) -> Optional[Dict[str, Any]]:
    """The request, or None where there is none, or only part of one so far."""
    try:
        with open(path) as file:
            request = json.load(file)
        return {"reserve": max(0, int(request["reserve"])), "id": str(request["id"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def replace(path: str, content: Dict[str, Any]) -> None:
    """Write a file so that whoever reads it sees the old contents or the new."""
    draft = path + ".new"
    with open(draft, "w") as file:
        json.dump(content, file)
    os.replace(draft, path)


def run(directory: str) -> None:
    """Follow requests for ever."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if the guest must kill, then this first: all that is held is free again
    guest, hoard = Guest(), Hoard()
    reservation = Reservation(guest, hoard)
    request: Dict[str, Any] = {"reserve": 0, "id": ""}
    number = 0
    while True:
        request = read_request(os.path.join(directory, REQUEST)) or request
        moving = reservation.look(request["reserve"])
        number += 1
        status = {
            "version": VERSION,
            "id": request["id"],
            "asked": request["reserve"],
            "held": hoard.held,
            "available": guest.available(),
            "spare": reservation.spare,
            "short": reservation.short,
            "number": number,
        }
        replace(os.path.join(directory, STATUS), status)
        time.sleep(STEP if moving else LOOK)


def main() -> int:
    """Run, or talk to the one that runs."""
    parser = argparse.ArgumentParser(description="Reserves memory of this guest when its node asks for it.")
    parser.add_argument("--directory", default=DIRECTORY, help="where the request and the status are (%(default)s)")
    parser.add_argument("--ask", type=int, metavar="BYTES", help="ask the one that runs to reserve so much")
    parser.add_argument("--id", default="by hand", help="a name for what is asked")
    parser.add_argument("--status", action="store_true", help="print what it says")
    parser.add_argument("--version", action="version", version="kubeballoon-guest " + str(VERSION))
    options = parser.parse_args()
    try:
        if options.ask is not None:
            replace(os.path.join(options.directory, REQUEST), {"reserve": options.ask, "id": options.id})
        elif options.status:
            with open(os.path.join(options.directory, STATUS)) as file:
                sys.stdout.write(file.read())
        else:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            run(options.directory)
    except OSError as error:
        sys.stderr.write("kubeballoon-guest: %s\n" % error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
