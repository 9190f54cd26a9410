"""Whether the tests fail in a copy of the project in which one file of the core is another."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hack.mutate.mutants import Mutant

_TESTS = ("tests/core", "tests/replay", "tests/simulate")
_LEFT_OUT = (".*", "build", "dist", "__pycache__", "docs", "node_modules")
_MEMORY = 8 << 20  # KiB of address space: a mutant may ask for any amount
_LONGER = 5  # times what the tests take of a processor unchanged, and
_LEAST_SECONDS = 60.0  # this: then a mutant never ends
_WAITS_SECONDS = 3600.0  # by the clock, for one that waits; a busy machine must not look like that


class BaselineError(Exception):
    """The tests fail, or do not end, without any mutant."""


@dataclass(slots=True)
class Copy:
    """A copy of the project to try mutants in.

    Attributes:
        root: where it is.
        seed: of what hypothesis chooses.
        seconds: of a processor, after which a test run counts as one that never ends.
    """

    root: Path
    seed: int
    seconds: float = 900.0
    _running: subprocess.Popen[bytes] | None = None

    @classmethod
    def made(cls, project: Path, root: Path, seed: int) -> Self:
        """Copy the project as it is, and run the tests once.

        Raises:
            BaselineError: they fail.
        """
        shutil.copytree(project, root, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        copy = cls(root, seed)
        before = _used_seconds()
        # Compiled files are written here and never again: of a mutant's two versions the wrong one might be taken.
        if not copy._passes(copy._tests(), {"PYTHONDONTWRITEBYTECODE": ""}):
            raise BaselineError(f"the tests fail without any mutant: {' '.join(copy._tests())}")
        copy.seconds = max(_LEAST_SECONDS, _LONGER * (_used_seconds() - before))
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

    def end(self) -> None:
        """End what runs in it at this moment, if anything does; may be called from another thread."""
        running = self._running
        if running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    def _tests(self) -> list[str]:
        return [tests for tests in _TESTS if (self.root / tests).is_dir()]

    def _passes(self, tests: list[str], more: dict[str, str] | None = None) -> bool:
        options = ("--exitfirst", "--quiet", f"--hypothesis-seed={self.seed}")
        plugins = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "hack.mutate.unshrunk")
        limited = ("sh", "-c", f'ulimit -v {_MEMORY}; ulimit -t {self.seconds:.0f}; exec "$@"', "-")
        # The tests start the program, too, which must be the copy's.
        paths = os.pathsep.join((str(self.root / "operator"), str(self.root)))
        self._running = subprocess.Popen(
            [*limited, sys.executable, "-m", "pytest", *options, *plugins, *tests],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return self._running.wait(_WAITS_SECONDS) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.end()  # and what it started
            self._running.wait()
            self._running = None


def _used_seconds() -> float:
    """What the processes that were started and have ended used of a processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
