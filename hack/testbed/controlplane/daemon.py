"""Daemon: a background process, such as the API server, that ends with the process that started it."""

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
    """A running process that logs to a file, and that the kernel kills when its parent ends."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, program: Path, arguments: Sequence[str], directory: Path) -> Self:
        """Start a program in a working directory, where its log is written too.

        It runs in a session of its own: ^C reaches the parent only, which then stops its daemons in order. The kernel
        kills the program when the *thread* that started it ends, so call this from a thread that lasts.

        Raises:
            ControlPlaneError: The program cannot be run.
        """
        setpriv = shutil.which("setpriv")  # without util-linux, a daemon outlives a parent that is killed
        die_with_parent = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        log = directory / f"{program.name}.log"
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*die_with_parent, program, *arguments],
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
        """Raise ControlPlaneError if the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise ControlPlaneError(f"{self.name} ended with status {status}", self.log)

    def stop(self, grace_seconds: float) -> None:
        """End the process: send SIGTERM, wait, then send SIGKILL. Do nothing if it has ended already."""
        self.process.terminate()
        try:
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
