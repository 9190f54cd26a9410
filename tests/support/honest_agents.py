"""Runs a real agent with the real API server, beside daemons of libvirt that are honest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.testbed.chart import agent_kubeconfig
from hack.testbed.controlplane import ControlPlane
from hack.testbed.hostile.launchers import RunningAgent, daemons, running
from kubeballoon.agent.hypervisor.launcher_sockets import RUNTIME


@contextmanager
def agent_of(plane: ControlPlane, node: str, pods: Path, *names: str) -> Iterator[RunningAgent]:
    """Run an agent inside the context, with an honest daemon for each of the VMs."""
    sockets = [pods / f"pod-{name}" / RUNTIME / "virtqemud-sock" for name in names]
    for each in sockets:
        each.parent.mkdir(parents=True)
    answers = daemons(pods / "honest.json", {str(each): {} for each in sockets})
    with running(answers) as (daemon,):
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        arguments = [str(pods), node, str(agent_kubeconfig(plane, node))]
        with running(["hack.testbed.hostile.agent_on_cluster", *arguments]) as (process,):
            yield RunningAgent(process)
