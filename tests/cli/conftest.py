"""kubectl-balloon for the tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from subprocess import CompletedProcess

import pytest

from hack.testbed.controlplane import ControlPlane
from tests.support.cli import balloon


@pytest.fixture
def cli(installed: ControlPlane) -> Callable[..., CompletedProcess[str]]:
    """kubectl-balloon as the cluster's administrator."""
    return partial(balloon, installed.kubeconfig)
