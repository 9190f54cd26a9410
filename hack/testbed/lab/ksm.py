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
_NEVER = {"run": "0"}
_DEFAULTS = {"pages_to_scan": "100", "sleep_millisecs": "20", "run": "0"}  # the kernel's own
_LOCK = Path("/run/lock/kubeballoon-ksm")
_UNMERGE = "2"  # of /sys/kernel/mm/ksm/run: stop, and split all merged pages


@contextmanager
def merging() -> Iterator[None]:
    """Run KSM, at high speed, inside the context; then restore its settings.

    Raises:
        LabError: This kernel has no KSM, or it cannot be configured.
    """
    with _locked(), _set(_EAGER):
        yield


@contextmanager
def not_merging() -> Iterator[None]:
    """Keep KSM off inside the context, and others of this project from switching it on; then restore its settings.

    Raises:
        LabError: This kernel has no KSM, or it cannot be configured.
    """
    with _locked(), _set(_NEVER):
        yield


@contextmanager
def _locked() -> Iterator[None]:
    try:
        lock = _LOCK.open("w")
    except OSError as error:
        raise LabError(f"KSM cannot be locked: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _set(settings: dict[str, str]) -> Iterator[None]:
    try:
        before = {name: (_KSM / name).read_text().strip() for name in _DEFAULTS}
        if before == _EAGER:  # left behind by a run that was killed: nobody else has the lock
            before = _DEFAULTS
        _write(settings)
    except OSError as error:
        raise LabError(f"KSM cannot be configured: {error}") from error
    try:
        yield
    finally:
        _write(before)


def _write(settings: dict[str, str]) -> None:
    if settings["run"] == "0":
        (_KSM / "run").write_text(_UNMERGE)
    for name, value in settings.items():
        (_KSM / name).write_text(value)
