"""Agents of the cluster take the cgroup of their node's pods for the node's memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml

from hack.testbed.kubevirt import node_limit


def daemon_set() -> dict[str, Any]:
    container: dict[str, Any] = {"name": "agent", "args": ["agent"], "volumeMounts": [{"name": "pods"}]}
    pod = {"containers": [container], "volumes": [{"name": "pods"}]}
    return {"kind": "DaemonSet", "spec": {"template": {"spec": pod}}}


def test_what_helm_renders_is_changed_in_the_agents_alone() -> None:
    manifests = yaml.safe_dump_all([{"kind": "Service"}, daemon_set()]) + "---\n"
    command = [sys.executable, "-I", node_limit.__file__, "/sys/fs/cgroup/nodes"]
    changed = subprocess.run(command, input=manifests, capture_output=True, text=True, check=True, timeout=60).stdout
    service, agents = yaml.safe_load_all(changed)
    assert service == {"kind": "Service"}
    pod = agents["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["agent", "--node-memory-cgroup=/nodes/$(NODE_NAME)/kubepods"]
    assert pod["containers"][0]["volumeMounts"][1]["mountPath"] == "/nodes"
    assert pod["volumes"][1]["hostPath"] == {"path": "/sys/fs/cgroup/nodes"}


def test_a_chart_without_agents_is_refused() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        node_limit.limit([{"kind": "Service"}], "/sys/fs/cgroup")
