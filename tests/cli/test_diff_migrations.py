"""What ``diff`` says of migrations that a NodePolicy would make."""

from __future__ import annotations

import argparse
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePolicy, NodePressure
from kubeballoon.cli import diff
from kubeballoon.cli.arguments import ExitStatus
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.cli.output import Output
from kubeballoon.cluster.reader import ApiReader
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.governance.node_policies import load_node_policy
from tests.support.cluster import Object, memory_policy, node_of_large_vms, node_policy

NOW = datetime.now(UTC)
VMS = load_memory_policy(MemoryPolicy.model_validate(memory_policy("vms", memory={"min": "10%", "headroom": "0"})))


def node(name: str, *needs: int, available: str = "12Gi", pool: str = "all", migratable: bool = True) -> NodePressure:
    """A node with 15 GiB for VMs of 8 GiB that hold 5 GiB, and work with so many GiB."""
    migratability = "Migratable" if migratable else "NotMigratable"
    reported = node_of_large_vms(name, *needs, available=available, migratability=migratability)
    status = {"observedAt": NOW.isoformat(), "labels": {"pool": pool}, **reported}
    return NodePressure.model_validate({"metadata": {"name": name}, "status": status})


def policy(mode: str) -> Object:
    selector = {"nodeSelector": {"matchLabels": {"pool": "all"}}}
    return node_policy("large", selector=selector, migration={"mode": mode, "after": "5m"})


def shown(
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    new: Object,
    *nodes: NodePressure,
    old: Object | None = None,
    form: str | None = None,
) -> tuple[int, str]:
    """Return the exit status of ``diff``, and what it prints."""
    path = directory / "policy.json"
    path.write_text(json.dumps(new))
    view = ClusterView((VMS,), (), {}, nodes, NOW)
    present = () if old is None else (load_node_policy(NodePolicy.model_validate(old)),)
    monkeypatch.setattr(diff, "read_cluster", lambda *_: view)
    monkeypatch.setattr(diff, "read_node_policies", lambda _: present)
    screen = io.StringIO()
    reader = ApiReader.__new__(ApiReader)  # nothing is read through it
    options = argparse.Namespace(filename=[str(path)], prune=False, fail_on="change")
    return diff.run(options, reader, Output(form, screen, colours=False)), screen.getvalue()


FULL, FREE = node("full", 7, 6, 5), node("free")


@pytest.mark.parametrize(
    ("mode", "would", "status"),
    [
        ("Enforce", "would migrate", ExitStatus.ATTENTION),
        ("Observe", "would only say that it would migrate", ExitStatus.DONE),
    ],
)
def test_what_a_new_policy_would_migrate_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str, would: str, status: ExitStatus
) -> None:
    found, text = shown(monkeypatch, tmp_path, policy(mode), FULL, FREE)
    line = f"NodePolicy large {would} shop/full-0 from full to free, after 5m of contention."
    assert line in text.splitlines()
    assert found is status


def test_what_is_migrated_already_is_no_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enforcing = policy("Enforce")
    assert "would migrate" not in shown(monkeypatch, tmp_path, enforcing, FULL, FREE, old=enforcing)[1]


@pytest.mark.parametrize(
    "nodes",
    [
        (node("full", 7, 6), FREE),
        (node("full", 7, 6, 5, migratable=False), FREE),
        (FULL, node("free", available="5Gi")),
        (FULL, node("free", pool="another")),
    ],
)
def test_where_nothing_would_be_migrated_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nodes: tuple[NodePressure, ...]
) -> None:
    assert "would migrate" not in shown(monkeypatch, tmp_path, policy("Enforce"), *nodes)[1]


def test_programs_read_the_migrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, text = shown(monkeypatch, tmp_path, policy("Enforce"), FULL, FREE, form="json")
    (found,) = json.loads(text)["migrations"]
    moved = {"vm": "shop/full-0", "source": "full", "target": "free"}
    assert found == {"policy": "large", "enforced": True, "after": "5m", **moved}
