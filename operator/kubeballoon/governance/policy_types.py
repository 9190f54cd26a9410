"""What memory policies and processor policies have in common, and where they differ."""

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
    ProcessorPolicy,
    ProcessorPolicyStatus,
    VirtualMachineReport,
)
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.core.processors.model import ProcessorTerms
from kubeballoon.core.wording import human
from kubeballoon.governance.exclusion import Excluded, memory_exclusion, processor_exclusion
from kubeballoon.governance.loaded_policy import LoadedPolicy, P, Terms, load_memory_policy, load_processor_policy
from kubeballoon.governance.requests import VMRequest

_AUTO = "Auto"


class PolicyType(ABC, Generic[P, Terms]):
    """A PolicyType knows what one kind of policy requests of VMs, and how that is written, read and counted.

    Attributes:
        model: the kind's API model.
        reclaimed_event, returned_event: reasons of the events when a VM begins to lack something, and when it has all.
    """

    model: type[P]
    reclaimed_event: ClassVar[str]
    returned_event: ClassVar[str]

    def load(self, body: Mapping[str, Any]) -> LoadedPolicy[P, Terms]:
        """Read a policy object, and translate it for the core.

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
        """Say what stays requested of a VM that nothing is to be requested of any more, given what is requested now."""

    @abstractmethod
    def annotations(self, request: VMRequest, message: str) -> dict[str, str | None]:
        """Write a request and its reason as annotations; values of None take annotations away."""

    @abstractmethod
    def amount_text(self, amount: int) -> str:
        """Write an amount for an administrator."""

    @abstractmethod
    def exclusion(self, report: VirtualMachineReport, policy: P, *, node_released: bool) -> Excluded | None:
        """Say why a VM that a policy governs is left alone; None where it is not."""

    @abstractmethod
    def responsive(self, report: VirtualMachineReport) -> bool:
        """Whether a VM follows requests."""

    @abstractmethod
    def reclaimed(self, report: VirtualMachineReport) -> int:
        """Say how much is reclaimed from a VM now."""

    @abstractmethod
    def status(self, common: PolicyStatus, reclaimed: int) -> PolicyStatus:
        """Complete what all kinds of policy status have by how much is reclaimed."""


class MemoryPolicyType(PolicyType[MemoryPolicy, MemoryTerms]):
    """MemoryPolicies request bytes of memory."""

    model = MemoryPolicy
    reclaimed_event = "MemoryReclaimed"
    returned_event = "MemoryReturned"

    def translate(self, policy: MemoryPolicy) -> LoadedPolicy[MemoryPolicy, MemoryTerms]:
        """Translate a policy for the core."""
        return load_memory_policy(policy)

    def method(self, policy: MemoryPolicy) -> str | None:
        """Say how memory is to be reserved in guests; None leaves that to the agent."""
        return _unless_auto(policy.spec.reclaim.method)

    def reported_request(self, report: VirtualMachineReport) -> VMRequest:
        """Say what memory is requested of a VM as its agent reports it."""
        return VMRequest(report.target, report.min, report.policy, _unless_auto(report.requested_method))

    def final_request(self, report: VirtualMachineReport, request: VMRequest) -> VMRequest:  # noqa: ARG002 - as all kinds
        """Leave no request: without one every agent gives a VM all of its memory."""
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

    def exclusion(self, report: VirtualMachineReport, policy: MemoryPolicy, *, node_released: bool) -> Excluded | None:
        """Say why a VM must not be ballooned; None where it may be."""
        return memory_exclusion(report, policy, node_released=node_released)

    def responsive(self, report: VirtualMachineReport) -> bool:
        """Whether a VM's driver follows requests."""
        return report.responsive

    def reclaimed(self, report: VirtualMachineReport) -> int:
        """Say how many bytes are reclaimed from a VM now."""
        return report.reclaimed

    def status(self, common: PolicyStatus, reclaimed: int) -> PolicyStatus:
        """Make a MemoryPolicy's status."""
        return MemoryPolicyStatus(**dict(common), reclaimed=reclaimed)


class ProcessorPolicyType(PolicyType[ProcessorPolicy, ProcessorTerms]):
    """ProcessorPolicies request whole processors."""

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
        """Leave a request for all processors until the agent reports them back, or why they do not come.

        Only the agent that reclaimed processors remembers that it did, and the VM may be migrating to another node.
        """
        processors = report.processors
        if request.target is None or processors is None or not processors.eligible:
            return VMRequest()
        back = processors.online is not None and processors.online >= processors.size
        if processors.target == processors.size and (back or processors.reason not in (None, AgentReason.MIGRATING)):
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
        self, report: VirtualMachineReport, policy: ProcessorPolicy, *, node_released: bool
    ) -> Excluded | None:
        """Say why no processor may be reclaimed from a VM; None where some may be."""
        return processor_exclusion(report, policy, node_released=node_released)

    def responsive(self, report: VirtualMachineReport) -> bool:
        """Whether a VM's guest follows requests for processors; one of which nothing is reported counts as doing so."""
        return report.processors is None or report.processors.responsive

    def reclaimed(self, report: VirtualMachineReport) -> int:
        """Say how many processors are reclaimed from a VM now."""
        return report.processors_reclaimed

    def status(self, common: PolicyStatus, reclaimed: int) -> PolicyStatus:
        """Make a ProcessorPolicy's status."""
        return ProcessorPolicyStatus(**dict(common), reclaimed=reclaimed)


MEMORY = MemoryPolicyType()
PROCESSORS = ProcessorPolicyType()


def _unless_auto(method: str) -> str | None:
    return None if method == _AUTO else str(method)
