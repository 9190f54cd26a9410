"""Where in the API things are."""

from __future__ import annotations

from kubeballoon.api.names import GROUP, VERSION

_OURS = f"/apis/{GROUP}/{VERSION}"

MEMORY_POLICIES = f"{_OURS}/memorypolicies"
PROCESSOR_POLICIES = f"{_OURS}/processorpolicies"
NODE_PRESSURES = f"{_OURS}/nodepressures"
NAMESPACES = "/api/v1/namespaces"
NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/leases"
INSTANCES = "/apis/kubevirt.io/v1/virtualmachineinstances"


def ours(plural: str) -> str:
    """A collection of ours."""
    return f"{_OURS}/{plural}"


def policy_status(policies: str, name: str) -> str:
    """The status of one of the collection ``policies``."""
    return f"{policies}/{name}/status"


def node_pressure(name: str) -> str:
    """A node's NodePressure."""
    return f"{NODE_PRESSURES}/{name}"


def node_pressure_status(name: str) -> str:
    """Its status."""
    return f"{node_pressure(name)}/status"


def node(name: str) -> str:
    """A node."""
    return f"{NODES}/{name}"


def instance(namespace: str, name: str) -> str:
    """A VirtualMachineInstance."""
    return f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}"


def events(namespace: str) -> str:
    """A namespace's events."""
    return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"


def leases(namespace: str) -> str:
    """A namespace's leases."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
