"""This module holds what differs between MemoryPolicy and ProcessorPolicy: translation, annotations, status."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic

from kubeballoon.api import names
from kubeballoon.api.quantity import format_quantity
from kubeballoon.api.reasons import AgentReason
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    MemoryPolicyStatus,
    PolicyStatus,
    ProcessorMethod,
    ProcessorPolicy,
    ProcessorPolicyStatus,
    VirtualMachineReport,
)
from kubeballoon.core.formatting import human
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.core.processors.model import ProcessorTerms
from kubeballoon.governance.exclusion import Excluded, memory_exclusion, processor_exclusion
from kubeballoon.governance.loaded_policy import LoadedPolicy, P, Terms, load_memory_policy, load_processor_policy
from kubeballoon.governance.targets_in_force import VMRequest
from kubeballoon.vocabulary import ReclaimMethod


class PolicyType(ABC, Generic[P, Terms]):
    """A PolicyType knows what policies of one type request of VMs, and how that is written, read and counted.

    Attributes:
        model: the type's API model.
        reclaimed_event: the reason of the event that is posted when something is first reclaimed from a VM.
        returned_event: the reason of the event that is posted when a VM has everything back.
    """

    model: type[P]
    reclaimed_event: ClassVar[str]
    returned_event: ClassVar[str]

    def load(self, body: Mapping[str, Any]) -> LoadedPolicy[P, Terms]:
        """Read a policy object and translate it for the core.

        Raises:
            ValidationError: this version cannot read the object.
        """
        return self.translate(self.model.model_validate(body))

    @abstractmethod
    def translate(self, policy: P) -> LoadedPolicy[P, Terms]:
        """Translate a policy for the core."""

    @abstractmethod
    def method(self, policy: P) -> str | None:
        """Say by which method a policy wants its requests carried out; None leaves that to the agent."""

    @abstractmethod
    def reported_request(self, report: VirtualMachineReport) -> VMRequest:
        """Say what is requested of a VM as its agent reports it."""

    @abstractmethod
    def final_request(self, report: VirtualMachineReport, request: VMRequest) -> VMRequest:
        """Say what to request of a VM that no policy governs any more.

        Args:
            report: the VM as its node's agent reports it.
            request: what is requested of the VM now.
        """

    @abstractmethod
    def annotations(self, request: VMRequest, message: str) -> dict[str, str | None]:
        """Write a request and its reason as annotations; a value of None removes the annotation."""

    @abstractmethod
    def amount_text(self, amount: int) -> str:
        """Write an amount for an administrator."""

    @abstractmethod
    def exclusion(self, report: VirtualMachineReport, policy: P | None, *, node_released: bool) -> Excluded | None:
        """Say why a VM is left alone; None if it is not.

        Args:
            report: the VM as its node's agent reports it.
            policy: the policy that governs the VM; None if none does.
            node_released: whether an administrator released the VM's node.
        """

    @abstractmethod
    def responsive(self, report: VirtualMachineReport) -> bool:
        """Whether a VM follows requests; one that cannot for a while, as during a migration, counts as following."""

    @abstractmethod
    def reclaimed(self, report: VirtualMachineReport) -> int:
        """Say how much is reclaimed from a VM now, in bytes or processors."""

    @abstractmethod
    def status(self, common: PolicyStatus, reclaimed: int) -> PolicyStatus:
        """Add the reclaimed amount to the fields that all policies' statuses have in common."""


class MemoryPolicyType(PolicyType[MemoryPolicy, MemoryTerms]):
    """The MemoryPolicyType says what MemoryPolicies request: bytes of memory."""

    model = MemoryPolicy
    reclaimed_event = "MemoryReclaimed"
    returned_event = "MemoryReturned"

    def translate(self, policy: MemoryPolicy) -> LoadedPolicy[MemoryPolicy, MemoryTerms]:
        """Translate a policy for the core."""
        return load_memory_policy(policy)

    def method(self, policy: MemoryPolicy) -> str | None:
        """Say how memory is to be reclaimed from guests; None leaves that to the agent."""
        return _unless_auto(policy.spec.reclaim.method)

    def reported_request(self, report: VirtualMachineReport) -> VMRequest:
        """Say what memory is requested of a VM as its agent reports it."""
        return VMRequest(report.target, report.min, report.policy, _unless_auto(report.requested_method))

    def final_request(self, report: VirtualMachineReport, request: VMRequest) -> VMRequest:  # noqa: ARG002 - as all types
        """Request nothing: without a request every agent gives a VM all of its memory."""
        return VMRequest()

    def annotations(self, request: VMRequest, message: str) -> dict[str, str | None]:
        """Write a request for memory and its reason as annotations."""
        return {
            names.MEMORY_TARGET: None if request.target is None else format_quantity(request.target),
            names.MEMORY_MIN: None if request.minimum is None else format_quantity(request.minimum),
            names.MEMORY_METHOD: request.method,
            names.POLICY: request.policy,
            names.REASON: None if request.target is None else message,
        }

    def amount_text(self, amount: int) -> str:
        """Write bytes rounded and exactly: "1.5 GiB (1610612736 bytes)"."""
        return f"{human(amount)} ({amount} bytes)"

    def exclusion(
        self, report: VirtualMachineReport, policy: MemoryPolicy | None, *, node_released: bool
    ) -> Excluded | None:
        """Say why a VM must not be ballooned; None if it may be."""
        return memory_exclusion(report, policy, node_released=node_released)

    def responsive(self, report: VirtualMachineReport) -> bool:
        """Whether a VM's driver follows requests; one that cannot for a while counts as following."""
        return report.responsive or _is_passing(report.reason)

    def reclaimed(self, report: VirtualMachineReport) -> int:
        """Say how many bytes are reclaimed from a VM now."""
        return report.reclaimed

    def status(self, common: PolicyStatus, reclaimed: int) -> PolicyStatus:
        """Make a MemoryPolicy's status."""
        return MemoryPolicyStatus(**dict(common), reclaimed=reclaimed)


class ProcessorPolicyType(PolicyType[ProcessorPolicy, ProcessorTerms]):
    """The ProcessorPolicyType says what ProcessorPolicies request: whole processors."""

    model = ProcessorPolicy
    reclaimed_event = "ProcessorsReclaimed"
    returned_event = "ProcessorsReturned"

    def translate(self, policy: ProcessorPolicy) -> LoadedPolicy[ProcessorPolicy, ProcessorTerms]:
        """Translate a policy for the core."""
        return load_processor_policy(policy)

    def method(self, policy: ProcessorPolicy) -> str | None:
        """Say how processors are to be reclaimed; None leaves that to the agent."""
        return _unless_auto(policy.spec.method)

    def reported_request(self, report: VirtualMachineReport) -> VMRequest:
        """Say how many processors are requested of a VM as its agent reports it."""
        processors = report.processors
        if processors is None:
            return VMRequest()
        return VMRequest(processors.target, None, processors.policy, _unless_auto(processors.requested_method))

    def final_request(self, report: VirtualMachineReport, request: VMRequest) -> VMRequest:
        """Request all processors until the agent reports that they are back, or why they do not come back.

        Only the agent that reclaimed processors remembers that it did. The VM may be migrating to another node, whose
        agent learns from the request alone that processors are to be returned.
        """
        processors = report.processors
        if request.target is None or processors is None or not processors.eligible:
            return VMRequest()
        complete = processors.online is not None and processors.online >= processors.size
        given_up = processors.reason not in (None, AgentReason.MIGRATING)
        if processors.target == processors.size and (complete or given_up):
            return VMRequest()
        return replace(request, target=processors.size)

    def annotations(self, request: VMRequest, message: str) -> dict[str, str | None]:
        """Write a request for processors and its reason as annotations."""
        return {
            names.PROCESSOR_TARGET: None if request.target is None else str(request.target),
            names.PROCESSOR_METHOD: request.method,
            names.PROCESSOR_POLICY: request.policy,
            names.PROCESSOR_REASON: None if request.target is None else message,
        }

    def amount_text(self, amount: int) -> str:
        """Write a number of processors."""
        return f"{amount} processors"

    def exclusion(
        self, report: VirtualMachineReport, policy: ProcessorPolicy | None, *, node_released: bool
    ) -> Excluded | None:
        """Say why no processor may be reclaimed from a VM; None if some may be."""
        return processor_exclusion(report, policy, node_released=node_released)

    def responsive(self, report: VirtualMachineReport) -> bool:
        """Whether a VM's guest follows requests for processors; it counts as following while none are reported."""
        processors = report.processors
        return processors is None or processors.responsive or _is_passing(processors.reason)

    def reclaimed(self, report: VirtualMachineReport) -> int:
        """Say how many processors are reclaimed from a VM now."""
        return report.processors_reclaimed

    def status(self, common: PolicyStatus, reclaimed: int) -> PolicyStatus:
        """Make a ProcessorPolicy's status."""
        return ProcessorPolicyStatus(**dict(common), reclaimed=reclaimed)


MEMORY = MemoryPolicyType()
PROCESSORS = ProcessorPolicyType()


def _unless_auto(method: ReclaimMethod | ProcessorMethod) -> str | None:
    return None if method in (ReclaimMethod.AUTO, ProcessorMethod.AUTO) else str(method)


def _is_passing(reason: AgentReason | None) -> bool:
    return reason is not None and reason.is_passing
