"""Whether the tests fail in a copy of the project in which one file of the core is another."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hack.mutate.mutants import Mutant

_TESTS = ("tests/core", "tests/replay", "tests/simulate")
_LEFT_OUT = (".*", "build", "dist", "__pycache__", "docs", "node_modules")
_MEMORY = 8 << 20  # KiB of address space: a mutant may ask for any amount
_LONGER = 5  # times what the tests take unchanged, and
_LEAST_SECONDS = 120.0  # this, as other trials run beside it: then a mutant hangs


class BaselineError(Exception):
    """The tests fail, or do not end, without any mutant."""


@dataclass(slots=True)
class Copy:
    """A copy of the project to try mutants in.

    Attributes:
        root: where it is.
        seed: of what hypothesis chooses.
        seconds: until a test run counts as one that hangs.
    """

    root: Path
    seed: int
    seconds: float = 600.0

    @classmethod
    def made(cls, project: Path, root: Path, seed: int) -> Self:
        """Copy the project as it is, and run the tests once.

        Raises:
            BaselineError: they fail.
        """
        shutil.copytree(project, root, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        copy = cls(root, seed)
        began = time.monotonic()
        # Compiled files are written here and never again: of a mutant's two versions the wrong one might be taken.
        if not copy._passes(copy._tests(), {"PYTHONDONTWRITEBYTECODE": ""}):
            raise BaselineError(f"the tests fail without any mutant: {' '.join(copy._tests())}")
        copy.seconds = max(_LEAST_SECONDS, _LONGER * (time.monotonic() - began))
        return copy

    def again(self, root: Path) -> Copy:
        """Another copy like this one."""
        shutil.copytree(self.root, root)
        return Copy(root, self.seed, self.seconds)

    def survives(self, mutant: Mutant) -> bool:
        """Whether all tests pass with the mutant; first those that are named after its file, which notice the most."""
        path = self.root / mutant.path
        original, times = path.read_text(), path.stat()
        path.write_text(mutant.code)
        try:
            own = [str(found) for tests in self._tests() for found in (self.root / tests).rglob(f"test_{path.stem}.py")]
            return all(self._passes(tests) for tests in (own, self._tests()) if tests)
        finally:
            path.write_text(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def _tests(self) -> list[str]:
        return [tests for tests in _TESTS if (self.root / tests).is_dir()]

    def _passes(self, tests: list[str], more: dict[str, str] | None = None) -> bool:
        options = ("--exitfirst", "--quiet", f"--hypothesis-seed={self.seed}")
        plugins = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "hack.mutate.unshrunk")
        limited = ("sh", "-c", f'ulimit -v {_MEMORY}; exec "$@"', "-")
        # The tests start the program, too, which must be the copy's.
        paths = os.pathsep.join((str(self.root / "operator"), str(self.root)))
        running = subprocess.Popen(
            [*limited, sys.executable, "-m", "pytest", *options, *plugins, *tests],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return running.wait(self.seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(running)


def _end(running: subprocess.Popen[bytes]) -> None:
    """End the process with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()
