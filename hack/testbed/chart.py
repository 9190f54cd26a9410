"""Installs the chart for tests and demo: as helm renders it, and kubectl applies it.

So tests run with the accounts, rights and CRDs that users install. Deployments, DaemonSets and Jobs are left out, as
nothing in the testbed runs their pods.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml

from hack.testbed.controlplane import ControlPlane
from hack.testbed.controlplane.commands import run
from hack.testbed.tools import HELM

CHART = Path(__file__).resolve().parents[2] / "charts/kubeballoon"
NAMESPACE = "kubeballoon-system"
RELEASE = "kubeballoon"
SHIPPED = Path(__file__).with_name("chart.yaml")
"""The chart's objects with its own values, but for CRDs, as helm renders them; `make generate` writes it.

With it neither demo nor benchmarks need helm, which takes minutes to build.
"""
KUBEVIRT_API = "kubevirt.io/v1/VirtualMachineInstance"
_CRDS = CHART / "files/crds"
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


def template(*options: str, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """Return what `helm template` prints, hooks included, as for a cluster with KubeVirt."""
    where = ("template", release, CHART, "--namespace", namespace, "--api-versions", KUBEVIRT_API)
    return helm(*where, *options)


def render(*options: str, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """Return the chart's objects, hooks included, as for a cluster with KubeVirt; ``options`` are `helm template`'s."""
    return parse(template(*options, release=release, namespace=namespace))


def parse(text: str) -> list[Object]:
    """Return the objects in YAML documents."""
    return [item for item in yaml.safe_load_all(text) if item]


def header() -> str:
    """Return the first line of the shipped rendering of this checkout's chart, with a hash of all that helm reads."""
    digest = hashlib.sha256()
    for path in sorted(CHART.rglob("*")):
        if path.is_file() and path.suffix != ".md" and path.parent != _CRDS:
            digest.update(f"\n{path.relative_to(CHART)}\n".encode())
            digest.update(path.read_bytes())
    return f"# charts/kubeballoon {digest.hexdigest()[:16]}, rendered by `make generate`; do not edit.\n"


def is_shipped() -> bool:
    """Whether the shipped rendering is of this checkout's chart."""
    return SHIPPED.exists() and SHIPPED.read_text().startswith(header())


def default_objects() -> list[Object]:
    """Return the chart's objects with its own values, without CRDs; helm renders them only if `SHIPPED` is stale."""
    return parse(SHIPPED.read_text() if is_shipped() else without_crds(template()))


def without_crds(text: str) -> str:
    """Return what helm rendered without the CRDs, which are in files of their own."""
    documents = re.split("^---$", text, flags=re.MULTILINE)
    return "---".join(each for each in documents if "kind: CustomResourceDefinition" not in each)


def install(plane: ControlPlane) -> None:
    """Install CRDs, accounts with their rights, and admission policies, which take effect about a second later."""
    plane.apply_crds([yaml.safe_load(path.read_text()) for path in sorted(_CRDS.glob("*.yaml"))])
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    plane.apply([item for item in default_objects() if item["kind"] not in _WORKLOADS])


def agent_environment() -> dict[str, str]:
    """Return the environment variables that the chart sets for all agents; NODE_NAME, which differs, is left out."""
    (daemons,) = (item for item in default_objects() if item["kind"] == "DaemonSet")
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
