"""What is alike, and what differs, between policies for memory and policies for processors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

from kubeballoon.api import names
from kubeballoon.api.quantity import format_quantity
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    MemoryPolicyStatus,
    PolicyStatus,
    ProcessorPolicy,
    ProcessorPolicyStatus,
    VirtualMachineReport,
)
from kubeballoon.cluster import paths
from kubeballoon.cluster.snapshot import MIGRATING, P, exclusion, processor_exclusion
from kubeballoon.core.wording import human

_AUTO = "Auto"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a VM's annotations ask of it: bytes or processors, and the policy behind them; None where they do not.

    Attributes:
        method: how it is to be done; None leaves that to the agent.
    """

    target: int | None = None
    minimum: int | None = None
    policy: str | None = None
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Kind(Generic[P]):
    """One kind of policy.

    Attributes:
        path: its collection in the API.
        method: what a policy says of the method, None when it leaves that to the agent.
        reported: what a VM's agent reports to be asked of it.
        parting: what is still asked of a VM, given what was, though nothing is to be any more.
        annotations: what asks it of a VM, with the reason; values of None take annotations away.
        said: an amount as an administrator reads it.
        exclusion: why a VM is left alone, as (reason, message), given whether its node is released.
        responsive: whether a VM follows requests.
        taken: how much has been taken from a VM.
        status: a policy's status, from what all kinds have and how much has been taken.
        events: the reasons of the events when some is taken, and when all is given back.
    """

    model: type[P]
    path: str
    method: Callable[[P], str | None]
    reported: Callable[[VirtualMachineReport], Asked]
    parting: Callable[[VirtualMachineReport, Asked], Asked]
    annotations: Callable[[Asked, str], dict[str, str | None]]
    said: Callable[[int], str]
    exclusion: Callable[[VirtualMachineReport, P, bool], tuple[str, str] | None]
    responsive: Callable[[VirtualMachineReport], bool]
    taken: Callable[[VirtualMachineReport], int]
    status: Callable[[PolicyStatus, int], PolicyStatus]
    events: tuple[str, str]


def _unless_auto(method: str) -> str | None:
    return None if method == _AUTO else str(method)


def _memory_reported(report: VirtualMachineReport) -> Asked:
    return Asked(report.target, report.min, report.policy, _unless_auto(report.requested_method))


def _processors_reported(report: VirtualMachineReport) -> Asked:
    seen = report.processors
    if seen is None:
        return Asked()
    return Asked(seen.target, None, seen.policy, _unless_auto(seen.requested_method))


def _processors_parting(report: VirtualMachineReport, asked: Asked) -> Asked:
    """All processors, until they are back, or it is said why they are not: then nothing.

    What is not asked for any more, only the agent that took it knows of, and the VM may be on its way to another.
    """
    seen = report.processors
    if asked.target is None or seen is None or not seen.eligible:
        return Asked()
    back = seen.online is not None and seen.online >= seen.size
    if seen.target == seen.size and (back or seen.reason not in (None, MIGRATING)):
        return Asked()
    return replace(asked, target=seen.size)


def _memory_annotations(asked: Asked, message: str) -> dict[str, str | None]:
    return {
        names.MEMORY_TARGET: None if asked.target is None else format_quantity(asked.target),
        names.MEMORY_MIN: None if asked.minimum is None else format_quantity(asked.minimum),
        names.MEMORY_METHOD: asked.method,
        names.POLICY: asked.policy,
        names.REASON: None if asked.target is None else message,
    }


def _processor_annotations(asked: Asked, message: str) -> dict[str, str | None]:
    return {
        names.PROCESSOR_TARGET: None if asked.target is None else str(asked.target),
        names.PROCESSOR_METHOD: asked.method,
        names.PROCESSOR_POLICY: asked.policy,
        names.PROCESSOR_REASON: None if asked.target is None else message,
    }


MEMORY: Kind[MemoryPolicy] = Kind(
    model=MemoryPolicy,
    path=paths.MEMORY_POLICIES,
    method=lambda policy: _unless_auto(policy.spec.reclaim.method),
    reported=_memory_reported,
    parting=lambda _report, _asked: Asked(),  # without a request every agent gives all memory back
    annotations=_memory_annotations,
    said=lambda size: f"{human(size)} ({size} bytes)",
    exclusion=lambda report, policy, released: exclusion(report, policy, released=released),
    responsive=lambda report: report.responsive,
    taken=lambda report: report.reserved,
    status=lambda common, taken: MemoryPolicyStatus(**dict(common), reserved=taken),
    events=("MemoryReclaimed", "MemoryReturned"),
)

PROCESSORS: Kind[ProcessorPolicy] = Kind(
    model=ProcessorPolicy,
    path=paths.PROCESSOR_POLICIES,
    method=lambda policy: _unless_auto(policy.spec.method),
    reported=_processors_reported,
    parting=_processors_parting,
    annotations=_processor_annotations,
    said=lambda count: f"{count} processors",
    exclusion=lambda report, policy, released: processor_exclusion(report, policy, released=released),
    responsive=lambda report: report.processors is None or report.processors.responsive,
    taken=lambda report: report.processors_taken,
    status=lambda common, taken: ProcessorPolicyStatus(**dict(common), taken=taken),
    events=("ProcessorsTaken", "ProcessorsReturned"),
)
