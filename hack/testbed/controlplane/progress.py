"""Progress: shows how far a long build is."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

_QUIET_SECONDS = 15.0


def _standard_error() -> TextIO:
    return sys.stderr  # not a default argument: test runners replace sys.stderr while they run


@dataclass(slots=True)
class Progress:
    """A progress display: one line that is rewritten on a terminal, a new line every 15 s elsewhere."""

    label: str
    stream: TextIO = field(default_factory=_standard_error)
    _shown_at: float = field(default=float("-inf"), init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._write("failed" if error else "done", "\n")

    def show(self, text: str) -> None:
        """Show the present state; elsewhere than on a terminal, only if 15 s have passed since the last."""
        if self.stream.isatty():
            self._write(text)
        elif time.monotonic() - self._shown_at >= _QUIET_SECONDS:
            self._shown_at = time.monotonic()
            self._write(text, "\n")

    def _write(self, text: str, end: str = "") -> None:
        start = "\r\x1b[K" if self.stream.isatty() else ""
        self.stream.write(f"{start}{self.label}: {text}{end}")
        self.stream.flush()
