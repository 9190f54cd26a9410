"""The guest program: what it does for a guest of numbers, and as a real process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kubeballoon.agent.vm.guest_program_client import PROGRAM, PYTHON
from kubeballoon.guest import kubeballoon_guest as program
from tests.support.waiting import SLOW, eventually

MIB = 1 << 20
SOURCE = Path(program.__file__)
UNIT = SOURCE.with_name("kubeballoon-guest.service")
IN_PYTHON_3_6 = frozenset({"argparse", "json", "mmap", "os", "signal", "sys", "time", "typing"})
"""Modules of Python 3.6's standard library that the program may use; one that is added was looked up in its docs."""


@dataclass
class FakeLockedMemory(program.LockedMemory):
    """Locked memory that is a number, up to ``most`` bytes."""

    most: int = 1 << 40
    total: int = 0

    @property
    def size(self) -> int:
        """How much is locked, bytes."""
        return self.total

    def grow(self, size: int) -> None:
        """Lock more, up to what the test allows."""
        if self.total + size > self.most:
            raise OSError("no more")
        self.total += size

    def shrink(self, size: int) -> None:
        """Free some."""
        self.total = max(0, self.total - size)


@dataclass
class FakeGuest(program.Guest):
    """A guest that uses what the test says, beside what is locked."""

    locked: FakeLockedMemory = field(default_factory=FakeLockedMemory)
    used: int = 200 * MIB
    waited: float = 0.0

    def total(self) -> int:
        """Have one GiB."""
        return 1024 * MIB

    def available(self) -> int:
        """Count the rest."""
        return self.total() - self.used - self.locked.size

    def stalled(self) -> float:
        """Count the seconds that the test says."""
        return self.waited


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()


@pytest.fixture
def locker(guest: FakeGuest) -> program.Locker:
    return program.Locker(guest, guest.locked)


def step(locker: program.Locker, requested: int, times: int = 30) -> None:
    for _ in range(times):
        locker.step(requested)


def test_a_request_is_followed_in_growing_steps(guest: FakeGuest, locker: program.Locker) -> None:
    steps = []
    while locker.step(500 * MIB):
        steps.append(guest.locked.size)
    assert guest.locked.size == 500 * MIB
    assert steps[0] == 16 * MIB
    assert steps[1] - steps[0] == 32 * MIB


def test_the_guest_keeps_what_it_uses_and_something_beyond(guest: FakeGuest, locker: program.Locker) -> None:
    step(locker, 1024 * MIB)
    assert guest.available() >= guest.total() // 16


def test_what_more_could_be_locked_is_reported(guest: FakeGuest, locker: program.Locker) -> None:
    locker.step(0)
    assert locker.spare == guest.available() - guest.total() // 16
    step(locker, 1024 * MIB)
    assert locker.spare < program.CHUNK
    guest.used += guest.available()
    locker.step(1024 * MIB)
    guest.used = 0
    locker.step(1024 * MIB)
    assert locker.short
    assert locker.spare == 0, "nothing is locked in a guest that ran short for a while"


def test_memory_is_freed_at_once_when_less_is_requested(guest: FakeGuest, locker: program.Locker) -> None:
    step(locker, 500 * MIB)
    locker.step(100 * MIB)
    assert guest.locked.size == 100 * MIB


def test_a_guest_that_runs_short_has_memory_back_at_once(guest: FakeGuest, locker: program.Locker) -> None:
    step(locker, 700 * MIB)
    guest.used += guest.available()
    locker.step(700 * MIB)
    assert guest.available() >= guest.total() // 16
    assert locker.short
    locked = guest.locked.size
    step(locker, 700 * MIB)
    assert guest.locked.size <= locked, "nothing more is locked for a while"


def test_a_guest_whose_tasks_wait_for_memory_has_some_back(guest: FakeGuest, locker: program.Locker) -> None:
    step(locker, 400 * MIB)
    guest.waited += 1.0
    locker.step(400 * MIB)
    assert guest.locked.size == 300 * MIB


def test_a_kernel_that_gives_no_more_is_not_pressed(guest: FakeGuest, locker: program.Locker) -> None:
    guest.locked.most = 100 * MIB
    step(locker, 500 * MIB)
    assert guest.locked.size <= 100 * MIB
    assert not locker.step(500 * MIB)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"lock": "much"}', "[]"])
def test_half_a_request_is_no_request(tmp_path: Path, text: str) -> None:
    (tmp_path / "request").write_text(text)
    assert program.read_request(str(tmp_path / "request")) is None


def test_it_needs_nothing_newer_than_python_3_6() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= IN_PYTHON_3_6


def test_the_unit_names_the_file_that_is_installed() -> None:
    unit = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert unit["ExecStart"] == f"{PYTHON} {PROGRAM}"
    assert unit["Documentation"] == f"file:{PROGRAM}", "the installed file, which begins with what the program does"
    for how in ("README.md", "cloud-init.yaml"):
        assert PROGRAM in SOURCE.with_name(how).read_text()


def test_as_a_process_it_follows_requests_and_reports_what_it_has_locked(tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE), f"--directory={tmp_path}"]

    def status() -> dict[str, int]:
        shown = subprocess.run([*command, "--status"], capture_output=True, text=True, check=False, timeout=SLOW)
        return json.loads(shown.stdout) if shown.returncode == 0 else {}

    def locked() -> int:
        """Read how much the process has locked by the kernel's count, bytes."""
        counts = Path(f"/proc/{process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in counts.splitlines() if line.startswith("VmLck"))

    with subprocess.Popen(command) as process:
        try:
            eventually(status)
            subprocess.run([*command, f"--ask={4 * MIB}"], check=True, timeout=SLOW)
            # Both at once: while tasks of this machine wait for memory, the program frees what it had locked.
            eventually(lambda: status()["locked"] == 4 * MIB and locked() >= 4 * MIB)
            subprocess.run([*command, "--ask=0"], check=True, timeout=SLOW)
            eventually(lambda: status()["locked"] == 0)
        finally:
            process.terminate()
    assert process.returncode == 0


def test_without_a_program_that_runs_the_status_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE), f"--directory={tmp_path}", "--status"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SLOW)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
