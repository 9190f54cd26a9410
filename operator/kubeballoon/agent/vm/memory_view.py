"""This module describes what the agent knows of a VM's memory at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.agent.vm_problem import Problem
from kubeballoon.core.memory import demand, pacing
from kubeballoon.core.memory.working_set import WorkingSetPace


@dataclass(frozen=True, slots=True)
class MemoryView:
    """A MemoryView is what the agent knows of a VM's memory at one moment.

    Attributes:
        sample: what the VM showed last; None before the first sample.
        need: the estimate of what the guest works with; None while the guest's statistics are missing or stale.
        goal: what the guest is to have, bytes; None while its memory is left as it is.
        problem: why the VM does not follow its request; None if nothing keeps it from that.
        pace: how fast the guest gives memory.
        working_set: how far the guest is asked for memory that it works with.
        resident: what the VM's process holds of the node's memory while the VM cannot be sampled, bytes; None if
            that is not known.
    """

    sample: DomainSample | None = None
    need: demand.Need | None = None
    goal: int | None = None
    problem: Problem | None = None
    pace: pacing.Pace = field(default_factory=pacing.Pace)
    working_set: WorkingSetPace = field(default_factory=WorkingSetPace)
    resident: int | None = None

    @property
    def known(self) -> bool:
        """Whether anything is known of the VM that can be reported."""
        return self.sample is not None or self.problem is not None

    @property
    def responsive(self) -> bool:
        """Whether the VM answers, and its driver follows requests, or may follow them in spite of its problem."""
        return (self.problem is None or self.problem.reason.may_follow) and self.pace.responsive

    @property
    def excess(self) -> int:
        """Memory that the guest keeps above its goal because it has nothing more to give, bytes."""
        if self.sample is None or self.goal is None or self.pace.request is not None or not self.responsive:
            return 0
        excess = self.sample.statistics.actual - self.goal
        return excess if excess > pacing.max_residual(self.sample.size) else 0
