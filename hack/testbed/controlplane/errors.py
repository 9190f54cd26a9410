"""ControlPlaneError: the one error that the control plane raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TAIL_LINES = 8
_TAIL_BYTES = 8192


@dataclass(eq=False)
class ControlPlaneError(Exception):
    """A failure of the control plane or of a build: one line, and the end of the log that says more.

    Attributes:
        message: One line for the user.
        log: The log of what failed, if there is one.
        tail: The last lines of the log. They are read when the error is raised: the file may be deleted after that.
    """

    message: str
    log: Path | None = None
    tail: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        if self.log is not None:
            self.tail = last_lines(self.log)

    def __str__(self) -> str:
        if self.log is None:
            return self.message
        return "\n".join((self.message, f"the end of {self.log}:", *(f"  {line}" for line in self.tail)))


def last_lines(log: Path) -> tuple[str, ...]:
    """Return the last `TAIL_LINES` lines of a log; none if there is no such file. Long logs are not read whole."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-TAIL_LINES:])
