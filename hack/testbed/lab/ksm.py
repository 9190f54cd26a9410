"""This module switches KSM, the kernel's merging of identical pages, on or keeps it off for a while.

The machine has one KSM. So whoever depends on it holds a lock: without it, one test that ends would switch merging off
under another.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LabError

_KSM = Path("/sys/kernel/mm/ksm")
# Far above the defaults (100 pages every 20 ms), so that a test waits seconds for merged pages, not minutes.
_EAGER = {"pages_to_scan": "20000", "sleep_millisecs": "20", "run": "1"}
_LOCK = Path("/run/lock/kubeballoon-ksm")
_UNMERGE = "2"  # of /sys/kernel/mm/ksm/run: stop, and split all merged pages


@contextmanager
def alone_with_ksm() -> Iterator[None]:
    """Keep others of this project from switching KSM inside the context, after they are done with it.

    Raises:
        LabError: The lock cannot be taken: only root may switch KSM.
    """
    try:
        lock = _LOCK.open("w")
    except OSError as error:
        raise LabError(f"KSM cannot be locked: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def merging() -> Iterator[None]:
    """Run KSM, at high speed, inside the context; then restore its settings.

    Raises:
        LabError: This kernel has no KSM, or it cannot be configured.
    """
    with alone_with_ksm(), _switched_on():
        yield


@contextmanager
def _switched_on() -> Iterator[None]:
    try:
        before = {name: (_KSM / name).read_text().strip() for name in _EAGER}
        for name, value in _EAGER.items():
            (_KSM / name).write_text(value)
    except OSError as error:
        raise LabError(f"KSM cannot be switched on: {error}") from error
    try:
        yield
    finally:
        if before["run"] == "0":
            (_KSM / "run").write_text(_UNMERGE)
        for name, value in before.items():
            (_KSM / name).write_text(value)
