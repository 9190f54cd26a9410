"""Progress of something long, for whoever is watching."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

_QUIET_SECONDS = 15.0


def _standard_error() -> TextIO:
    return sys.stderr  # looked up when used: test runners replace it


@dataclass(slots=True)
class Progress:
    """One line that is rewritten on a terminal; elsewhere a new line every quarter of a minute."""

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
        """Shows the present state, if it is time for it."""
        if self.stream.isatty():
            self._write(text)
        elif time.monotonic() - self._shown_at >= _QUIET_SECONDS:
            self._shown_at = time.monotonic()
            self._write(text, "\n")

    def _write(self, text: str, end: str = "") -> None:
        start = "\r\x1b[K" if self.stream.isatty() else ""
        self.stream.write(f"{start}{self.label}: {text}{end}")
        self.stream.flush()
