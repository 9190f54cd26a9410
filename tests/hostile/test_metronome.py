"""A loop that is held is told by what it gets done: else the tests of hostile parties could not fail."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hack.testbed.hostile.metronome import Metronome, Ticks
from tests.support.waiting import soon


async def count(file: Path, held_for: int) -> Ticks:
    """Let a loop count, hold it until a process beside it has counted further by ``held_for``, and let it count on."""
    with Metronome(file) as metronome:
        await soon(lambda: metronome.ticks.beside > 0, 60)
        end = metronome.count_beside() + held_for
        while metronome.count_beside() < end:
            pass  # the loop is held
        goal = metronome.ticks.loop + 25
        await soon(lambda: metronome.ticks.loop >= goal, 60)
        return metronome.ticks


def test_a_loop_that_counts_beside_a_process_is_not_held(tmp_path: Path) -> None:
    assert not asyncio.run(count(tmp_path / "count", held_for=0)).held


def test_a_loop_that_is_held_for_long_is_noticed(tmp_path: Path) -> None:
    ticks = asyncio.run(count(tmp_path / "count", held_for=210))
    assert ticks.longest_pause > 200
    assert ticks.held


def test_a_loop_that_is_held_again_and_again_is_noticed() -> None:
    assert Ticks(loop=200, beside=1100, longest_pause=20).held
    assert not Ticks(loop=1000, beside=1100, longest_pause=20).held
    assert Ticks(loop=1000, beside=1300, longest_pause=201).held
