"""This module writes the agent's reports into its node's NodePressure, and says what keeps it from that."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from kubeballoon.agent.metrics import AgentMetrics, ReportResult
from kubeballoon.agent.partial_report_writer import PartialReportWriter
from kubeballoon.agent.report_changes import News, texts_changed
from kubeballoon.agent.wait_times import DEFAULT_TIMING, NodeTiming
from kubeballoon.api.v1alpha1 import API_VERSION, NodePressureStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, BusyError, NotFoundError, Object, UnreachableError
from kubeballoon.cluster.heartbeat import Heartbeat

_log = logging.getLogger(__name__)

_LASTING = 2  # heartbeats that failed, after which only a report keeps the node from counting as silent
_LONGEST_WAIT = 60.0  # seconds that an API server may have the agent wait: longer, and the node would count as silent


class ReportWriter:
    """A ReportWriter writes the reports of one node, and says now and then that the last one still holds.

    Attributes:
        written: the report that was written last; None before the first.
        fault: what keeps the agent from reporting, in one line; empty if nothing does.
        kubelet_version: the version of the node's kubelet; empty until it is known.
    """

    def __init__(
        self,
        node: str,
        cluster: ApiClient,
        metrics: AgentMetrics,
        clock: Callable[[], float] = time.monotonic,
        timing: NodeTiming = DEFAULT_TIMING.node,
    ) -> None:
        """Write reports of the node ``node``; ``metrics`` count them, and ``clock`` gives monotonic seconds."""
        self.written: NodePressureStatus | None = None
        self.fault = ""
        self.kubelet_version = ""
        self._node = node
        self._cluster = cluster
        self._partial_report_writer = PartialReportWriter(cluster, node, clock)
        self._heartbeat = Heartbeat(cluster, node)
        self._metrics = metrics
        self._clock = clock
        self._timing = timing
        self._written_at = self._confirmed_at = 0.0  # when the last report was written, and when last said to hold
        self._retry = timing.retry
        self._failing = True  # whether the last attempt to report failed, or none was made
        self._must_create = True  # whether the node's NodePressure may not exist

    def unready(self) -> str | None:
        """Say in one line why the last report was not written; None if it was."""
        return (self.fault or "nothing reported yet") if self._failing else None

    async def last_heartbeat(self) -> datetime | None:
        """Read when an agent of this node last said that its report holds; None if that is not known."""
        try:
            return await self._heartbeat.last()
        except ApiError:
            return None  # the report's own date is all there is

    def due(self) -> bool:
        """Whether to tell the controller something although nothing has changed."""
        return self.written is None or self._clock() - self._confirmed_at >= self._timing.heartbeat

    def pause(self, news: News) -> float:
        """Compute the seconds until such news may be written."""
        now, floor = self._clock(), {News.DRIFT: self._timing.drift_floor, News.MOVED: self._timing.moved_floor}
        since = now if self.written is None else self._written_at + floor.get(news, 0.0)
        return max(0.0, since - now, self._retry.until - now)

    def replace_refused(self, status: NodePressureStatus) -> NodePressureStatus:
        """Replace what was refused lately of a VM by a report that says so."""
        return self._partial_report_writer.replace_refused(status)

    async def write(self, status: NodePressureStatus) -> None:
        """Write a report; a failure is logged once, and shows in ``fault``."""
        status = status.model_copy(update={"lease_namespace": self._heartbeat.namespace})
        try:
            if self._must_create:
                await self._create()
            status = await self._partial_report_writer.write(status)
        except ApiError as error:
            # A NodePressure that is gone is made anew; to look for it after every other failure would be a burst.
            self._must_create = self._must_create or isinstance(error, NotFoundError)
            self._fail(error)
            return
        self._succeed(status.observed_at, ReportResult.WRITTEN)
        self.written, self._written_at, self._must_create = status, self._clock(), False

    async def confirm(self, status: NodePressureStatus) -> None:
        """Say that the last report still holds: by the agent's Lease, or by the report ``status`` where that is needed.

        It is where there is no such Lease, where the report explains something otherwise, and from time to time, for
        figures may have moved by less than is news.
        """
        before = self.written
        if before is None or self._clock() - self._written_at >= self._timing.refresh or texts_changed(before, status):
            await self.write(status)
            return
        try:
            held = await self._heartbeat.beat()
        except NotFoundError:  # so the NodePressure may be gone as well
            self._must_create = True
            await self.write(status)
            return
        except ApiError as error:
            if not self._must_report(error):
                self._fail(error)
                return
            held = False
        if not held or before.lease_namespace != self._heartbeat.namespace:
            await self.write(status)
            return
        self._succeed(datetime.now(UTC), ReportResult.CONFIRMED)

    def _must_report(self, error: ApiError) -> bool:
        """Whether a report must take the place of the Lease, which could not be written because of ``error``.

        While the API server is away or busy, an attempt to write a report as well would only add to its load. But what
        lasts may be the fault of Leases alone: of a webhook that refuses or delays them.
        """
        if isinstance(error, UnreachableError):
            lasts = self._clock() - self._confirmed_at >= _LASTING * self._timing.heartbeat
            return lasts and not isinstance(error, BusyError)
        return True

    def log_fault(self, text: str) -> None:
        """Log once what keeps the agent from reporting."""
        if text != self.fault:
            _log.warning("%s", text)
        self.fault = text

    def _succeed(self, moment: datetime, result: ReportResult) -> None:
        if self.fault:
            _log.info("reporting again")
        self.fault, self._failing, self._retry = "", False, self._retry.succeeded()
        self._confirmed_at = self._clock()
        self._metrics.reported(moment, result)

    def _fail(self, error: ApiError) -> None:
        """Wait before the next attempt, at the least as long as the API server asks; agents spread their attempts."""
        self._metrics.reported(None, ReportResult.FAILED)
        asked = min(error.retry_after, _LONGEST_WAIT) if isinstance(error, BusyError) else 0.0
        spread = random.uniform(0.8, 1.2)  # noqa: S311 - not for secrets
        now = self._clock()
        failed = self._retry.failed(now)
        self._retry = replace(failed, until=now + max(asked, failed.pause) * spread)
        self._failing = True
        self.log_fault(str(error))

    async def _create(self) -> None:
        """Create the NodePressure, owned by its Node, so that it is deleted with the Node."""
        node = await self._cluster.get(paths.node(self._node))
        self.kubelet_version = node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}
        metadata = {"name": self._node, "ownerReferences": [owner]}
        body: Object = {"apiVersion": API_VERSION, "kind": "NodePressure", "metadata": metadata}
        await self._cluster.apply(paths.node_pressure(self._node), body)
