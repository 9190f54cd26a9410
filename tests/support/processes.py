"""Runs kubeballoon's commands, such as the agent and the controller, as real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import yaml

from hack.testbed.chart import CHART, agent_kubeconfig
from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import LabNode
from hack.testbed.peak_memory import peak_memory
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.cluster.lease import LEASE_DURATION, RETRY_PERIOD
from tests.support.waiting import until

STOP_SECONDS = 15.0
# Until a Lease that nobody handed back is acquired, on a machine that is slow to start Python.
LEAD_SECONDS = LEASE_DURATION + RETRY_PERIOD + 45.0
SYSTEM = "kubeballoon-system"


class Command:
    """A running `kubeballoon` command; a context manager, which ends it."""

    def __init__(self, log: Path, *arguments: str, after: str = "") -> None:
        """Start ``kubeballoon ARGUMENTS``; its stdout and stderr are appended to ``log``.

        Python code that is given as ``after`` is run before: it may put fakes in the place of what is not at hand.
        """
        self.log = log
        program = ["-c", f"{after}\nimport runpy\nrunpy.run_module('kubeballoon', run_name='__main__')"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *(program if after else ["-m", "kubeballoon"]), *arguments],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def peak_memory(self) -> int:
        """Return how many bytes it has held in memory at most."""
        return peak_memory(self.process.pid)

    def output(self) -> str:
        """Return everything that it has written so far."""
        return self.log.read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait until the command has ended, and return its exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def agent(plane: ControlPlane, node: LabNode, log: Path, *options: str) -> Command:
    """Start the agent of a lab node, with a token of its ServiceAccount."""
    kubeconfig = agent_kubeconfig(plane, node.name)
    return Command(
        log,
        "agent",
        f"--kubeconfig={kubeconfig}",
        f"--node-name={node.name}",
        f"--pods-dir={node.pods_dir}",
        f"--node-memory-cgroup={node.cgroup}",
        "--stats-period=1s",
        "--eviction-threshold=16Mi",
        *options,
    )


def controller(plane: ControlPlane, log: Path, *options: str, after: str = "") -> Command:
    """Start a controller, with a token of its ServiceAccount, after some Python code."""
    kubeconfig = plane.service_account_kubeconfig(SYSTEM, "kubeballoon-controller")
    return Command(log, "controller", f"--kubeconfig={kubeconfig}", f"--namespace={SYSTEM}", *options, after=after)


def memory_limit(component: str) -> int:
    """Return the chart's memory limit of a component, "agent" or "controller", in bytes."""
    values: Any = yaml.safe_load((CHART / "values.yaml").read_text())
    return parse_quantity(values[component]["resources"]["limits"]["memory"])


def await_leadership(command: Command, terms: int = 0) -> None:
    """Wait until a controller leads; ``terms`` is how often its log says so from earlier runs."""
    until(lambda: command.output().count("leading") > terms, LEAD_SECONDS, command.output)
