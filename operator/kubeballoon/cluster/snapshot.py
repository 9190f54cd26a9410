"""From API objects to the core's values: which policy governs a VM, and a node as the core sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kubeballoon.api.quantity import parse_amount
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressureStatus, OwnerExclusion, VirtualMachineReport
from kubeballoon.core import model

OWNER_EXCLUDED = "OwnerExcluded"
RELEASED = "Released"
SILENT = 180.0  # seconds without a report, three heartbeats, after which nothing is decided for a node


@dataclass(frozen=True, slots=True)
class Governance:
    """Which policies select a VM, first the one that governs it.

    Attributes:
        tied: whether the next one has the same priority, so that only its name kept it from governing.
    """

    policies: tuple[MemoryPolicy, ...] = ()
    tied: bool = False

    @property
    def governing(self) -> MemoryPolicy | None:
        """The policy that governs, if any selects the VM."""
        return self.policies[0] if self.policies else None


@dataclass(frozen=True, slots=True)
class Requested:
    """What was last requested of a VM.

    Attributes:
        target: bytes, None when nothing is requested.
        change: the target's last move.
    """

    target: int | None
    change: model.Change | None = None


def govern(
    policies: Sequence[MemoryPolicy], labels: Mapping[str, str], namespace_labels: Mapping[str, str]
) -> Governance:
    """Highest priority first, then by name."""
    matching = [
        policy
        for policy in policies
        if policy.metadata.deletion_timestamp is None
        and policy.spec.selector.virtual_machine_selector.matches(labels)
        and policy.spec.selector.namespace_selector.matches(namespace_labels)
    ]
    matching.sort(key=lambda policy: (-policy.spec.priority, policy.metadata.name))
    tied = len(matching) > 1 and matching[0].spec.priority == matching[1].spec.priority
    return Governance(tuple(matching), tied)


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
    if released:
        return RELEASED, "its node is released by an administrator"
    if policy is not None and policy.metadata.released:
        return RELEASED, f"its policy {policy.metadata.name} is released by an administrator"
    allowed = policy is None or policy.spec.owner_exclusion is OwnerExclusion.ALLOW
    if report.owner_excluded and allowed:
        return OWNER_EXCLUDED, "its owner excluded it"
    return None


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
        requested: what is known to be requested by now, where that is newer than the report.
        released: whether its node is.
    """
    excluded = exclusion(report, policy, released=released)
    return model.VirtualMachine(
        uid=report.uid,
        name=f"{report.namespace}/{report.name}",
        size=report.size,
        actual=_backed(report),
        overhead=report.overhead,
        need=report.need,
        target=report.target if requested is None else requested.target,
        troubled=report.troubled,
        excluded=None if excluded is None else excluded[1],
        responsive=report.responsive,
        policy=None if policy is None else core_policy(policy),
        last_change=None if requested is None else requested.change,
    )


def _backed(report: VirtualMachineReport) -> int:
    """What the node has to back of a VM's memory, bytes: a balloon that frees nothing frees nothing here either."""
    if report.actual is None:
        return report.size
    if report.responsive or report.resident is None:
        return report.actual
    return min(report.size, max(report.actual, report.resident - report.overhead))


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
