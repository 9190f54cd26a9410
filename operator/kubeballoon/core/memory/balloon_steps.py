"""This module decides the next request to a guest's balloon on the way to a goal.

Memory that the guest can spare is requested at the guest's own pace, memory that it works with step by step, by what
its reports show.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kubeballoon.core.memory import pacing, working_set
from kubeballoon.core.memory.demand import GuestStatistics, Need
from kubeballoon.core.memory.model import MemoryTerms, guest_margin
from kubeballoon.core.memory.pacing import Pace
from kubeballoon.core.memory.working_set import WorkingSetPace, WorkingSetReport


@dataclass(frozen=True, slots=True)
class GuestSample:
    """A GuestSample is what is known of a guest when the next step of its balloon is decided.

    Attributes:
        size: the guest's size, bytes.
        statistics: the guest's last statistics, with what the balloon leaves it now.
        sampled_at: the time of the sample, seconds.
        need: the estimate of what the guest works with; None while that is not known.
        spare_limit: the most that the guest can spare whatever its statistics say, bytes; None where they tell all.
    """

    size: int
    statistics: GuestStatistics
    sampled_at: float
    need: Need | None
    spare_limit: int | None = None

    @property
    def spare(self) -> int | None:
        """What the guest could give without harm, bytes; None if its statistics do not say."""
        return None if self.need is None else self._spare_beside(self.need)

    @property
    def unused_spare(self) -> int | None:
        """What the guest could spare even if it has grown since its report, bytes; None if its statistics do not say.

        It may use already what it was given since then, and a guest that grows may grow as much again by its next
        report.
        """
        need = self.need
        if need is None:
            return None
        given = 0 if need.held is None else max(0, self.statistics.actual - need.held)
        return max(0, self._spare_beside(need) - given - need.growth)

    def _spare_beside(self, need: Need) -> int:
        spare = max(0, self.statistics.actual - need.present - guest_margin(self.size))
        return spare if self.spare_limit is None else min(spare, self.spare_limit)


@dataclass(frozen=True, slots=True)
class BalloonProgress:
    """A BalloonProgress is how far one guest has come on the way to its goal, and what was learnt of it.

    Attributes:
        pace: how fast the guest follows requests.
        working_set: how far the guest is being asked for memory that it works with.
    """

    pace: Pace = field(default_factory=Pace)
    working_set: WorkingSetPace = field(default_factory=WorkingSetPace)


def next_step(
    before: BalloonProgress, sample: GuestSample, goal: int, terms: MemoryTerms | None, *, urgent: bool
) -> tuple[BalloonProgress, int | None]:
    """Decide the next request to a guest on its way to ``goal`` bytes.

    Args:
        before: the guest's progress so far.
        sample: the guest now.
        goal: what the guest is to have in the end, bytes.
        terms: the terms of the policy that governs the VM; None if none does.
        urgent: whether memory that guests work with is needed at once.

    Returns:
        The progress now, and the request to make, in bytes, or None when there is nothing to request.
    """
    spare, actual = sample.spare, sample.statistics.actual
    reclaim = _reclaim_working_set(before.working_set, sample, spare, goal, terms, urgent=urgent)
    balloon = pacing.BalloonSample(
        actual,
        sample.sampled_at,
        reclaim.spare(actual, sample.unused_spare),
        troubled=sample.need is not None and sample.need.troubled and reclaim.limit is None,
        urgent=urgent,
        max_residual=pacing.max_residual(sample.size),
    )
    max_rate = None if terms is None else terms.max_rate
    pace, request = pacing.advance(before.pace, balloon, max(goal, reclaim.floor), max_rate)
    return replace(before, pace=pace, working_set=reclaim), request


def _reclaim_working_set(
    before: WorkingSetPace,
    sample: GuestSample,
    spare: int | None,
    goal: int,
    terms: MemoryTerms | None,
    *,
    urgent: bool,
) -> WorkingSetPace:
    """Decide how far the guest may be asked for memory that it works with; only a policy can allow that at all."""
    if terms is None or sample.need is None or spare is None or sample.spare_limit is not None:
        return before.stopped()
    if not terms.working_set.allowed:
        return before.stopped()
    report = WorkingSetReport(sample.size, spare, sample.need.troubled, sample.statistics)
    delay = terms.working_set_delay
    return working_set.advance(before, report, goal, sample.sampled_at, delay=delay, urgent=urgent)
