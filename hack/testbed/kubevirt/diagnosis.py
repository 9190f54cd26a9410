"""What a cluster says of itself when something in it failed: objects, events, reports, and the ends of logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.controlplane.errors import last_lines

_SECONDS = 20.0  # for each question: there are many, and the API server may be what failed
_EVENTS = 60
_OBJECTS = "node,pod,vmi,vmim,mempol,cpupol,nodepol,nodepressure"
_FILES = ("*.log", "*/*.log", "*/logs/*.log")  # not those of pods, which lie deeper
_LOADS = (Path("/proc/loadavg"), Path("/proc/meminfo"))
# Pods whose logs are shown, by their labels, and how many lines of each container.
_LOGS = {
    "app.kubernetes.io/name=kubeballoon": 60,
    "kubevirt.io=virt-launcher": 25,
    "kubevirt.io!=virt-launcher,app.kubernetes.io/name!=kubeballoon": 15,
}


def sections(plane: ControlPlane) -> Iterator[tuple[str, str]]:
    """What the cluster's API tells, as titles and texts; where there is no answer the error is the text."""
    yield "load of the machine", "\n".join(line for path in _LOADS for line in path.read_text().splitlines()[:3])
    yield "objects", _ask(plane, "get", _OBJECTS, "--all-namespaces", "--output=wide")
    events = _ask(plane, "get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp")
    yield "events", "\n".join(events.splitlines()[-_EVENTS:])
    yield "reports", _ask(plane, "get", "nodepressure", "--output=yaml")
    for labels, lines in _LOGS.items():
        yield from _pod_logs(plane, labels, lines)


def log_ends(directory: Path) -> Iterator[tuple[str, str]]:
    """The ends of the logs of what runs outside of pods: control plane, kubelets, containerds."""
    for pattern in _FILES:
        for path in sorted(directory.glob(pattern)):
            yield str(path), "\n".join(last_lines(path))


def _pod_logs(plane: ControlPlane, labels: str, lines: int) -> Iterator[tuple[str, str]]:
    listed = _ask(plane, "get", "pod", "--all-namespaces", f"--selector={labels}", "--output=json")
    try:
        pods = json.loads(listed)["items"]
    except ValueError:
        yield f"pods with {labels}", listed
        return
    for pod in pods:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        logs = ("logs", name, f"--namespace={namespace}", "--all-containers", f"--tail={lines}")
        yield f"log of {namespace}/{name}", _ask(plane, *logs)
        if any(status["restartCount"] for status in pod["status"].get("containerStatuses", [])):
            yield f"log of {namespace}/{name} before it was restarted", _ask(plane, *logs, "--previous")


def _ask(plane: ControlPlane, *question: str) -> str:
    try:
        return plane.kubectl(*question, seconds=_SECONDS)
    except ControlPlaneError as error:
        return str(error)
