"""What the agent's process does to itself at its start."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from kubeballoon.agent.main import raise_file_limit


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
