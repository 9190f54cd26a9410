"""Writes and reads objects in the API server: policies, VMIs, and a FakeNode with the report of an agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hack.testbed.chart import NAMESPACE, RELEASE
from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import GuestSpec, vmi_object
from kubeballoon.api.names import CONTROLLER_ANNOTATIONS
from kubeballoon.api.quantity import parse_quantity
from tests.support.waiting import until

MIB = 1 << 20
Object = dict[str, Any]
_REQUEST_FIELDS = ("target", "policy", "requestedMethod")  # of a report's processors: copied from annotations

AS_CONTROLLER = (f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-controller", "--as-group=system:masters")
"""Options that make kubectl act as the controller, which alone may write requests.

The group lets it read a VMI, as `kubectl patch` does first: the controller itself may only patch.
"""


def memory_policy(name: str, **spec: Any) -> Object:
    """Return a MemoryPolicy that selects every VM, unless ``spec`` has a selector of its own."""
    return {
        "apiVersion": "kubeballoon.io/v1alpha1",
        "kind": "MemoryPolicy",
        "metadata": {"name": name},
        "spec": {"selector": {}, **spec},
    }


def processor_policy(name: str, **spec: Any) -> Object:
    """Return a ProcessorPolicy that selects every VM, unless ``spec`` has a selector of its own."""
    return {**memory_policy(name, **spec), "kind": "ProcessorPolicy"}


def node_policy(name: str, **spec: Any) -> Object:
    """Return a NodePolicy that selects every node, unless ``spec`` has a selector of its own."""
    return {**memory_policy(name, **spec), "kind": "NodePolicy"}


def node_of_large_vms(name: str, *needs: int, available: str = "12Gi", other: str = "0", **vm: Any) -> Object:
    """Return the status of a node with 15 GiB for VMs of 8 GiB that hold 5 GiB, and work with so many GiB.

    Args:
        name: the node's name, with which its VMs' names begin.
        needs: what each VM works with.
        available: what the node has available.
        other: what others than VMs use there.
        vm: further fields of each VM's report.
    """
    vms = [
        {
            "uid": f"{name}-{number}",
            "namespace": "shop",
            "name": f"{name}-{number}",
            "size": "8Gi",
            "actual": "5Gi",
            "need": f"{need}Gi",
            "presentNeed": f"{need}Gi",
            "migratability": "Migratable",
            **vm,
        }
        for number, need in enumerate(needs)
    ]
    memory = {"total": "16Gi", "available": available, "other": other, "reserve": "1Gi"}
    return {"memory": memory, "virtualMachines": vms}


def set_taints(plane: ControlPlane, node: str, *taints: Object) -> None:
    """Give a Node these taints and no other: the API server taints each new Node as not ready."""
    patch = json.dumps({"spec": {"taints": list(taints)}})
    plane.kubectl("patch", "node", node, "--type=merge", f"--patch={patch}")


def get(plane: ControlPlane, *what: str) -> Object:
    """Return the object, or the list of objects, that `kubectl get WHAT` finds."""
    answer: Object = json.loads(plane.kubectl("get", *what, "--output=json"))
    return answer


def condition(plane: ControlPlane, policy: str, kind: str, of: str = "mempol") -> Object:
    """Return the condition of type ``kind`` of a policy; empty if it has none. ``of`` is the policy's short name."""
    status = get(plane, of, policy).get("status", {})
    return next((each for each in status.get("conditions", []) if each["type"] == kind), {})


def controller_annotations(plane: ControlPlane, namespace: str, name: str) -> dict[str, str]:
    """Return the controller's annotations on a VMI; the keys are without the prefix."""
    annotations = get(plane, "vmi", name, f"--namespace={namespace}")["metadata"].get("annotations", {})
    return {key.split("/")[1]: annotations[key] for key in CONTROLLER_ANNOTATIONS if key in annotations}


def is_allowed(plane: ControlPlane, user: str, verb: str, kind: str, **where: str) -> bool:
    """Whether a user may do ``verb`` to a resource; a role binding counts only a moment after it was created.

    ``where`` gives other resource attributes, such as another group or a namespace.
    """
    resource = {"group": "kubeballoon.io", "resource": kind, "verb": verb, **where}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": resource},
    }
    answer = plane.kubectl("create", "--output=json", "--filename=-", stdin=json.dumps(review))
    return bool(json.loads(answer)["status"]["allowed"])


@contextmanager
def migration_rights(plane: ControlPlane, namespace: str) -> Iterator[Path]:
    """Give the controller's account all rights on migrations of KubeVirt's, and yield a kubeconfig with its token."""
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "test-migrate"}}
    resources = ["virtualmachineinstancemigrations", "virtualmachineinstancemigrations/status"]
    rules = [{"apiGroups": ["kubevirt.io"], "resources": resources, "verbs": ["*"]}]
    plane.apply({**head, "kind": "ClusterRole", "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test-migrate"}
    account = {"kind": "ServiceAccount", "name": f"{RELEASE}-controller", "namespace": NAMESPACE}
    plane.apply({**head, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [account]})
    user = f"system:serviceaccount:{NAMESPACE}:{RELEASE}-controller"
    where = {"group": "kubevirt.io", "namespace": namespace}
    until(lambda: is_allowed(plane, user, "create", "virtualmachineinstancemigrations", **where))
    yield plane.service_account_kubeconfig(NAMESPACE, f"{RELEASE}-controller")
    plane.kubectl("delete", "clusterrolebinding,clusterrole", "test-migrate")


_LIMITS = {
    "ample": str(72 * MIB),
    "tight": str(48 * MIB),
    "scarce": str(24 * MIB),
    "critical": str(12 * MIB),
    "evictionThreshold": "0",
    "evictionMargin": "0",
}


class FakeNode:
    """A node without kubelet and guests. The test writes the report that its agent would write."""

    def __init__(self, plane: ControlPlane, name: str, namespace: str, total: int = 1200 * MIB) -> None:
        """Create the node, with ``total`` bytes of memory for VMs and no reserve."""
        self.plane = plane
        self.name = name
        self.namespace = namespace
        self.total = total
        self.vms: dict[str, Object] = {}
        self.processors: Object = {"count": 4, "usage": 10, "stall": 0}
        self.labels: dict[str, str] = {}
        self.limits: Object = {}  # in the place of those of a node that no policy governs
        plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        plane.apply({**self._head(), "metadata": {"name": name}})

    def add(self, name: str, *, size: int = 512 * MIB, labels: dict[str, str] | None = None, **report: Any) -> None:
        """Create a VMI with an idle guest, and add it to the next report, in which ``report`` overrides fields."""
        spec = GuestSpec(name=name, namespace=self.namespace, memory_bytes=size)
        self.plane.apply(vmi_object(spec, f"pod-{name}", self.name, labels=labels))
        metadata = get(self.plane, "vmi", name, f"--namespace={self.namespace}")["metadata"]
        self.vms[name] = {
            "uid": metadata["uid"],
            "namespace": self.namespace,
            "name": name,
            "labels": metadata["labels"],
            "size": str(size),
            "actual": str(size),
            "resident": str(size),
            "overhead": "0",
            "need": str(100 * MIB),
            "processors": {"size": 4, "online": 4, "offlinable": 3, "method": "GuestAgent"},
            **report,
        }

    def report(self, *, state: str = "Ample", follow: bool = False, age: float = 0.0) -> None:
        """Write the report, dated ``age`` seconds ago.

        With ``follow``, every guest has followed its request. The requests are read from the VMIs' annotations.
        """
        for name, vm in self.vms.items():
            annotations = controller_annotations(self.plane, self.namespace, name)
            for field, key in (("target", "memory-target"), ("min", "memory-min"), ("policy", "policy")):
                vm.pop(field, None)
                if key in annotations:
                    vm[field] = annotations[key]
            processors = {key: value for key, value in vm["processors"].items() if key not in _REQUEST_FIELDS}
            vm["processors"] = processors
            if "processor-target" in annotations:
                processors["target"] = int(annotations["processor-target"])
                processors["policy"] = annotations["processor-policy"]
            processors["requestedMethod"] = annotations.get("processor-method", "Auto")
            vm["requestedMethod"] = annotations.get("memory-method", "Auto")
            if follow:
                vm["actual"] = annotations.get("memory-target", vm["size"])
                processors["online"] = processors.get("target", processors["size"])
        moment = datetime.now(UTC) - timedelta(seconds=age)
        status = {
            "observedAt": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "labels": self.labels,
            "memory": {"total": str(self.total), "available": str(self.total // 2), "other": "0", "reserve": "0"},
            "limits": {**_LIMITS, "capacity": str(self.total), **self.limits},
            "processors": self.processors,
            "state": state,
            "virtualMachines": list(self.vms.values()),
            "conditions": [],
        }
        document = json.dumps({**self._head(), "metadata": {"name": self.name}, "status": status})
        self.plane.kubectl(
            "apply", "--server-side", "--force-conflicts", "--subresource=status", "--filename=-", stdin=document
        )

    def targets(self) -> dict[str, int]:
        """Return the requested target of each VM in bytes; VMs without a request are left out."""
        every = {name: controller_annotations(self.plane, self.namespace, name) for name in self.vms}
        return {name: parse_quantity(found["memory-target"]) for name, found in every.items() if found}

    def processor_targets(self) -> dict[str, int]:
        """Return the requested number of processors of each VM; VMs without a request are left out."""
        every = {
            name: controller_annotations(self.plane, self.namespace, name).get("processor-target") for name in self.vms
        }
        return {name: int(target) for name, target in every.items() if target is not None}

    def remove(self) -> None:
        """Delete the node, its report, and the VMIs in its namespace."""
        self.plane.kubectl("delete", "nodepressure", self.name, "--wait=false")
        self.plane.kubectl("delete", "node", self.name, "--wait=false")
        self.plane.kubectl("delete", "vmi", "--all", f"--namespace={self.namespace}", "--wait=false")

    def _head(self) -> Object:
        return {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure"}
