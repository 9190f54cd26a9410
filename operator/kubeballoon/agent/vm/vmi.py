"""This module reads VirtualMachineInstances: what KubeVirt writes, and what the controller's annotations request."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

from kubeballoon.agent.foreign_text import one_line
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.api import names
from kubeballoon.api.meta import LONGEST_MESSAGE
from kubeballoon.api.quantity import parse_quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import ProcessorMethod
from kubeballoon.cluster.client import Object
from kubeballoon.core.formatting import human
from kubeballoon.vocabulary import Migratability, ReclaimMethod

T = TypeVar("T")

OVERHEAD = 96 << 20
"""The least bytes of QEMU's own memory, and all where the VM's status does not say (KubeVirt before 1.9).

It is what QEMU was seen to need under TCG, and more than it needs under KVM. Whatever else is in the VM's pod counts as
memory that others use.
"""

# What KubeVirt counts as the overhead of a VM's pod, bytes (GetMemoryOverhead in its virt-controller, 1.7 to 1.9).
_LAUNCHER_OVERHEAD = (25 + 100 + 25 + 40) << 20  # virt-launcher-monitor, virt-launcher, virtlogd, virtqemud
_QEMU_OVERHEAD = (30 + 8) << 20  # QEMU, and its I/O thread
_PROCESSOR_OVERHEAD = 8 << 20  # for each processor
_PAGES_PER_PAGE_TABLE_PAGE = 512
_GRAPHICS_OVERHEAD = 32 << 20
_TPM_OVERHEAD = 53 << 20
_ARM_FIRMWARE_OVERHEAD = 128 << 20


_MOST_MEMORY = 1 << 60  # bytes
_MOST_PROCESSORS = 1 << 16


_NO_OVERCOMMIT = 100  # percent: KubeVirt's default


@dataclass(frozen=True, slots=True)
class InstanceProcessors:
    """InstanceProcessors are a VM's processors, and what its annotations request of them.

    Attributes:
        size: how many the VM was given.
        target: how many its guest may use; None for all.
        policy: the name of the policy behind the request.
        explanation: why the target is what it is, for people.
        method: how processors are to be reclaimed; Auto where the annotations leave that to the agent.
        fault: the first annotation that cannot be read, and why, as one line.
        ineligibility: why no processor may be reclaimed from the VM; None if some may be.
    """

    size: int = 1
    target: int | None = None
    policy: str | None = None
    explanation: str | None = None
    method: ProcessorMethod = ProcessorMethod.AUTO
    fault: str | None = None
    ineligibility: Problem | None = None

    @property
    def unreadable(self) -> Problem | None:
        """Why the request cannot be read; None if it can."""
        return None if self.fault is None else Problem(AgentReason.BAD_REQUEST, self.fault)


@dataclass(frozen=True, slots=True)
class Instance:
    """An Instance is a VM on this node, as its VirtualMachineInstance says.

    Attributes:
        pods: the uids of its launcher pods on this node.
        size: the memory of its spec, bytes; 0 where the spec does not say.
        most: the most memory that it may come to have without a restart, bytes; 0 where its object does not say.
        pod_request: the memory that its pod requests for the guest, bytes; None if all of it.
        overhead: the memory that the VM needs beyond its guest's, bytes.
        target, minimum: what its annotations request and guarantee, bytes; None if they do not.
        policy: the name of the policy behind the request.
        explanation: why the target is what it is, for people.
        fault: the first annotation that cannot be read, and why, as one line.
        ineligibility: why the VM must not be ballooned at all; None if it may be.
        hold: why the VM must be left exactly as it is for now, such as a migration; None if it need not.
        return_all: why the VM must have all of its memory for now, such as a hotplug of memory; None if it need not.
        migrated_here: whether it came to this node by a migration.
        owner_excluded: whether its owner wants it left alone.
        migratability: whether it may be migrated while it runs, or what rules that out.
        method: how its memory is to be reclaimed; Auto where the annotations leave that to the agent.
        processors: what is requested of its processors.
    """

    uid: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    pods: tuple[str, ...]
    size: int
    overhead: int
    most: int = 0
    pod_request: int | None = None
    target: int | None = None
    minimum: int | None = None
    policy: str | None = None
    explanation: str | None = None
    fault: str | None = None
    ineligibility: Problem | None = None
    hold: Problem | None = None
    return_all: Problem | None = None
    migrated_here: bool = False
    owner_excluded: bool = False
    migratability: Migratability = Migratability.MIGRATABLE
    method: ReclaimMethod = ReclaimMethod.AUTO
    processors: InstanceProcessors = field(default_factory=InstanceProcessors)

    @property
    def domain(self) -> str:
        """The name that KubeVirt gives the VM's libvirt domain."""
        return f"{self.namespace}_{self.name}"

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields of a log message about the VM."""
        return {"vm": f"{self.namespace}/{self.name}"}

    @property
    def obstacle(self) -> Problem | None:
        """Why the VM's memory does not follow its request, as far as the VM's object tells; None if it does."""
        return self.ineligibility or self.hold or self.return_all


class UnreadableVM(NamedTuple):
    """An UnreadableVM is a VM whose object cannot be read, and why that is so, as one line."""

    uid: str
    namespace: str
    name: str
    why: str

    @property
    def problem(self) -> Problem:
        """What is reported of the VM."""
        return Problem(AgentReason.BAD_REPORT, f"its object cannot be read, so it is left alone: {self.why}")


@dataclass(slots=True)
class _Annotations:
    """_Annotations are those of a VM, with the first of them that could not be read."""

    values: Mapping[str, str]
    fault: str | None = field(default=None)

    def read(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Parse an annotation; None if there is none, or it cannot be read."""
        if name not in self.values:
            return None
        try:
            return parse(self.values[name])
        except ValueError as error:
            self.fault = self.fault or f"annotation {name}: {one_line(str(error))}"
            return None

    def text(self, name: str) -> str | None:
        """Read an annotation that is a line for people; None if there is none."""
        return self.read(name, lambda value: one_line(value, LONGEST_MESSAGE))

    def size(self, name: str) -> int | None:
        """Parse an annotation that is a quantity of bytes; None if there is none, or it cannot be read."""
        return self.read(name, parse_quantity)


def read_overcommit(kubevirts: Iterable[Object]) -> int:
    """Read KubeVirt's ``memoryOvercommit``, in percent, from its own object; 100 where it is not set."""
    for kubevirt in kubevirts:
        configuration = kubevirt.get("spec", {}).get("configuration") or {}
        overcommit = (configuration.get("developerConfiguration") or {}).get("memoryOvercommit")
        if isinstance(overcommit, int) and overcommit > 0:
            return overcommit
    return _NO_OVERCOMMIT


def read_instance(vmi: Object, node: str, overcommit: int = _NO_OVERCOMMIT) -> Instance | None:
    """Read a VM; None if it does not run on ``node``.

    Args:
        vmi: the VM's object.
        node: the node's name.
        overcommit: KubeVirt's ``memoryOvercommit``, percent.

    Raises:
        ArithmeticError, AttributeError, LookupError, TypeError, ValueError: the object is not as KubeVirt writes it.
    """
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
        pods=tuple(sorted(pod for pod, pod_node in status.get("activePods", {}).items() if pod_node == node)),
        size=_size(vmi),
        overhead=_overhead(vmi),
        most=_most(vmi),
        pod_request=_pod_request(vmi, overcommit),
        target=target,
        minimum=minimum,
        policy=annotations.text(names.POLICY),
        explanation=annotations.text(names.REASON),
        fault=annotations.fault,
        ineligibility=ineligibility(vmi),
        hold=_hold(status),
        return_all=_return_all(vmi),
        migrated_here=(status.get("migrationState") or {}).get("targetNode") == node,
        owner_excluded=annotations.values.get(names.EXCLUDE) == "true",
        migratability=_migratability(vmi),
        method=method or ReclaimMethod.AUTO,
        processors=_processor_request(vmi),
    )


def read_running(
    vmis: Iterable[Object], node: str, overcommit: int, before: Mapping[str, Instance]
) -> tuple[dict[str, Instance], dict[str, UnreadableVM]]:
    """Read the VMs that run on ``node``, and those whose objects cannot be read, both by their uids.

    A VM that could be read before is among both: it is then as it was, but must not be ballooned.

    Args:
        vmis: the VMs' objects.
        node: the node's name.
        overcommit: KubeVirt's ``memoryOvercommit``, percent.
        before: the VMs as they were last read, by their uids.
    """
    running: dict[str, Instance] = {}
    unreadable: dict[str, UnreadableVM] = {}
    for vmi in vmis:
        metadata = vmi["metadata"]
        uid = metadata["uid"]
        try:
            vm = read_instance(vmi, node, overcommit)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            found = UnreadableVM(uid, metadata["namespace"], metadata["name"], one_line(repr(error)))
            unreadable[uid] = found
            vm = _left_alone(before[uid], found.problem) if uid in before else None
        if vm is not None:
            running[uid] = vm
    return running, unreadable


def _left_alone(vm: Instance, problem: Problem) -> Instance:
    processors = replace(vm.processors, ineligibility=problem)
    return replace(vm, ineligibility=problem, processors=processors)


def _processor_request(vmi: Object) -> InstanceProcessors:
    annotations = _Annotations(vmi["metadata"].get("annotations", {}))
    method = annotations.read(names.PROCESSOR_METHOD, ProcessorMethod)
    domain = vmi.get("spec", {}).get("domain", {})
    return InstanceProcessors(
        size=_processors(vmi),
        target=annotations.read(names.PROCESSOR_TARGET, int),
        policy=annotations.text(names.PROCESSOR_POLICY),
        explanation=annotations.text(names.PROCESSOR_REASON),
        method=method or ProcessorMethod.AUTO,
        fault=annotations.fault,
        ineligibility=_first(_processor_ineligibilities(domain.get("cpu", {}))),
    )


def _overhead(vmi: Object) -> int:
    """Read how much memory QEMU needs beyond the guest's, in bytes.

    KubeVirt reports the overhead of the whole pod. The processes beside QEMU are measured with the node's other memory,
    so what KubeVirt reckons for them is taken off. That a report contains them is seen by how large it is.
    """
    reported = _quantity(vmi.get("status", {}).get("memory", {}).get("memoryOverhead")) or 0
    of_pod = reported > _qemu_overhead(vmi) + _LAUNCHER_OVERHEAD // 2
    return max(OVERHEAD, reported - _LAUNCHER_OVERHEAD if of_pod else reported)


def _qemu_overhead(vmi: Object) -> int:
    """Compute what KubeVirt reckons for QEMU alone, in bytes, unless an administrator has raised it."""
    spec = vmi.get("spec", {})
    devices = spec.get("domain", {}).get("devices", {})
    request = _quantity(spec.get("domain", {}).get("resources", {}).get("requests", {}).get("memory")) or 0
    return (
        _QEMU_OVERHEAD
        + _PROCESSOR_OVERHEAD * _processors(vmi)
        + request // _PAGES_PER_PAGE_TABLE_PAGE
        + (_GRAPHICS_OVERHEAD if devices.get("autoattachGraphicsDevice", True) else 0)
        + (_TPM_OVERHEAD if "tpm" in devices else 0)
        + (_ARM_FIRMWARE_OVERHEAD if spec.get("architecture") == "arm64" else 0)
    )


def _processors(vmi: Object) -> int:
    """Read how many processors the VM has: by the topology that KubeVirt reports, else by the one in the spec."""
    cpu = vmi.get("spec", {}).get("domain", {}).get("cpu", {})
    topology = {**cpu, **vmi.get("status", {}).get("currentCPUTopology", {})}
    parts = [int(topology.get(part) or 1) for part in ("sockets", "cores", "threads")]
    if not all(1 <= part <= _MOST_PROCESSORS for part in parts):
        raise ValueError("the topology of its processors makes no sense")
    return min(math.prod(parts), _MOST_PROCESSORS)


def ineligibility(vmi: Object) -> Problem | None:
    """Find the first reason for which a VM must not be ballooned; None if there is none."""
    spec = vmi.get("spec", {})
    return _first(_memory_ineligibilities(vmi, spec, spec.get("domain", {})))


def _first(reasons: Iterable[tuple[AgentReason, bool]]) -> Problem | None:
    return next((Problem.of(reason) for reason, holds in reasons if holds), None)


def _memory_ineligibilities(vmi: Object, spec: Object, domain: Object) -> Iterable[tuple[AgentReason, bool]]:
    devices, memory, cpu = domain.get("devices", {}), domain.get("memory", {}), domain.get("cpu", {})
    yield AgentReason.HUGEPAGES, bool(memory.get("hugepages"))
    yield from _processor_ineligibilities(cpu)
    yield AgentReason.VFIO, _passes_through(spec, devices)
    yield AgentReason.MEMORY_LOCKED, memory.get("reservedOverhead", {}).get("memLock") == "Required"
    yield AgentReason.LAUNCH_SECURITY, domain.get("launchSecurity") is not None  # {}: by the cluster's own kind of it
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
    """Find why the VM must be left exactly as it is for now; None if it need not."""
    if _migrates(status):
        return Problem(AgentReason.MIGRATING, "it is migrating: its balloon stays as it is until that ends")
    return Problem.of(AgentReason.PAUSED) if _has(status, "Paused") else None


def _migrates(status: Object) -> bool:
    """Whether the VM migrates, by what KubeVirt itself goes by (isMigrationInProgress in virt-handler's controller.go).

    A migration that was accepted and never began, or that ended without saying how, must not hold the VM for good.
    """
    migration = status.get("migrationState") or {}
    if migration.get("completed") or migration.get("failed") or migration.get("endTimestamp"):
        return False
    arrives = migration.get("migrationUid") and migration.get("targetNode") == status.get("nodeName")
    return bool(migration.get("startTimestamp") or arrives)


def _migratability(vmi: Object) -> Migratability:
    """Find whether a VM may be migrated while it runs.

    An evictionStrategy of None rules nothing out: KubeVirt writes it on VMs whose owners have said nothing.
    """
    if not _has(vmi["status"], "LiveMigratable"):
        return Migratability.NOT_MIGRATABLE
    external = vmi.get("spec", {}).get("evictionStrategy") == "External"
    return Migratability.EXTERNAL if external else Migratability.MIGRATABLE


def _return_all(vmi: Object) -> Problem | None:
    """Find why the VM must have all of its memory for now; None if it need not.

    KubeVirt has the VM's pod request what the guest still lacks of its new memory. What a balloon keeps from the guest
    counts as lacking: that has happened by the time that the resizing shows here, and may only be told. KubeVirt marks
    a hotplug that failed by a condition that is false, and then waits for a restart.
    """
    status, domain = vmi.get("status", {}), vmi.get("spec", {}).get("domain", {})
    if _has(status, "HotMemoryChange", "False"):
        return None
    ordered = _guest_memory(vmi)
    requested = _quantity(status.get("memory", {}).get("guestRequested"))
    if not _has(status, "HotMemoryChange") and (not ordered or not requested or ordered == requested):
        return None
    message = "its memory is being resized: it has all of it until that is done"
    pod_request = _quantity(domain.get("resources", {}).get("requests", {}).get("memory"))
    if ordered and pod_request and pod_request > ordered:
        message += (
            f"; its pod requests {human(pod_request - ordered)} more than that until it is restarted, for KubeVirt "
            "takes reclaimed memory for missing: release a VM before its memory is resized"
        )
    return Problem(AgentReason.MEMORY_HOTPLUG, message)


def _has(status: Object, condition: str, value: str = "True") -> bool:
    return any(each.get("type") == condition and each.get("status") == value for each in status.get("conditions", []))


def _size(vmi: Object) -> int:
    """Read the VM's memory in KubeVirt's own order: memory.guest, else the request, else the limit; else 0."""
    return _guest_memory(vmi) or _resources_memory(vmi) or 0


def _most(vmi: Object) -> int:
    """Read the most memory that a VM has or may come to have without a restart, in bytes; 0 where that is not said.

    That is more than its spec says while its memory is resized, or where it was and a guest keeps what it lost.
    """
    memory, status = vmi.get("spec", {}).get("domain", {}).get("memory", {}), vmi.get("status", {}).get("memory", {})
    others = (memory.get("maxGuest"), *(status.get(each) for each in ("guestAtBoot", "guestCurrent", "guestRequested")))
    return max(_size(vmi), *(_quantity(each) or 0 for each in others))


def _pod_request(vmi: Object, overcommit: int) -> int | None:
    """Find what KubeVirt has the VM's pod request for the guest, in bytes; None if all of the guest's memory.

    That is the VM's request, or its limit where it has no request. Where it has neither, it is the guest's memory,
    divided by KubeVirt's ``memoryOvercommit`` (WithMemoryRequests in KubeVirt's renderresources.go). A pod that was
    created before that changed has requested something else, but the agent may not read pods.
    """
    written, guest = _resources_memory(vmi), _guest_memory(vmi)
    if written is not None or guest is None or overcommit == _NO_OVERCOMMIT:
        return written
    domain = vmi.get("spec", {}).get("domain", {})
    if domain.get("memory", {}).get("hugepages") or domain.get("cpu", {}).get("dedicatedCpuPlacement"):
        return None
    return guest * 100 // overcommit


def _guest_memory(vmi: Object) -> int | None:
    return _quantity(vmi.get("spec", {}).get("domain", {}).get("memory", {}).get("guest"))


def _resources_memory(vmi: Object) -> int | None:
    """Read the memory that a VM's spec requests, or else its limit, in bytes; None where it has neither."""
    resources = vmi.get("spec", {}).get("domain", {}).get("resources", {})
    candidates = (resources.get(each, {}).get("memory") for each in ("requests", "limits"))
    return next((amount for amount in map(_quantity, candidates) if amount), None)


def _quantity(value: str | int | None) -> int | None:
    """Read a quantity that KubeVirt wrote, in bytes; None if it is absent.

    KubeVirt may write thousandths of bytes ("1181116006400m" for 1.1Gi).
    """
    if value is None:
        return None
    thousandths = isinstance(value, str) and value.endswith("m")
    size = -(-int(str(value)[:-1]) // 1000) if thousandths else parse_quantity(value)
    if not 0 <= size <= _MOST_MEMORY:
        raise ValueError("a quantity of memory that no machine has")
    return size
