"""The machine's merging of pages that are alike, switched on for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import LabError

_KSM = Path("/sys/kernel/mm/ksm")
_EAGER = {"pages_to_scan": "20000", "sleep_millisecs": "20", "run": "1"}
_UNMERGE = "2"


@contextmanager
def merging() -> Iterator[None]:
    """KSM runs meanwhile, and quickly; then all is as it was before.

    Raises:
        LabError: This kernel has none, or nobody may switch it.
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
