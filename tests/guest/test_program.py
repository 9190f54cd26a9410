"""The reservation program: what it does for a guest of numbers, and as a real process."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kubeballoon.agent.vm.guest_program import PROGRAM, PYTHON
from kubeballoon.guest import kubeballoon_guest as program
from tests.support.patience import SLOW, eventually

MIB = 1 << 20
SOURCE = Path(program.__file__)
UNIT = SOURCE.with_name("kubeballoon-guest.service")
IN_PYTHON_3_6 = frozenset({"argparse", "json", "mmap", "os", "signal", "sys", "time", "typing"})
"""Modules of Python 3.6's standard library that the program may use; one that is added was looked up in its docs."""


@dataclass
class FakeHoard(program.Hoard):
    """Holds numbers."""

    most: int = 1 << 40
    size: int = 0

    @property
    def held(self) -> int:
        """Bytes held."""
        return self.size

    def grow(self, size: int) -> None:
        """Hold more, up to what the test allows."""
        if self.size + size > self.most:
            raise OSError("no more")
        self.size += size

    def shrink(self, size: int) -> None:
        """Give some back."""
        self.size = max(0, self.size - size)


@dataclass
class FakeGuest(program.Guest):
    """A guest that uses what the test says, beside what is hoarded."""

    hoard: FakeHoard = field(default_factory=FakeHoard)
    used: int = 200 * MIB
    waited: float = 0.0

    def total(self) -> int:
        """A GiB."""
        return 1024 * MIB

    def available(self) -> int:
        """The rest."""
        return self.total() - self.used - self.hoard.held

    def stalled(self) -> float:
        """Seconds."""
        return self.waited


@pytest.fixture
def guest() -> FakeGuest:
    return FakeGuest()


@pytest.fixture
def guest_program(guest: FakeGuest) -> program.Reservation:
    return program.Reservation(guest, guest.hoard)


def look(guest_program: program.Reservation, asked: int, times: int = 30) -> None:
    for _ in range(times):
        guest_program.look(asked)


def test_what_is_asked_is_reserved_in_growing_steps(guest: FakeGuest, guest_program: program.Reservation) -> None:
    steps = []
    while guest_program.look(500 * MIB):
        steps.append(guest.hoard.held)
    assert guest.hoard.held == 500 * MIB
    assert steps[0] == 16 * MIB
    assert steps[1] - steps[0] == 32 * MIB


def test_the_guest_keeps_what_it_uses_and_something_beyond(
    guest: FakeGuest, guest_program: program.Reservation
) -> None:
    look(guest_program, 1024 * MIB)
    assert guest.available() >= guest.total() // 16


def test_what_more_it_could_give_is_told(guest: FakeGuest, guest_program: program.Reservation) -> None:
    guest_program.look(0)
    assert guest_program.spare == guest.available() - guest.total() // 16
    look(guest_program, 1024 * MIB)
    assert guest_program.spare < program.CHUNK
    guest.used += guest.available()
    guest_program.look(1024 * MIB)
    guest.used = 0
    guest_program.look(1024 * MIB)
    assert guest_program.short
    assert guest_program.spare == 0, "a guest that ran short is to give nothing for a while"


def test_less_asked_is_given_back_at_once(guest: FakeGuest, guest_program: program.Reservation) -> None:
    look(guest_program, 500 * MIB)
    guest_program.look(100 * MIB)
    assert guest.hoard.held == 100 * MIB


def test_a_guest_that_runs_short_has_memory_back_at_once(guest: FakeGuest, guest_program: program.Reservation) -> None:
    look(guest_program, 700 * MIB)
    guest.used += guest.available()
    guest_program.look(700 * MIB)
    assert guest.available() >= guest.total() // 16
    assert guest_program.short
    held = guest.hoard.held
    look(guest_program, 700 * MIB)
    assert guest.hoard.held <= held, "nothing more is taken for a while"


def test_a_guest_whose_tasks_wait_for_memory_has_some_back(
    guest: FakeGuest, guest_program: program.Reservation
) -> None:
    look(guest_program, 400 * MIB)
    guest.waited += 1.0
    guest_program.look(400 * MIB)
    assert guest.hoard.held == 300 * MIB


def test_a_kernel_that_gives_no_more_is_not_pressed(guest: FakeGuest, guest_program: program.Reservation) -> None:
    guest.hoard.most = 100 * MIB
    look(guest_program, 500 * MIB)
    assert guest.hoard.held <= 100 * MIB
    assert not guest_program.look(500 * MIB)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"reserve": "much", "id": 1}', "[]"])
def test_half_a_request_is_none(tmp_path: Path, text: str) -> None:
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


def test_what_the_unit_names_is_what_is_installed() -> None:
    unit = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert unit["ExecStart"] == f"{PYTHON} {PROGRAM}"
    assert unit["Documentation"] == f"file:{PROGRAM}", "the one file that is there, which begins with what it does"
    for how in ("README.md", "cloud-init.yaml"):
        assert PROGRAM in SOURCE.with_name(how).read_text()


def test_as_a_process_it_follows_requests_and_says_what_it_holds(tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE), f"--directory={tmp_path}"]

    def said() -> dict[str, int]:
        shown = subprocess.run([*command, "--status"], capture_output=True, text=True, check=False, timeout=SLOW)
        return json.loads(shown.stdout) if shown.returncode == 0 else {}

    def locked() -> int:
        """Bytes, as the kernel counts."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmLck"))

    with subprocess.Popen(command) as process:
        try:
            eventually(said)
            subprocess.run([*command, f"--ask={4 * MIB}"], check=True, timeout=SLOW)
            # At once: while tasks of this machine wait for memory, the program gives back what it had taken.
            eventually(lambda: said()["held"] == 4 * MIB and locked() >= 4 * MIB)
            subprocess.run([*command, "--ask=0"], check=True, timeout=SLOW)
            eventually(lambda: said()["held"] == 0)
        finally:
            process.terminate()
    assert process.returncode == 0


def test_without_one_that_runs_there_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SOURCE), f"--directory={tmp_path}", "--status"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SLOW)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
