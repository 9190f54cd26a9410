"""Which replica of the controller is ready, seen from outside: real processes on the real API server."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane
from tests.support.accounts import account_with_leases
from tests.support.processes import Command, await_leadership
from tests.support.waiting import until

pytestmark = pytest.mark.cluster

# kopf connects to an address where nothing answers, as it did while it needed the cluster's DNS.
WATCHES_NOTHING = """
import kopf
from kubeballoon.controller import kopf_handlers
async def login(**_):
    return kopf.ConnectionInfo(server='https://127.0.0.1:1')
kopf_handlers.login = login
"""


class Replica(Command):
    """A replica of the controller whose probes can be asked."""

    def __init__(self, log: Path, port: int, kubeconfig: Path, namespace: str, after: str = "") -> None:
        options = (f"--kubeconfig={kubeconfig}", f"--namespace={namespace}", f"--listen=127.0.0.1:{port}")
        super().__init__(log, "controller", *options, after=after)
        self.port = port

    def probe(self, path: str) -> str:
        """What a probe answers; nothing while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            return ""

    def until_ready_says(self, text: str) -> None:
        """Wait until the readiness probe's answer contains a text."""
        until(lambda: text in self.probe("readyz"), 60, lambda: f"{self.probe('readyz')}{self.output()}")


def test_leader_and_standby_are_both_ready(
    installed: ControlPlane, namespace: str, tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    ports = unused_tcp_port_factory(), unused_tcp_port_factory()
    with Replica(tmp_path / "first", ports[0], installed.kubeconfig, namespace) as first:
        await_leadership(first)
        with Replica(tmp_path / "second", ports[1], installed.kubeconfig, namespace) as second:
            until(lambda: "standing by" in second.output())
            first.until_ready_says("ok\n")
            second.until_ready_says("ok\n")
            assert [replica.probe("metrics").count("kubeballoon_leader 1.0") for replica in (first, second)] == [1, 0]
            assert "kubeballoon_rounds_total" in first.probe("metrics")


def test_a_leader_that_watches_nothing_is_alive_and_not_ready(
    installed: ControlPlane, namespace: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    with Replica(tmp_path / "log", unused_tcp_port, installed.kubeconfig, namespace, WATCHES_NOTHING) as leader:
        await_leadership(leader)
        leader.until_ready_says("watches are not in step: ")
        assert "namespaces" in leader.probe("readyz")
        assert leader.probe("healthz") == "ok\n"


def test_a_standby_that_may_not_list_a_kind_is_not_ready_and_names_it(
    installed: ControlPlane, namespace: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    ours = "kubeballoon.io"
    kubeconfig = account_with_leases(installed, namespace, "blind", ("", "namespaces"), (ours, "memorypolicies"))
    leading = (f"--kubeconfig={installed.kubeconfig}", f"--namespace={namespace}")
    with Command(tmp_path / "leader", "controller", *leading) as leader:
        await_leadership(leader)
        with Replica(tmp_path / "log", unused_tcp_port, kubeconfig, namespace) as standby:
            until(lambda: "standing by" in standby.output())
            standby.until_ready_says("cannot list resource")
            assert "processorpolicies" in standby.probe("readyz")
            assert standby.probe("healthz") == "ok\n"
