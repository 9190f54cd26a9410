"""From API objects to the core's values: which policy governs a VM, and a node as the core sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from kubeballoon.api.duration import parse_duration
from kubeballoon.api.quantity import parse_amount, parse_count
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    Mode,
    NodePressureStatus,
    OwnerExclusion,
    Policy,
    ProcessorPolicy,
    ProcessorReport,
    ReclaimMethod,
    Threshold,
    VirtualMachineReport,
)
from kubeballoon.core import model, processors

P = TypeVar("P", bound=Policy)

OWNER_EXCLUDED = "OwnerExcluded"
DEDICATED = "DedicatedCPU"
NO_BALLOON = "NoBalloon"
RELEASED = "Released"
MIGRATING = "Migrating"
_COURSES = {
    **dict.fromkeys(("MemoryHotplug", "BalloonIneffective", "MethodChanging"), model.Course.WHOLE),
    **dict.fromkeys(
        (MIGRATING, "Paused", "Hung", "Unreachable", "BadRequest", NO_BALLOON, "Unresponsive"),
        model.Course.STAYS,
    ),
}
"""What an agent does about a VM, by the reason that it reports; for other reasons it carries the request out."""
SILENT = 180.0  # seconds without a report, three heartbeats, after which nothing is decided for a node


@dataclass(frozen=True, slots=True)
class Governance(Generic[P]):
    """Which policies select a VM, first the one that governs it."""

    policies: tuple[P, ...] = ()

    @property
    def governing(self) -> P | None:
        """The policy that governs, if any selects the VM."""
        return self.policies[0] if self.policies else None

    @property
    def tied(self) -> tuple[P, ...]:
        """Those of the highest priority where they are several: only its name made one of them govern."""
        tied = tuple(each for each in self.policies if each.spec.priority == self.policies[0].spec.priority)
        return tied if len(tied) > 1 else ()


@dataclass(frozen=True, slots=True)
class Requested:
    """What was last requested of a VM.

    Attributes:
        target: bytes or processors, None when nothing is requested.
        change: the target's last move.
    """

    target: int | None
    change: model.Change | None = None


def govern(policies: Sequence[P], labels: Mapping[str, str], namespace_labels: Mapping[str, str]) -> Governance[P]:
    """Highest priority first, then by name."""
    candidates = _candidates(policies, labels)
    matching = [policy for policy in candidates if policy.spec.selector.namespace_selector.matches(namespace_labels)]
    return Governance(tuple(matching))


def may_govern(
    policies: Sequence[P], labels: Mapping[str, str], namespace_labels: Mapping[str, str] | None
) -> tuple[P, ...]:
    """The policies of which one governs a VM, if any does: more than one only where its namespace is not known (None).

    Then they are those that might, down to the first that would in any namespace.
    """
    if namespace_labels is not None:
        return govern(policies, labels, namespace_labels).policies[:1]
    candidates = _candidates(policies, labels)
    anywhere = (index for index, policy in enumerate(candidates, 1) if policy.spec.selector.any_namespace)
    return tuple(candidates[: next(anywhere, None)])


def _candidates(policies: Sequence[P], labels: Mapping[str, str]) -> list[P]:
    """The policies that select a VM, if they select its namespace; first the one that then governs it."""
    selecting = (
        policy
        for policy in policies
        if policy.metadata.deletion_timestamp is None and policy.spec.selector.virtual_machine_selector.matches(labels)
    )
    return sorted(selecting, key=lambda policy: (-policy.spec.priority, policy.metadata.name))


def binds(policy: Policy, *, owner_excludes: bool) -> bool:
    """Whether a VM that a policy governs is to follow requests, so far as that is up to policy and owner."""
    return policy.spec.mode is Mode.ENFORCE and not policy.metadata.released and not _lets_out(policy, owner_excludes)


def _lets_out(policy: Policy | None, owner_excludes: bool) -> bool:  # noqa: FBT001 - what is asked about
    return owner_excludes and (policy is None or policy.spec.owner_exclusion is OwnerExclusion.ALLOW)


def core_policy(policy: MemoryPolicy) -> model.Policy:
    """What a MemoryPolicy means to the core."""
    memory, reclaim = policy.spec.memory, policy.spec.reclaim
    return model.Policy(
        name=policy.metadata.name,
        minimum=model.Amount(*parse_amount(memory.min)),
        maximum=model.Amount(*parse_amount(memory.max)),
        headroom=model.Amount(*parse_amount(memory.headroom)),
        shares_per_gib=memory.shares,
        idle_tax=memory.idle_tax,
        mode=model.Mode(policy.spec.mode),
        when=model.When(reclaim.when),
        max_rate=reclaim.max_rate,
    )


def exclusion(
    report: VirtualMachineReport, policy: MemoryPolicy | None, *, released: bool = False
) -> tuple[str, str] | None:
    """Why a VM must not be ballooned, as (reason, message); None when it may be.

    Args:
        report: what its agent says.
        policy: the policy that governs it.
        released: whether its node is.
    """
    if not report.eligible:
        return report.reason or "Ineligible", report.message or "its node's agent cannot balloon it"
    only_balloon = policy is not None and policy.spec.reclaim.method is ReclaimMethod.BALLOON
    if only_balloon and report.method is ReclaimMethod.GUEST_AGENT:
        return NO_BALLOON, "it has no balloon that follows, and its policy asks for one"
    return _set_aside(report, policy, released=released)


def processor_exclusion(
    report: VirtualMachineReport, policy: ProcessorPolicy | None, *, released: bool = False
) -> tuple[str, str] | None:
    """Why no processor must be taken from a VM, as (reason, message); see ``exclusion``."""
    seen = _processors(report)
    if not seen.eligible:
        return seen.reason or "Ineligible", seen.message or "its node's agent cannot take its processors"
    return _set_aside(report, policy, released=released)


def _set_aside(report: VirtualMachineReport, policy: Policy | None, *, released: bool) -> tuple[str, str] | None:
    if released:
        return RELEASED, "its node is released by an administrator"
    if policy is not None and policy.metadata.released:
        return RELEASED, f"its policy {policy.metadata.name} is released by an administrator"
    if _lets_out(policy, report.owner_excluded):
        return OWNER_EXCLUDED, "its owner excluded it"
    return None


def _processors(report: VirtualMachineReport) -> ProcessorReport:
    """What is reported of a VM's processors; an agent of an older version says nothing."""
    return report.processors or ProcessorReport(
        size=1, eligible=False, reason="NotReported", message="its node's agent reports no processors"
    )


def in_force(report: VirtualMachineReport, requested: Requested) -> Requested:
    """What holds for a VM by now: what is requested, or what its agent has put in the place of that very request."""
    if report.relief is None or report.target != requested.target:
        return requested
    return replace(requested, target=report.relief)


def core_vm(
    report: VirtualMachineReport,
    policy: MemoryPolicy | None,
    requested: Requested | None = None,
    *,
    released: bool = False,
) -> model.VirtualMachine:
    """One VM as the core sees it.

    Args:
        report: what its agent says.
        policy: the policy that governs it.
        requested: what holds by now, where that may be newer than the report.
        released: whether its node is.
    """
    excluded = exclusion(report, policy, released=released)
    if requested is None:
        requested = in_force(report, Requested(report.target))
    return model.VirtualMachine(
        uid=report.uid,
        name=f"{report.namespace}/{report.name}",
        size=report.size,
        actual=_backed(report),
        overhead=report.overhead,
        need=_within(report.need, report.size),
        present_need=_within(report.present_need, report.size),
        target=_within(requested.target, report.size),
        troubled=report.troubled,
        excluded=None if excluded is None else excluded[1],
        responsive=report.responsive,
        policy=None if policy is None else core_policy(policy),
        last_change=requested.change,
        course=model.Course.WHOLE if not report.eligible else _COURSES.get(report.reason or "", model.Course.REQUEST),
    )


def _within(target: int | None, size: int) -> int | None:
    """What a request comes to: whoever wrote it may have asked for anything."""
    return None if target is None else max(0, min(target, size))


def _backed(report: VirtualMachineReport) -> int:
    """What the node has to back of a VM's memory, bytes: what frees nothing there frees nothing here either."""
    if report.actual is None:
        return report.size
    return report.backed(report.actual, as_claimed=report.responsive)


def core_node(
    name: str,
    status: NodePressureStatus,
    governing: Callable[[VirtualMachineReport], MemoryPolicy | None],
    requested: Mapping[str, Requested],
    cool_down: float = model.COOL_DOWN,
    *,
    released: bool = False,
) -> model.Node:
    """One node as the core sees it; ``requested`` by the VMs' uid, ``cool_down`` in seconds."""
    memory = status.memory
    return model.Node(
        name=name,
        total=memory.total,
        available=memory.available,
        other=memory.other,
        reserve=memory.reserve,
        state=model.State(status.state),
        cool_down=cool_down,
        vms=tuple(
            core_vm(report, governing(report), requested.get(report.uid), released=released)
            for report in status.virtual_machines
        ),
    )


def core_processor_policy(policy: ProcessorPolicy) -> processors.Policy:
    """What a ProcessorPolicy means to the core."""
    settings, trigger = policy.spec.processors, policy.spec.trigger
    return processors.Policy(
        name=policy.metadata.name,
        minimum=processors.Count(*parse_count(settings.min)),
        maximum=processors.Count(*parse_count(settings.max)),
        shares=settings.shares,
        mode=model.Mode(policy.spec.mode),
        trigger=processors.Trigger(model.When(trigger.when), _threshold(trigger.stall), _threshold(trigger.usage)),
        cool_down=parse_duration(policy.spec.cool_down),
    )


def _threshold(threshold: Threshold) -> processors.Threshold:
    return processors.Threshold(threshold.start, threshold.end)


def core_processor_node(
    name: str,
    status: NodePressureStatus,
    governing: Callable[[VirtualMachineReport], ProcessorPolicy | None],
    requested: Mapping[str, Requested],
    *,
    released: bool = False,
) -> processors.Node | None:
    """One node's processors as the core sees them; None where its agent does not report them."""
    if status.processors is None:
        return None
    pressure = processors.Pressure(status.processors.stall, status.processors.usage)
    return processors.Node(
        name=name,
        count=status.processors.count,
        pressure=pressure,
        vms=tuple(
            _core_processor_vm(report, governing(report), requested[report.uid], released=released)
            for report in status.virtual_machines
        ),
    )


def _core_processor_vm(
    report: VirtualMachineReport, policy: ProcessorPolicy | None, requested: Requested, *, released: bool
) -> processors.VirtualMachine:
    seen, excluded = _processors(report), processor_exclusion(report, policy, released=released)
    return processors.VirtualMachine(
        uid=report.uid,
        name=f"{report.namespace}/{report.name}",
        size=seen.size,
        online=seen.online,
        target=_within(requested.target, seen.size),
        excluded=None if excluded is None else excluded[1],
        dedicated=seen.reason == DEDICATED,
        responsive=seen.responsive,
        policy=None if policy is None else core_processor_policy(policy),
        last_change=requested.change,
    )
