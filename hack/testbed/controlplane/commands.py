"""run(): a command run to its end, with a deadline."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ControlPlaneError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run(
    command: Sequence[str | Path],
    *,
    seconds: float,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command, and return what it printed.

    Args:
        command: The program and its arguments.
        seconds: The deadline; the command is killed then.
        stdin: The text that the command reads; None: nothing.
        environment: All environment variables of the command; None: those of this process.

    Raises:
        ControlPlaneError: The command cannot be started, fails, or misses the deadline. The message has its stderr.
    """
    name = Path(command[0]).name
    try:
        ended = subprocess.run(
            command,
            check=False,
            input=stdin or "",
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise ControlPlaneError(f"{name} did not end within {seconds:g} s: {_command_line(command)}") from error
    except OSError as error:
        raise ControlPlaneError(f"{name} cannot be run: {error}") from error
    if ended.returncode:
        reason = ended.stderr.strip() or f"exit status {ended.returncode}"
        raise ControlPlaneError(f"{_command_line(command)}: {reason}")
    return ended.stdout


def _command_line(command: Sequence[str | Path]) -> str:
    return " ".join((Path(command[0]).name, *map(str, command[1:])))
