"""The controller as a real process, and nodes whose agents the tests play."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.controlplane import ControlPlane
from tests.support.cluster import FakeNode
from tests.support.processes import Command, controller
from tests.support.waiting import until


@pytest.fixture(scope="module")
def leader(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A controller that leads, for all tests of a file."""
    with controller(installed, tmp_path_factory.mktemp("controller") / "log", "--cool-down=1s") as command:
        until(lambda: "leading" in command.said())
        yield command
        assert "Traceback" not in command.said()


@pytest.fixture
def node(installed: ControlPlane, leader: Command, namespace: str) -> Iterator[FakeNode]:
    """A node for 1200 MiB of guests, with four processors."""
    made = FakeNode(installed, f"node-{namespace}", namespace)
    yield made
    assert leader.process.poll() is None
    installed.kubectl("delete", "mempol,cpupol", "--all")
    made.remove()
