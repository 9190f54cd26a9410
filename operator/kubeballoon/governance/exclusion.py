"""This module says why a VM that a policy governs is left alone all the same."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import MemoryPolicy, Policy, ProcessorPolicy, VirtualMachineReport
from kubeballoon.governance.policy_selection import is_excluded_by_owner
from kubeballoon.vocabulary import ReclaimMethod


class ExclusionReason(StrEnum):
    """An ExclusionReason says why a VM is left alone for a reason that its agent did not give as an AgentReason."""

    INELIGIBLE = "Ineligible"
    NOT_REPORTED = "NotReported"
    RELEASED = "Released"
    OWNER_EXCLUDED = "OwnerExcluded"


class Excluded(NamedTuple):
    """An Excluded value says why a VM is left alone: a reason for scripts and a message for people."""

    reason: AgentReason | ExclusionReason
    message: str


def memory_exclusion(
    report: VirtualMachineReport, policy: MemoryPolicy | None, *, node_released: bool = False
) -> Excluded | None:
    """Say why a VM must not be ballooned; None if it may be.

    Args:
        report: the VM as its node's agent reports it.
        policy: the policy that governs the VM; None if none does.
        node_released: whether an administrator released the VM's node.
    """
    if not report.eligible:
        return Excluded(
            report.reason or ExclusionReason.INELIGIBLE, report.message or "its node's agent cannot balloon it"
        )
    only_balloon = policy is not None and policy.spec.reclaim.method is ReclaimMethod.BALLOON
    if only_balloon and report.method is ReclaimMethod.GUEST_AGENT:
        return Excluded(AgentReason.NO_BALLOON, "it has no balloon that follows, and its policy asks for one")
    return _exclusion_by_people(report, policy, node_released=node_released)


def processor_exclusion(
    report: VirtualMachineReport, policy: ProcessorPolicy | None, *, node_released: bool = False
) -> Excluded | None:
    """Say why no processor may be reclaimed from a VM; None if some may be.

    Args:
        report: the VM as its node's agent reports it.
        policy: the policy that governs the VM; None if none does.
        node_released: whether an administrator released the VM's node.
    """
    processors = report.processors
    if processors is None:  # an agent of an older version does not report processors
        return Excluded(ExclusionReason.NOT_REPORTED, "its node's agent reports no processors")
    if not processors.eligible:
        return Excluded(
            processors.reason or ExclusionReason.INELIGIBLE,
            processors.message or "its node's agent cannot reclaim its processors",
        )
    return _exclusion_by_people(report, policy, node_released=node_released)


def _exclusion_by_people(
    report: VirtualMachineReport, policy: Policy | None, *, node_released: bool
) -> Excluded | None:
    """Say whether an administrator or the VM's owner wants the VM left alone."""
    if node_released:
        return Excluded(ExclusionReason.RELEASED, "its node is released by an administrator")
    if policy is not None and policy.metadata.released:
        return Excluded(ExclusionReason.RELEASED, f"its policy {policy.metadata.name} is released by an administrator")
    if is_excluded_by_owner(policy, owner_excludes=report.owner_excluded):
        return Excluded(ExclusionReason.OWNER_EXCLUDED, "its owner excluded it")
    return None
