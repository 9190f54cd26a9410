"""Controller and agent on a cluster without kubeballoon's CRDs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack.testbed.controlplane import LocalControlPlane
from hack.testbed.controlplane.programs import Programs
from tests.support.processes import Command
from tests.support.waiting import until

MISSING = "there is no such kind: is its CRD installed?"


@pytest.mark.cluster
def test_missing_crds_are_logged_in_a_line_each_and_end_neither(tmp_path: Path) -> None:
    with LocalControlPlane(Programs.find()) as plane:
        access = f"--kubeconfig={plane.kubeconfig}"
        node = ("--node-name=node", f"--pods-dir={tmp_path}")
        with (
            Command(tmp_path / "controller", "controller", access, "--namespace=default") as controller,
            Command(tmp_path / "agent", "agent", access, *node) as agent,
        ):
            until(lambda: MISSING in controller.output(), 60, controller.output)
            until(lambda: agent.output().count(MISSING) == 5, 60, agent.output)
            for command in (controller, agent):
                assert command.process.poll() is None
                assert "Traceback" not in command.output()
                assert command.stop() == 0
