"""What the agent's process does to itself at its start."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Iterator

import pytest

from kubeballoon.agent.main import allow_many_threads, raise_file_limit


@pytest.fixture
def most_files() -> Iterator[int]:
    """Let this process open few files, though it may allow itself more; yield how many it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_agent_may_open_as_many_files_as_it_may_allow_itself(most_files: int) -> None:
    raise_file_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most_files, most_files)


def test_processes_that_hang_while_they_are_read_hold_up_no_other() -> None:
    async def read_all() -> list[int]:
        allow_many_threads(asyncio.get_running_loop())
        together = threading.Barrier(200)  # none returns before all have begun
        return await asyncio.gather(*(asyncio.to_thread(together.wait, 30) for _ in range(200)))

    assert len(asyncio.run(read_all())) == 200
