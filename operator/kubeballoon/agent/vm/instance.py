"""What the agent reads of a VirtualMachineInstance: pure functions of the object as KubeVirt writes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kubeballoon.agent.problem import Problem
from kubeballoon.api import names
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import ProcessorMethod
from kubeballoon.vocabulary import ReclaimMethod

T = TypeVar("T")
Object = Mapping[str, Any]

OVERHEAD = 96 << 20
"""Bytes of QEMU's own memory, for instances whose status does not tell (KubeVirt before 1.9): what it was seen to need
under TCG, and more than it needs under KVM. What else is in its pod counts as in use by others."""


@dataclass(frozen=True, slots=True)
class InstanceProcessors:
    """What is asked of a VM's processors.

    Attributes:
        size: how many the VM was given.
        target: how many it may use, None for all.
        fault: an annotation that cannot be read, as one line.
        ineligibility: why none may be taken from it, as (reason, message).
    """

    size: int = 1
    target: int | None = None
    policy: str | None = None
    why: str | None = None
    method: ProcessorMethod = ProcessorMethod.AUTO
    fault: str | None = None
    ineligibility: Problem | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """A VM on this node.

    Attributes:
        pods: uids of its launcher pods on this node.
        size: the memory of its spec, bytes; 0 when the spec does not tell.
        target, minimum: what its annotations ask, bytes; None when they do not.
        fault: an annotation that cannot be read, as one line.
        ineligibility: why it must not be ballooned, as (reason, message).
        hold: why it must not be moved for now, as (reason, message).
        method: how its memory is to be reserved; Auto where its annotations leave that to the agent.
        processors: what is asked of its processors.
        return_all: why it must have all of its memory for now, as (reason, message).
    """

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    pods: tuple[str, ...]
    size: int
    overhead: int
    target: int | None = None
    minimum: int | None = None
    policy: str | None = None
    why: str | None = None
    fault: str | None = None
    ineligibility: Problem | None = None
    hold: Problem | None = None
    return_all: Problem | None = None
    owner_excluded: bool = False
    method: ReclaimMethod = ReclaimMethod.AUTO
    processors: InstanceProcessors = field(default_factory=InstanceProcessors)

    @property
    def domain(self) -> str:
        """The name KubeVirt gives its libvirt domain."""
        return f"{self.namespace}_{self.name}"


@dataclass(slots=True)
class _Annotations:
    """Annotations, and the first that could not be read."""

    values: Mapping[str, str]
    fault: str | None = field(default=None)

    def read(self, name: str, parse: Callable[[str], T]) -> T | None:
        """An annotation, parsed; None where there is none."""
        if name not in self.values:
            return None
        try:
            return parse(self.values[name])
        except ValueError as error:
            self.fault = self.fault or f"annotation {name}: {error}"
            return None

    def size(self, name: str) -> int | None:
        """A quantity annotation in bytes."""
        return self.read(name, parse_quantity)


def read(vmi: Object, node: str) -> Instance | None:
    """The VM, or None when it does not run on ``node``."""
    status = vmi.get("status", {})
    if status.get("nodeName") != node or status.get("phase") != "Running":
        return None
    metadata = vmi["metadata"]
    annotations = _Annotations(metadata.get("annotations", {}))
    target, minimum = annotations.size(names.MEMORY_TARGET), annotations.size(names.MEMORY_MIN)
    method = annotations.read(names.MEMORY_METHOD, ReclaimMethod)
    return Instance(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        labels=metadata.get("labels", {}),
        pods=tuple(sorted(pod for pod, where in status.get("activePods", {}).items() if where == node)),
        size=_size(vmi),
        overhead=_quantity(status.get("memory", {}).get("memoryOverhead")) or OVERHEAD,
        target=target,
        minimum=minimum,
        policy=annotations.values.get(names.POLICY),
        why=annotations.values.get(names.REASON),
        fault=annotations.fault,
        ineligibility=ineligibility(vmi),
        hold=_hold(status),
        return_all=_return_all(vmi),
        owner_excluded=annotations.values.get(names.EXCLUDE) == "true",
        method=method or ReclaimMethod.AUTO,
        processors=_processor_request(vmi),
    )


def _processor_request(vmi: Object) -> InstanceProcessors:
    annotations = _Annotations(vmi["metadata"].get("annotations", {}))
    method = annotations.read(names.PROCESSOR_METHOD, ProcessorMethod)
    domain = vmi.get("spec", {}).get("domain", {})
    return InstanceProcessors(
        size=_processors(vmi),
        target=annotations.read(names.PROCESSOR_TARGET, int),
        policy=annotations.values.get(names.PROCESSOR_POLICY),
        why=annotations.values.get(names.PROCESSOR_REASON),
        method=method or ProcessorMethod.AUTO,
        fault=annotations.fault,
        ineligibility=_first(_processor_ineligibilities(domain.get("cpu", {}))),
    )


def _processors(vmi: Object) -> int:
    """How many processors the VM has: the topology KubeVirt reports, else the one ordered."""
    cpu = vmi.get("spec", {}).get("domain", {}).get("cpu", {})
    topology = {**cpu, **vmi.get("status", {}).get("currentCPUTopology", {})}
    return math.prod(int(topology.get(part) or 1) for part in ("sockets", "cores", "threads"))


def ineligibility(vmi: Object) -> Problem | None:
    """Say why a VM must not be ballooned: the first of KubeVirt's conditions that holds; None where none does."""
    spec = vmi.get("spec", {})
    return _first(_memory_ineligibilities(vmi, spec, spec.get("domain", {})))


def _first(reasons: Iterable[tuple[AgentReason, bool]]) -> Problem | None:
    return next((Problem(reason, reason.meaning) for reason, holds in reasons if holds), None)


def _memory_ineligibilities(vmi: Object, spec: Object, domain: Object) -> Iterable[tuple[AgentReason, bool]]:
    devices, memory, cpu = domain.get("devices", {}), domain.get("memory", {}), domain.get("cpu", {})
    yield AgentReason.HUGEPAGES, bool(memory.get("hugepages"))
    yield from _processor_ineligibilities(cpu)
    yield AgentReason.VFIO, _passes_through(spec, devices)
    yield AgentReason.MEMORY_LOCKED, memory.get("reservedOverhead", {}).get("memLock") == "Required"
    yield AgentReason.LAUNCH_SECURITY, bool(domain.get("launchSecurity"))
    yield AgentReason.GUARANTEED, vmi.get("status", {}).get("qosClass") == "Guaranteed"


def _processor_ineligibilities(cpu: Object) -> Iterable[tuple[AgentReason, bool]]:
    yield AgentReason.DEDICATED_CPU, bool(cpu.get("dedicatedCpuPlacement"))
    yield AgentReason.REALTIME, "realtime" in cpu
    yield AgentReason.NUMA_PASSTHROUGH, "guestMappingPassthrough" in cpu.get("numa", {})


def _passes_through(spec: Object, devices: Object) -> bool:
    interfaces, networks = devices.get("interfaces", []), spec.get("networks", [])
    return (
        bool(devices.get("hostDevices") or devices.get("gpus"))
        or any("sriov" in interface for interface in interfaces)
        or any("resourceClaim" in network for network in networks)
    )


def _hold(status: Object) -> Problem | None:
    migration = status.get("migrationState") or {}
    under_way = migration.get("migrationUid") and not (migration.get("completed") or migration.get("failed"))
    if under_way:
        return Problem(AgentReason.MIGRATING, "it is migrating: its balloon stays as it is until that ends")
    return Problem(AgentReason.PAUSED, AgentReason.PAUSED.meaning) if _has(status, "Paused") else None


def _return_all(vmi: Object) -> Problem | None:
    """KubeVirt sizes the pod by what the guest lacks of its new memory, so nothing may be lacking to a balloon."""
    status = vmi.get("status", {})
    asked = _quantity(vmi.get("spec", {}).get("domain", {}).get("memory", {}).get("guest"))
    requested = _quantity(status.get("memory", {}).get("guestRequested"))
    if _has(status, "HotMemoryChange") or (asked and requested and asked != requested):
        return Problem(AgentReason.MEMORY_HOTPLUG, "its memory is being resized: it has all of it until that is done")
    return None


def _has(status: Object, condition: str) -> bool:
    return any(each.get("type") == condition and each.get("status") == "True" for each in status.get("conditions", []))


def _size(vmi: Object) -> int:
    """KubeVirt's own order: memory.guest, else the request, else the limit."""
    domain = vmi.get("spec", {}).get("domain", {})
    resources = domain.get("resources", {})
    candidates = (
        domain.get("memory", {}).get("guest"),
        resources.get("requests", {}).get("memory"),
        resources.get("limits", {}).get("memory"),
    )
    return next((size for size in map(_quantity, candidates) if size), 0)


def _quantity(value: str | int | None) -> int | None:
    """A quantity KubeVirt wrote, in bytes, which may be in thousandths: 1.1Gi becomes that; None when it is absent."""
    if isinstance(value, str) and value.endswith("m"):
        return -(-int(value[:-1]) // 1000)
    return None if value is None else parse_quantity(value)
