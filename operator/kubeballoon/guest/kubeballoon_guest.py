#!/usr/bin/env python3
"""This program locks memory of its guest when the node asks for it, so that the node can use it for other VMs.

This program takes the place of a balloon driver where there is none. Through the QEMU guest agent, the node's agent
writes into a file how much memory is to be locked. This program locks that much, as far as the guest can spare it, and
fills it with zeros. It frees memory at once when the guest runs short, and writes into another file how much it has
locked.

usage: kubeballoon_guest.py            run, as root
       kubeballoon_guest.py --ask N    ask the program that runs to lock N bytes
       kubeballoon_guest.py --status   print the status of the program that runs
       kubeballoon_guest.py --version

It needs Linux 3.14 or newer and Python 3.6 or newer, and nothing else: hence the old style of its code.
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
CHUNK = MIB  # bytes that are locked or freed at a time: each is one mapping
FIRST_STEP = 16 * MIB  # bytes locked between two looks at the guest, at first; each step is twice the one before
LARGEST_STEP = 512 * MIB  # bytes
KEPT_PART = 16  # this part of the guest's memory stays available to it
KEPT_AT_LEAST = 32 * MIB  # bytes that stay available to the smallest guest
POLL_SECONDS = 0.5  # between looks when there is nothing to do
STEP_SECONDS = 0.05  # between steps
SHORT_STALL = 0.2  # a guest is short if its tasks waited for memory for this part of the time since the last look
PAUSE_SECONDS = 10.0  # in which nothing is locked after the guest ran short

# From linux/mman.h, of which Python names few. Locked pages are filled with zeros at once, and never swapped out.
MAP_PRIVATE = 0x02
MAP_ANONYMOUS = 0x20
MAP_LOCKED = 0x2000


class Guest:
    """A Guest reads from the kernel how much memory the guest has."""

    def __init__(self, proc: str = "/proc") -> None:
        """Read the kernel's files below ``proc``."""
        self._proc = proc

    def available(self) -> int:
        """Read how much memory could be had without swapping, in bytes."""
        return self._meminfo("MemAvailable")

    def total(self) -> int:
        """Read how much memory the guest has, in bytes."""
        return self._meminfo("MemTotal")

    def stalled(self) -> float:
        """Read how long some task waited for memory since the guest booted, in seconds; 0 if that is not measured."""
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


class LockedMemory:
    """LockedMemory is memory that nothing else in the guest can use; it is all zeros, so that the node can merge it."""

    def __init__(self) -> None:
        """Start without any locked memory; it is locked as the node requests it."""
        self._chunks: List[mmap.mmap] = []

    @property
    def size(self) -> int:
        """How much is locked, in bytes."""
        return len(self._chunks) * CHUNK

    def grow(self, size: int) -> None:
        """Lock ``size`` bytes more, in whole chunks.

        Raises:
            OSError: the kernel gives no more.
        """
        for _ in range(size // CHUNK):
            self._chunks.append(mmap.mmap(-1, CHUNK, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED))

    def shrink(self, size: int) -> None:
        """Free at least ``size`` bytes, or all where less is locked."""
        for _ in range(min(len(self._chunks), -(-size // CHUNK))):
            self._chunks.pop().close()


class Locker:
    """A Locker follows requests for locked memory, in steps as large as the guest bears.

    Attributes:
        short: whether the guest has run short of memory in the last seconds.
        spare: how many bytes more could be locked.
    """

    def __init__(self, guest: Guest, locked: LockedMemory) -> None:
        """Lock memory of ``guest`` as chunks of ``locked``."""
        self._guest = guest
        self._locked = locked
        self._step = FIRST_STEP
        self._stalled = guest.stalled()
        self._polled_at = time.monotonic()
        self._short_at: Optional[float] = None
        self.short = False
        self.spare = 0

    def step(self, requested: int) -> bool:
        """Take one step toward ``requested`` bytes; return whether another should follow soon."""
        now = time.monotonic()
        stalls = self._stalls(now)
        available, kept = self._guest.available(), max(KEPT_AT_LEAST, self._guest.total() // KEPT_PART)
        if stalls or available < kept // 2:
            self._short_at, self._step = now, FIRST_STEP
            self._locked.shrink(max(kept - available, self._locked.size // 4))
        self.short = self._short_at is not None and now - self._short_at < PAUSE_SECONDS
        self.spare = 0 if self.short else max(0, available - kept)
        missing = requested - self._locked.size
        if missing < 0:
            self._locked.shrink(-missing)
            return False
        return self._grow(min(missing, self._step, self.spare), now)

    def _grow(self, step: int, now: float) -> bool:
        """Lock about ``step`` bytes more; return whether the kernel gave them."""
        if step < CHUNK:
            return False
        before = self._locked.size
        try:
            self._locked.grow(step)
        except OSError:
            self._short_at, self.spare = now, 0
            return False
        self.spare -= self._locked.size - before
        self._step = min(LARGEST_STEP, 2 * self._step)
        return True

    def _stalls(self, now: float) -> bool:
        """Whether the guest's tasks have waited for memory since the last look."""
        stalled, before, elapsed = self._guest.stalled(), self._stalled, now - self._polled_at
        self._stalled, self._polled_at = stalled, now
        return elapsed > 0 and (stalled - before) / elapsed > SHORT_STALL


def read_request(path: str) -> Optional[int]:
    """Read how many bytes are to be locked; None if there is no request, or it is only written in part so far."""
    try:
        with open(path) as file:
            return max(0, int(json.load(file)["lock"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def replace(path: str, content: Dict[str, Any]) -> None:
    """Write a file so that whoever reads it sees either the old contents or the new."""
    draft = path + ".new"
    with open(draft, "w") as file:
        json.dump(content, file)
    os.replace(draft, path)


def run(directory: str) -> None:
    """Follow requests until the process is ended.

    The status says how much is ``requested`` and ``locked``, how much more is ``available`` to the guest, and how much
    more could be locked (``spare``), all in bytes. Its ``number`` grows with each look at the guest.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # out of memory, the kernel kills this first: all that is locked is free then
    guest, locked = Guest(), LockedMemory()
    locker = Locker(guest, locked)
    requested = number = 0
    while True:
        request = read_request(os.path.join(directory, REQUEST))
        if request is not None:
            requested = request
        moving = locker.step(requested)
        number += 1
        status = {
            "requested": requested,
            "locked": locked.size,
            "available": guest.available(),
            "spare": locker.spare,
            "number": number,
        }
        replace(os.path.join(directory, STATUS), status)
        time.sleep(STEP_SECONDS if moving else POLL_SECONDS)


def main() -> int:
    """Run, or talk to the program that runs; return the exit status."""
    parser = argparse.ArgumentParser(description="Locks memory of this guest when its node asks for it.")
    parser.add_argument("--directory", default=DIRECTORY, help="where the request and the status are (%(default)s)")
    parser.add_argument("--ask", type=int, metavar="BYTES", help="ask the program that runs to lock this much")
    parser.add_argument("--status", action="store_true", help="print the status of the program that runs")
    parser.add_argument("--version", action="version", version="kubeballoon-guest " + str(VERSION))
    options = parser.parse_args()
    try:
        if options.ask is not None:
            replace(os.path.join(options.directory, REQUEST), {"lock": options.ask})
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
