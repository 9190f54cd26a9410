"""This module estimates what the guest of one VM works with, over gaps in its reports and restarts of the agent."""

from __future__ import annotations

from kubeballoon.agent.hypervisor.protocols import DomainSample
from kubeballoon.core.memory import demand
from kubeballoon.governance.report_bounds import SILENT_AFTER


class NeedEstimator:
    """A NeedEstimator estimates what the guest of one VM works with.

    Attributes:
        calibration: what the movements of the VM's balloon have shown.
    """

    def __init__(self, window: float) -> None:
        """Begin without any statistics; ``window`` is the time constant of the slow average, seconds."""
        self.calibration = demand.BalloonCalibration()
        self._window = window
        self._last_statistics: demand.GuestStatistics | None = None
        self._last_need: demand.Need | None = None  # also while there is no estimate: need falls slowly over gaps too

    def restore(self, need: int, estimated_at: float) -> demand.Need:
        """Begin with an estimate in bytes that an earlier agent made at ``estimated_at`` monotonic seconds."""
        self._last_need = demand.Need(need, need, need, estimated_at)
        return self._last_need

    def forget_statistics(self) -> None:
        """Forget the last statistics: between them and the next ones nobody looked at the guest."""
        self._last_statistics = None

    def estimate(
        self, sample: DomainSample, now: float, current: demand.Need | None, *, fresh: bool
    ) -> demand.Need | None:
        """Take a sample in, and return the estimate as of ``now`` seconds; None while the statistics are stale.

        Args:
            sample: the VM.
            now: monotonic seconds, by which the sample's statistics are dated too.
            current: the estimate so far; it holds while it is not known where the balloon was when the guest reported.
            fresh: whether the sample's statistics count.
        """
        self.calibration = self.calibration.observe(sample.statistics, sample.size, now)
        if not fresh:
            self.forget_statistics()
            return None
        statistics = self.calibration.calibrate(sample.statistics)
        if statistics is None:
            return current
        last = self._last_need
        if last is not None and not 0 <= now - last.updated <= SILENT_AFTER:
            last = None
        need = self._last_need = demand.update(last, self._last_statistics, statistics, self._window)
        if self._last_statistics is None or statistics.updated != self._last_statistics.updated:
            self._last_statistics = statistics
        return need
