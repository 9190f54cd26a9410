"""What tests of the agent without real guests share."""

from __future__ import annotations

import pytest

from kubeballoon.agent.hypervisor import launcher_sockets
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pod has a libvirt socket."""
    monkeypatch.setattr(launcher_sockets, "find_launcher", lambda pods, uids: Launcher(uids[0], pods, uids[0]))
