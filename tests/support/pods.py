"""Plays the kubelet: runs the commands of pods' containers as local processes, with the pods' own tokens."""

from __future__ import annotations

import json
from pathlib import Path

from hack.testbed.controlplane import ControlPlane
from tests.support.cluster import Object, get
from tests.support.processes import Command
from tests.support.waiting import until


def running_pod(plane: ControlPlane, namespace: str, component: str) -> Object:
    """Wait for a pod of a component in phase Running, and return it."""

    def found() -> Object | None:
        selector = f"--selector=app.kubernetes.io/component={component}"
        pods = get(plane, "pods", f"--namespace={namespace}", selector)["items"]
        return next((pod for pod in pods if pod.get("status", {}).get("phase") == "Running"), None)

    pod = until(found, 60)
    assert pod is not None
    return pod


def run(plane: ControlPlane, pod: Object, log: Path) -> Command:
    """Run the arguments of the pod's only container as a process with the pod's token."""
    metadata, spec = pod["metadata"], pod["spec"]
    (container,) = spec["containers"]
    # All pods would listen on the same port of this machine.
    arguments = [argument for argument in container["args"] if not argument.startswith("--listen")]
    kubeconfig = plane.service_account_kubeconfig(
        metadata["namespace"], spec["serviceAccountName"], pod=metadata["name"]
    )
    return Command(log, *arguments, f"--kubeconfig={kubeconfig}")


def end(plane: ControlPlane, pod: Object, *, failed: bool = False) -> None:
    """Report the pod's end in its status, as the kubelet would."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    status = json.dumps({"status": {"phase": "Failed" if failed else "Succeeded"}})
    where = (f"--namespace={namespace}", "--subresource=status", "--type=merge")
    plane.kubectl("patch", "pod", name, *where, f"--patch={status}")
