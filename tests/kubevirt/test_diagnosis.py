"""What is shown of a cluster in which something failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.kubevirt import cluster, diagnosis


def pod(name: str, restarts: int) -> dict[str, Any]:
    """A pod whose one container was restarted so often."""
    return {
        "metadata": {"name": name, "namespace": "there"},
        "status": {"containerStatuses": [{"restartCount": restarts}]},
    }


class Plane:
    """A cluster with two pods of kubeballoon, of which one was restarted, and none of VMs; it has no kinds of ours."""

    def kubectl(self, *arguments: str, seconds: float) -> str:
        """Answers in time, or fails."""
        assert seconds < 60
        match arguments:
            case ("get", "pod", *_) if "--selector=app.kubernetes.io/name=kubeballoon" in arguments:
                return json.dumps({"items": [pod("steady", 0), pod("restarted", 1)]})
            case ("get", "pod", *_):
                return json.dumps({"items": []})
            case ("get", "events", *_):
                return "\n".join(f"event {number}" for number in range(200))
            case ("logs", name, *_):
                return f"{name} ended" if "--previous" in arguments else f"{name} began"
        raise ControlPlaneError("the server doesn't have a resource type")


def test_a_cluster_shows_its_last_events_and_the_logs_of_its_pods_and_what_it_does_not_answer() -> None:
    shown = dict(diagnosis.sections(cast("ControlPlane", Plane())))
    assert shown["objects"] == "the server doesn't have a resource type"
    events = shown["events"].splitlines()
    assert (len(events), events[-1]) == (60, "event 199")
    assert {title: text for title, text in shown.items() if title.startswith("log of")} == {
        "log of there/steady": "steady began",
        "log of there/restarted": "restarted began",
        "log of there/restarted before it was restarted": "restarted ended",
    }


def test_a_cluster_without_an_api_server_shows_the_ends_of_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "DIRECTORY", tmp_path)
    monkeypatch.setattr(cluster, "KUBECONFIG", tmp_path / "kubeconfig")
    for path in ("control/kube-apiserver.log", "node-1/logs/kubelet.log"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(f"{path} begins\n" + "and goes on\n" * 20 + f"{path} fails\n")
    cluster.diagnose()
    printed = capsys.readouterr().out
    assert f"--- {tmp_path}/control/kube-apiserver.log" in printed
    assert "node-1/logs/kubelet.log fails" in printed
    assert "begins" not in printed
