"""What tests of the agent without real guests share."""

from __future__ import annotations

import pytest

from kubeballoon.agent.hypervisor import launchers
from kubeballoon.agent.hypervisor.launchers import Launcher


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pod has a libvirt socket."""
    monkeypatch.setattr(launchers, "find_launcher", lambda pods, uids: Launcher(uids[0], pods / uids[0]))
