"""The Node and VMI objects that the kubelet and KubeVirt would have created for a lab node and its guests."""

from __future__ import annotations

from typing import Any

from .guest_spec import GuestSpec


def node_object(name: str, memory_bytes: int) -> dict[str, Any]:
    """Return the object of a node that may run VMs of KubeVirt."""
    resources = {"cpu": "2", "memory": str(memory_bytes), "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubevirt.io/schedulable": "true", "kubernetes.io/hostname": name}},
        "status": {"capacity": resources, "allocatable": resources},
    }


def vmi_object(
    spec: GuestSpec,
    pod_uid: str,
    node: str,
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return the VirtualMachineInstance of a guest that runs on `node` in the pod with the uid `pod_uid`.

    Its CRD has no status subresource, so one request can create it with its status.
    """
    memory = str(spec.memory_bytes)
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": {"kubevirt.io/nodeName": node, **(labels or {})},
            "annotations": annotations or {},
        },
        "spec": {
            "domain": {
                "devices": {} if spec.balloon else {"autoattachMemBalloon": False},
                "firmware": {"uuid": str(spec.firmware_uuid)},
                "memory": {"guest": memory},
                "cpu": {"cores": 1, "sockets": spec.vcpus, "maxSockets": spec.most_vcpus},
                "resources": {"requests": {"memory": str(spec.memory_bytes // 2)}},
            }
        },
        "status": {
            "phase": "Running",
            "nodeName": node,
            "activePods": {pod_uid: node},
            "qosClass": "Burstable",
            "runtimeUser": 107,
            "memory": {
                "guestAtBoot": memory,
                "guestCurrent": memory,
                "guestRequested": memory,
            },
            "conditions": [
                {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": None}
                for kind in ("Ready", "AgentConnected")
            ],
        },
    }
