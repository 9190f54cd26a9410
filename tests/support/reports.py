"""Creates the objects of real guests, as KubeVirt would, writes requests, and reads what agents report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import LabNode, LauncherPod, node_object, vmi_object
from tests.support.cluster import AS_CONTROLLER, memory_policy
from tests.support.waiting import eventually


@contextmanager
def presented(plane: ControlPlane, node: LabNode, guest: LauncherPod) -> Iterator[LauncherPod]:
    """Create a guest's node, VMI and policy inside the context; the guest has all of its memory before and after."""
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
    """Return the report of the guest by the node's agent; empty before the first."""
    found = plane.kubectl("get", "nodepressure", node.name, "--ignore-not-found", "--output=json")
    status = json.loads(found).get("status", {}) if found.strip() else {}
    vms = status.get("virtualMachines", [])
    return next((vm for vm in vms if vm["name"] == guest.spec.name), {})


def annotate(plane: ControlPlane, guest: LauncherPod, **annotations: str | None) -> None:
    """Write annotations on the guest's VMI as the controller does; None removes an annotation."""
    keys = {f"kubeballoon.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
    patch = json.dumps({"metadata": {"annotations": keys}})
    plane.kubectl("patch", "vmi", guest.spec.name, "--type=merge", f"--patch={patch}", *AS_CONTROLLER)
