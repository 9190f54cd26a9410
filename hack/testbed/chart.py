"""Installs the chart for tests and demo: helm renders it, and kubectl applies it.

So tests run with the accounts, rights and CRDs that users install. Deployments, DaemonSets and Jobs are left out, as
nothing in the testbed runs their pods.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hack.testbed.controlplane import ControlPlane
from hack.testbed.controlplane.commands import run
from hack.testbed.tools import HELM

CHART = Path(__file__).resolve().parents[2] / "charts/kubeballoon"
NAMESPACE = "kubeballoon-system"
RELEASE = "kubeballoon"
KUBEVIRT_API = "kubevirt.io/v1/VirtualMachineInstance"
_SECONDS = 60.0
_WORKLOADS = ("DaemonSet", "Deployment", "Job", "PodDisruptionBudget")

Object = dict[str, Any]


def helm(*arguments: str | Path, kubeconfig: Path | None = None, seconds: float = _SECONDS) -> str:
    """Run helm, and return what it prints. It uses the given kubeconfig, or no cluster.

    Raises:
        ControlPlaneError: helm failed (the message has its stderr), or missed the deadline of ``seconds``.
    """
    cluster = ("--kubeconfig", kubeconfig) if kubeconfig is not None else ()
    return run([HELM.path(), *arguments, *cluster], seconds=seconds)


def render(*options: str, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """Return the chart's objects, hooks included, as for a cluster with KubeVirt; ``options`` are `helm template`'s."""
    where = ("template", release, CHART, "--namespace", namespace, "--api-versions", KUBEVIRT_API)
    return [item for item in yaml.safe_load_all(helm(*where, *options)) if item]


def install(plane: ControlPlane) -> None:
    """Install CRDs, accounts with their rights, and admission policies, which take effect about a second later."""
    rendered = render()
    definitions = [item for item in rendered if item["kind"] == "CustomResourceDefinition"]
    plane.apply_crds(definitions)
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    plane.apply([item for item in rendered if item not in definitions and item["kind"] not in _WORKLOADS])


def agent_environment() -> dict[str, str]:
    """Return the environment variables that the chart sets for all agents; NODE_NAME, which differs, is left out."""
    (daemons,) = (item for item in render() if item["kind"] == "DaemonSet")
    (container,) = daemons["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def agent_kubeconfig(plane: ControlPlane, node: str) -> Path:
    """Create a pod for the agent on a node, and write a kubeconfig with a token that is bound to it."""
    name = f"{RELEASE}-agent-{node}"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "nodeName": node,
            "serviceAccountName": f"{RELEASE}-agent",
            "containers": [{"name": "agent", "image": "none"}],
        },
    }
    plane.apply(pod)
    return plane.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-agent", pod=name)
