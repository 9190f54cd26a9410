"""One background process of the control plane."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from .errors import ControlPlaneError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running process that logs to a file and dies with whoever started it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, program: Path, arguments: Sequence[str], directory: Path) -> Self:
        """Starts a program in a directory, where its log goes too.

        It has a session of its own, so that ^C reaches only its owner, who then stops things in order. The kernel
        kills it when the *thread* that started it ends: start it from one that lasts.

        Raises:
            ControlPlaneError: The program cannot be run.
        """
        setpriv = shutil.which("setpriv")  # of util-linux; without it only an orderly end is clean
        leash = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        log = directory / f"{program.name}.log"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*leash, program, *arguments],
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise ControlPlaneError(f"{program.name} cannot be run: {error}") from error
        return cls(program.name, process, log)

    def check(self) -> None:
        """Raises ControlPlaneError if the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise ControlPlaneError(f"{self.name} ended with status {status}", self.log)

    def stop(self, grace_seconds: float) -> None:
        """Ends the process: asks, waits, then kills. Does nothing if it has ended."""
        self.process.terminate()
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
