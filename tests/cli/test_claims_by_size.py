"""``status`` says how much of the VMs' memory their pods have requested: more is claimed by their size alone."""

from __future__ import annotations

import argparse
import io
from datetime import UTC, datetime

import pytest

from kubeballoon.api.v1alpha1 import NodePressure
from kubeballoon.cli import status
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.output import Output
from kubeballoon.cluster.reader import ApiReader

HALF, ALL, ABSURD = "4Gi", None, "1024Gi"


def shown(monkeypatch: pytest.MonkeyPatch, *pod_requests: str | None) -> tuple[int, str]:
    """Return the bytes that ``status`` has as requested, and its line about memory, of VMs of 8 GiB."""
    memory = {"total": "64Gi", "available": "40Gi", "other": "1Gi", "reserve": "4Gi"}
    vms = [
        {"uid": f"u{number}", "namespace": "shop", "name": f"vm-{number}", "size": "8Gi", "podRequest": request}
        for number, request in enumerate(pod_requests)
    ]
    now = datetime.now(UTC)
    body = {
        "metadata": {"name": "n"},
        "status": {"observedAt": now.isoformat(), "memory": memory, "virtualMachines": vms},
    }
    view = ClusterView((), (), {}, (NodePressure.model_validate(body),), now)
    monkeypatch.setattr(status, "read_cluster", lambda _: view)
    monkeypatch.setattr(status, "read_node_policies", lambda _: ())
    monkeypatch.setattr(status, "_read_leadership", lambda _: status.Leadership("c"))
    screen = io.StringIO()
    reader = ApiReader.__new__(ApiReader)  # nothing is read through it
    status.run(argparse.Namespace(), reader, Output(None, screen, colours=False))
    (line,) = (line for line in screen.getvalue().splitlines() if line.startswith("Memory "))
    return status.overview(view, status.Leadership("c")).requested, line


def test_what_vms_claim_beyond_their_pods_requests_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    requested, line = shown(monkeypatch, HALF, ALL)
    assert requested == 12 << 30
    assert line.endswith("reclaimed of 16.0Gi, of which pods have requested 12.0Gi")


@pytest.mark.parametrize("request_", [ALL, ABSURD])
def test_nothing_is_said_where_pods_have_requested_all(monkeypatch: pytest.MonkeyPatch, request_: str | None) -> None:
    requested, line = shown(monkeypatch, request_)
    assert requested == 8 << 30
    assert "requested" not in line
