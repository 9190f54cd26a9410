"""Fixtures for tests that install the chart with helm, on a cluster whose kubelets kwok stands in for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.testbed.chart import NAMESPACE
from hack.testbed.controlplane import ControlPlane, LocalControlPlane
from hack.testbed.controlplane.daemon import Daemon
from hack.testbed.controlplane.programs import Programs
from hack.testbed.tools import KWOK, TOOLS, flux_crds, monitoring_crds
from tests.support.cluster import get
from tests.support.waiting import until

VM_NODES = ("vms-1", "vms-2")
OTHER_NODE = "other"
_KWOK_STAGES = Path(__file__).with_name("kwok.yaml")


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> None:
    """Builds helm, kwok, promtool and Flux's CRDs."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    # The first build takes minutes, so its progress must be visible.
    with capture.global_and_fixture_disabled() if capture else nullcontext():
        for tool in TOOLS:
            tool.path()
        flux_crds()


@pytest.fixture(scope="session")
def cluster(tools: None) -> Iterator[ControlPlane]:  # noqa: ARG001 - they must be built before, with visible progress
    """A control plane with a scheduler, three nodes, and the CRDs of KubeVirt and of the Prometheus operator."""
    with ExitStack() as stack:
        plane = stack.enter_context(LocalControlPlane(Programs.find(), scheduling=True))
        plane.install_kubevirt_crds()
        plane.apply_crds([yaml.safe_load(path.read_text()) for path in monitoring_crds()])
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        flags = (f"--kubeconfig={plane.kubeconfig}", "--manage-all-nodes", f"--config={_KWOK_STAGES}")
        kwok = Daemon.start(KWOK.path(), flags, plane.directory)
        stack.callback(kwok.stop, 5.0)
        for name in (*VM_NODES, OTHER_NODE):
            plane.apply(_node(name, vms=name in VM_NODES))
        until(lambda: all(_is_ready(plane, name) for name in (*VM_NODES, OTHER_NODE)), 60)
        for name in (*VM_NODES, OTHER_NODE):
            # The API server taints a new node as not ready, and the controller that would remove the taint does not run
            # here. Applying the node again removes it.
            plane.apply(_node(name, vms=name in VM_NODES))
        yield plane
        kwok.check()


def _node(name: str, *, vms: bool) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    if vms:
        labels["kubevirt.io/schedulable"] = "true"
    # One node with VMs is tainted: its agent must run there all the same.
    taints = [{"key": "vms", "effect": "NoExecute"}] if name == VM_NODES[-1] else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
    }


def _is_ready(plane: ControlPlane, name: str) -> bool:
    conditions = get(plane, "node", name).get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
