"""What agents report, and guests with the objects that KubeVirt would have made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import LabNode, LauncherPod, node_object, vmi_object
from tests.support.cluster import AS_CONTROLLER, memory_policy
from tests.support.patience import eventually


@contextmanager
def presented(plane: ControlPlane, node: LabNode, guest: LauncherPod) -> Iterator[LauncherPod]:
    """The guest with its objects, a policy for what it is asked, and all of its memory, which it has again after it."""
    plane.apply(node_object(node.name, node.memory_bytes))
    plane.apply(memory_policy(node.name))
    plane.apply(vmi_object(guest.spec, guest.uid, node.name))
    try:
        _make_whole(guest)
        yield guest
        _make_whole(guest)
    finally:
        plane.kubectl("delete", "vmi", guest.spec.name)
        plane.kubectl("delete", "mempol", node.name, "--ignore-not-found")
        plane.kubectl("delete", "nodepressure", node.name, "--ignore-not-found")
        plane.kubectl("delete", "node", node.name)


def _make_whole(guest: LauncherPod) -> None:
    if guest.spec.balloon:
        guest.set_memory(guest.spec.memory_bytes)
        eventually(lambda: guest.actual_bytes() == guest.spec.memory_bytes)


def reported(plane: ControlPlane, node: LabNode, guest: LauncherPod) -> dict[str, Any]:
    """What the node's agent reports of the guest; empty before it does."""
    found = plane.kubectl("get", "nodepressure", node.name, "--ignore-not-found", "--output=json")
    status = json.loads(found).get("status", {}) if found.strip() else {}
    vms = status.get("virtualMachines", [])
    return next((vm for vm in vms if vm["name"] == guest.spec.name), {})


def annotate(plane: ControlPlane, guest: LauncherPod, **asked: str | None) -> None:
    """Ask of the guest what the controller would; None takes an annotation away."""
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in asked.items()}
    patch = json.dumps({"metadata": {"annotations": keys}})
    plane.kubectl("patch", "vmi", guest.spec.name, "--type=merge", f"--patch={patch}", *AS_CONTROLLER)
