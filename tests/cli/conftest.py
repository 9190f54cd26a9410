"""A controller that leads, and a node whose agent the tests play."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from subprocess import CompletedProcess

import pytest

from hack.controlplane import ControlPlane
from tests.support.cli import balloon
from tests.support.cluster import FakeNode
from tests.support.processes import Command, controller
from tests.support.waiting import until


@pytest.fixture
def cli(installed: ControlPlane) -> Callable[..., CompletedProcess[str]]:
    """kubectl-balloon as the cluster's administrator."""
    return partial(balloon, installed.kubeconfig)


@pytest.fixture(scope="module")
def leader(installed: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A controller that leads, for all tests of a file."""
    with controller(installed, tmp_path_factory.mktemp("controller") / "log", "--cool-down=1s") as command:
        until(lambda: "leading" in command.said())
        yield command
        assert "Traceback" not in command.said()


@pytest.fixture
def node(installed: ControlPlane, namespace: str) -> Iterator[FakeNode]:
    """A node for 1200 MiB of guests."""
    made = FakeNode(installed, f"node-{namespace}", namespace)
    yield made
    installed.kubectl("delete", "mempol", "--all")
    made.remove()
