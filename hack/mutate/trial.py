"""This module runs the tests in a copy of the project in which one file of the core is changed."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

import pytest

from hack.mutate.mutants import Mutant

_TESTS = ("tests/core", "tests/replay")
_EXCEPT = "not tools"  # what starts other programs says nothing about the core, and takes long
_EXAMPLES = f"{_EXCEPT} and not hypothesis"
_LEFT_OUT = (".*", "build", "dist", "__pycache__", "docs", "node_modules")
_MEMORY = 8 << 20  # KiB of address space for the tests of a mutant, which may ask for any amount
# A mutant never ends, and so is noticed, if its tests use more of a processor than both of these:
_LONGER = 5  # times what the same tests use without a mutant
_LEAST_SECONDS = 60.0  # seconds
_WAITS_SECONDS = 3600.0  # by the clock, for tests that wait for ever; long, because a busy machine is slow, too


class BaselineError(Exception):
    """A BaselineError says that the tests fail, or do not end, without any mutant."""


@dataclass(slots=True)
class Copy:
    """A Copy is a copy of the project in which mutants are tried.

    Attributes:
        root: the directory of the copy.
        seed: hypothesis's seed, so that every mutant meets the same examples.
        seconds: processor time after which a run of all tests counts as one that never ends.
        examples_seconds: the same for a run of the plain examples.
    """

    root: Path
    seed: int
    seconds: float = 900.0
    examples_seconds: float = 900.0
    _running: subprocess.Popen[bytes] | None = None

    @classmethod
    def made(cls, project: Path, root: Path, seed: int) -> Self:
        """Copy the project as it is, and run its tests without a mutant.

        Raises:
            BaselineError: the tests fail.
        """
        shutil.copytree(project, root, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        copy = cls(root, seed)
        copy.seconds = _limit(copy._baseline(copy._tests()))
        copy.examples_seconds = _limit(copy._baseline(copy._tests()[:1], _EXAMPLES))
        return copy

    def again(self, root: Path) -> Copy:
        """Make another copy of the project from this one."""
        shutil.copytree(self.root, root)
        return Copy(root, self.seed, self.seconds, self.examples_seconds)

    def survives(self, mutant: Mutant) -> bool:
        """Whether all tests pass with the mutant.

        Those run first that notice the most in the least time: plain examples, then the tests of the mutant's own file.
        """
        path = self.root / mutant.path
        original, times = path.read_text(), path.stat()
        path.write_text(mutant.code)
        # Python tells a compiled file's source by its size and whole second: in the same one it would run the original.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 2 * 10**9))
        try:
            own = own_tests(
                path, (found for tests in self._tests() for found in (self.root / tests).rglob("test_*.py"))
            )
            examples = self._passes(self._tests()[:1], marked=_EXAMPLES, seconds=self.examples_seconds)
            return examples and all(self._passes(tests) for tests in (own, self._tests()) if tests)
        finally:
            path.write_text(original)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def end(self) -> None:
        """End the tests that run in the copy, if any do; may be called from another thread."""
        running = self._running
        if running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    def _tests(self) -> list[str]:
        return [tests for tests in _TESTS if (self.root / tests).is_dir()]

    def _baseline(self, tests: list[str], marked: str = _EXCEPT) -> float:
        """Run tests without a mutant, and return the processor time that they use, seconds.

        Raises:
            BaselineError: the tests fail.
        """
        before = _used_seconds()
        # Only these runs write compiled files: Python could take a mutant's for the unchanged file's, or the reverse.
        with tempfile.TemporaryFile("w+") as output:
            if not self._passes(tests, {"PYTHONDONTWRITEBYTECODE": ""}, marked, output=output):
                output.seek(0)
                end = output.read().strip().splitlines()[-3:]
                raise BaselineError("\n".join(["the tests fail without any mutant:", *end]))
        return _used_seconds() - before

    def _passes(
        self,
        tests: list[str],
        more: dict[str, str] | None = None,
        marked: str = _EXCEPT,
        *,
        seconds: float | None = None,
        output: TextIO | int = subprocess.DEVNULL,
    ) -> bool:
        options = ("--exitfirst", "--quiet", f"--hypothesis-seed={self.seed}", "-m", marked)
        plugins = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "hack.mutate.no_shrinking")
        limited = ("sh", "-c", f'ulimit -v {_MEMORY}; ulimit -t {seconds or self.seconds:.0f}; exec "$@"', "-")
        # The tests start kubeballoon's commands, too: these must be the copy's.
        paths = os.pathsep.join((str(self.root / "operator"), str(self.root)))
        self._running = subprocess.Popen(
            [*limited, sys.executable, "-m", "pytest", *options, *plugins, *tests],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return self._running.wait(_WAITS_SECONDS) in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        except subprocess.TimeoutExpired:
            return False
        finally:
            self.end()  # ends what the tests have started, too
            self._running.wait()
            self._running = None


def own_tests(path: Path, tests: Iterable[Path]) -> list[str]:
    """Find the tests that are named after a file of the core.

    The tests of ``core/memory/allocation.py`` are ``test_allocation.py`` and ``test_memory_allocation.py``. A file that
    has none, such as ``core/processors/model.py``, gets all tests that are named after its package.
    """
    package = path.parent.name.removesuffix("s")  # test_processor_allocation.py tests core/processors/allocation.py
    candidates = sorted(tests)
    own = [test for test in candidates if test.stem in (f"test_{path.stem}", f"test_{package}_{path.stem}")]
    return [str(test) for test in own or candidates if own or test.stem.startswith(f"test_{package}_")]


def _limit(used: float) -> float:
    """Return the processor time, seconds, after which tests that used so much without a mutant count as endless."""
    return max(_LEAST_SECONDS, _LONGER * used)


def _used_seconds() -> float:
    """Read how many seconds of processor time the child processes that have ended used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
