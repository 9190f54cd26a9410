"""Objects in the API server, as tests write and read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hack.testbed.chart import NAMESPACE, RELEASE
from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import GuestSpec, vmi_object
from kubeballoon.api.names import CONTROLLER_ANNOTATIONS
from kubeballoon.api.quantity import parse_quantity

MIB = 1 << 20
Object = dict[str, Any]
_ECHOED = ("target", "policy", "requestedMethod")

AS_CONTROLLER = (f"--as=system:serviceaccount:{NAMESPACE}:{RELEASE}-controller", "--as-group=system:masters")
"""kubectl as the one that admission lets write requests; it reads before it patches, which the controller may not."""


def memory_policy(name: str, **spec: Any) -> Object:
    """A MemoryPolicy for every VM, but for what ``spec`` says."""
    return {
        "apiVersion": "kubeballoon.io/v1alpha1",
        "kind": "MemoryPolicy",
        "metadata": {"name": name},
        "spec": {"selector": {}, **spec},
    }


def processor_policy(name: str, **spec: Any) -> Object:
    """A ProcessorPolicy for every VM, but for what ``spec`` says."""
    return {**memory_policy(name, **spec), "kind": "ProcessorPolicy"}


def get(plane: ControlPlane, *what: str) -> Object:
    """An object, or a list of them."""
    answer: Object = json.loads(plane.kubectl("get", *what, "--output=json"))
    return answer


def condition(plane: ControlPlane, policy: str, kind: str, of: str = "mempol") -> Object:
    """A condition of a policy; empty while there is none."""
    status = get(plane, of, policy).get("status", {})
    return next((each for each in status.get("conditions", []) if each["type"] == kind), {})


def controller_annotations(plane: ControlPlane, namespace: str, name: str) -> dict[str, str]:
    """The controller's annotations on a VMI, without their prefix."""
    annotations = get(plane, "vmi", name, f"--namespace={namespace}")["metadata"].get("annotations", {})
    return {key.split("/")[1]: annotations[key] for key in CONTROLLER_ANNOTATIONS if key in annotations}


def is_allowed(plane: ControlPlane, user: str, verb: str, kind: str, **where: str) -> bool:
    """Whether a user may: a role counts a moment after it was bound. ``where`` names other groups, or a namespace."""
    resource = {"group": "kubeballoon.io", "resource": kind, "verb": verb, **where}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": resource},
    }
    answer = plane.kubectl("create", "--output=json", "--filename=-", stdin=json.dumps(review))
    return bool(json.loads(answer)["status"]["allowed"])


class FakeNode:
    """A node without a kubelet, and the report that its agent would write, written by the test."""

    def __init__(self, plane: ControlPlane, name: str, namespace: str, total: int = 1200 * MIB) -> None:
        """Make the node; ``total`` bytes of it are VMs' and 0 are reserved."""
        self.plane = plane
        self.name = name
        self.namespace = namespace
        self.total = total
        self.vms: dict[str, Object] = {}
        self.processors: Object = {"count": 4, "usage": 10, "stall": 0}
        plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        plane.apply({**self._head(), "metadata": {"name": name}})

    def add(self, name: str, *, size: int = 512 * MIB, labels: dict[str, str] | None = None, **report: Any) -> None:
        """Make a VMI, and report it, with an idle guest."""
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
        """Write the report; with ``follow`` every guest has done what was asked of it by then."""
        for name, vm in self.vms.items():
            wanted = controller_annotations(self.plane, self.namespace, name)
            for field, key in (("target", "memory-target"), ("min", "memory-min"), ("policy", "policy")):
                vm.pop(field, None)
                if key in wanted:
                    vm[field] = wanted[key]
            seen = vm["processors"] = {key: vm["processors"][key] for key in vm["processors"] if key not in _ECHOED}
            if "processor-target" in wanted:
                seen["target"], seen["policy"] = int(wanted["processor-target"]), wanted["processor-policy"]
            seen["requestedMethod"] = wanted.get("processor-method", "Auto")
            vm["requestedMethod"] = wanted.get("memory-method", "Auto")
            if follow:
                vm["actual"] = wanted.get("memory-target", vm["size"])
                seen["online"] = seen.get("target", seen["size"])
        moment = datetime.now(UTC) - timedelta(seconds=age)
        status = {
            "observedAt": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "memory": {"total": str(self.total), "available": str(self.total // 2), "other": "0", "reserve": "0"},
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
        """What is asked of each VM, in bytes; nothing for those of which nothing is."""
        every = {name: controller_annotations(self.plane, self.namespace, name) for name in self.vms}
        return {name: parse_quantity(found["memory-target"]) for name, found in every.items() if found}

    def processor_targets(self) -> dict[str, int]:
        """How many processors each VM is asked to keep; nothing for those that are asked nothing."""
        every = {
            name: controller_annotations(self.plane, self.namespace, name).get("processor-target") for name in self.vms
        }
        return {name: int(target) for name, target in every.items() if target is not None}

    def remove(self) -> None:
        """Take the node, its report and its VMIs away."""
        self.plane.kubectl("delete", "nodepressure", self.name, "--wait=false")
        self.plane.kubectl("delete", "node", self.name, "--wait=false")
        self.plane.kubectl("delete", "vmi", "--all", f"--namespace={self.namespace}", "--wait=false")

    def _head(self) -> Object:
        return {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure"}
