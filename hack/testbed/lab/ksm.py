"""merging(): switches KSM on for a while, the kernel's merging of identical pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LabError

_KSM = Path("/sys/kernel/mm/ksm")
# Far above the defaults (100 pages every 20 ms), so that a test waits seconds for merged pages, not minutes.
_EAGER = {"pages_to_scan": "20000", "sleep_millisecs": "20", "run": "1"}
_UNMERGE = "2"  # of /sys/kernel/mm/ksm/run: stop, and split all merged pages


@contextmanager
def merging() -> Iterator[None]:
    """Run KSM, at high speed, inside the context; then restore its settings.

    Raises:
        LabError: This kernel has no KSM, or it cannot be configured.
    """
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
