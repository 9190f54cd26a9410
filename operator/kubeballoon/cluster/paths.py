"""This module builds the paths of objects and collections in the Kubernetes API."""

from __future__ import annotations

from urllib.parse import quote

from kubeballoon.api.names import GROUP, VERSION

_OURS = f"/apis/{GROUP}/{VERSION}"

MEMORY_POLICIES = f"{_OURS}/memorypolicies"
PROCESSOR_POLICIES = f"{_OURS}/processorpolicies"
NODE_POLICIES = f"{_OURS}/nodepolicies"
NODE_PRESSURES = f"{_OURS}/nodepressures"
NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
SELF_REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
LEASES = "/apis/coordination.k8s.io/v1/leases"
KUBEVIRTS = "/apis/kubevirt.io/v1/kubevirts"
MIGRATIONS = "/apis/kubevirt.io/v1/virtualmachineinstancemigrations"
INSTANCES = "/apis/kubevirt.io/v1/virtualmachineinstances"


def ours(plural: str) -> str:
    """Build the path of all objects of one of kubeballoon's kinds."""
    return f"{_OURS}/{plural}"


def policy_status(policies: str, name: str) -> str:
    """Build the path of a policy's status; ``policies`` is the path of its collection."""
    return f"{policies}/{_segment(name)}/status"


def node_pressure(name: str) -> str:
    """Build the path of a node's NodePressure."""
    return f"{NODE_PRESSURES}/{_segment(name)}"


def node_pressure_status(name: str) -> str:
    """Build the path of the status of a node's NodePressure."""
    return f"{node_pressure(name)}/status"


def node(name: str) -> str:
    """Build the path of a Node."""
    return f"{NODES}/{_segment(name)}"


def instance(namespace: str, name: str) -> str:
    """Build the path of a VirtualMachineInstance."""
    return f"/apis/kubevirt.io/v1/namespaces/{_segment(namespace)}/virtualmachineinstances/{_segment(name)}"


def migrations(namespace: str) -> str:
    """Build the path of a namespace's VirtualMachineInstanceMigrations."""
    return f"/apis/kubevirt.io/v1/namespaces/{_segment(namespace)}/virtualmachineinstancemigrations"


def migration(namespace: str, name: str) -> str:
    """Build the path of a VirtualMachineInstanceMigration."""
    return f"{migrations(namespace)}/{_segment(name)}"


def events(namespace: str) -> str:
    """Build the path of a namespace's events."""
    return f"/apis/events.k8s.io/v1/namespaces/{_segment(namespace)}/events"


def leases(namespace: str) -> str:
    """Build the path of a namespace's Leases."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{_segment(namespace)}/leases"


def _segment(name: str) -> str:
    """Quote a name, so that it stays one segment of a path whatever is in it.

    Raises:
        ValueError: the name is ``.`` or ``..``, which no quoting keeps HTTP clients from resolving.
    """
    if name in {".", ".."}:
        raise ValueError(f"{name!r} is no name of an object")
    return quote(name, safe="")
