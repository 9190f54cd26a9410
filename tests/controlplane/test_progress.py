"""Progress is one rewritten line on a terminal, and a few lines elsewhere."""

from __future__ import annotations

import io

import pytest

from hack.testbed.controlplane.progress import Progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_terminal_shows_every_state_on_one_line() -> None:
    with Progress("building", terminal := Terminal()) as progress:
        progress.show("1 of 2")
        progress.show("2 of 2")
    clear = "\r\x1b[K"
    assert terminal.getvalue() == f"{clear}building: 1 of 2{clear}building: 2 of 2{clear}building: done\n"


def test_elsewhere_only_some_states_are_shown() -> None:
    with Progress("building", file := io.StringIO()) as progress:
        for done in range(1000):
            progress.show(f"{done} of 1000")
    lines = file.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("building: 0 of 1000", "building: done")
    assert len(lines) < 10


def test_failure_is_shown() -> None:
    file = io.StringIO()
    with pytest.raises(ZeroDivisionError), Progress("building", file):
        _ = 1 / 0
    assert file.getvalue() == "building: failed\n"
