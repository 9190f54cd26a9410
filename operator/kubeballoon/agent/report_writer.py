"""This module writes the agent's reports into its node's NodePressure, and says what keeps it from that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from kubeballoon.agent.metrics import AgentMetrics
from kubeballoon.agent.status_writer import StatusWriter
from kubeballoon.api.v1alpha1 import API_VERSION, NodePressureStatus
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, Object

_log = logging.getLogger(__name__)


class ReportWriter:
    """A ReportWriter writes the reports of one node.

    Attributes:
        written: the report that was written last; None before the first.
        fault: what keeps the agent from reporting, in one line; empty if nothing does.
        kubelet_version: the version of the node's kubelet; empty until it is known.
    """

    def __init__(
        self, node: str, cluster: ApiClient, metrics: AgentMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write reports of the node ``node``; ``metrics`` count them, and ``clock`` gives monotonic seconds."""
        self.written: NodePressureStatus | None = None
        self.fault = ""
        self.kubelet_version = ""
        self._node = node
        self._cluster = cluster
        self._status_writer = StatusWriter(cluster, node, clock)
        self._metrics = metrics
        self._clock = clock
        self._written_at = 0.0
        self._must_create = True  # whether the node's NodePressure may not exist

    def unready(self) -> str | None:
        """Say in one line why the last report was not written; None if it was."""
        return (self.fault or "nothing reported yet") if self._must_create else None

    def due(self, heartbeat: float) -> bool:
        """Whether to write although nothing has changed, because the last report is ``heartbeat`` seconds old."""
        return self._must_create or self._clock() - self._written_at >= heartbeat

    def replace_refused(self, status: NodePressureStatus) -> NodePressureStatus:
        """Replace what was refused lately of a VM by a report that says so."""
        return self._status_writer.replace_refused(status)

    async def write(self, status: NodePressureStatus) -> None:
        """Write a report; a failure is logged once, and shows in ``fault``."""
        try:
            if self._must_create:
                await self._create()
            status = await self._status_writer.write(status)
        except ApiError as error:
            self._metrics.wrote(None)
            self._must_create = True  # it may be gone; it is made anew when the API server answers again
            self.log_fault(str(error))
            return
        if self.fault:
            _log.info("reporting again")
        self.fault = ""
        self._metrics.wrote(status.observed_at)
        self.written, self._written_at, self._must_create = status, self._clock(), False

    def log_fault(self, text: str) -> None:
        """Log once what keeps the agent from reporting."""
        if text != self.fault:
            _log.warning("%s", text)
        self.fault = text

    async def _create(self) -> None:
        """Create the NodePressure, owned by its Node, so that it is deleted with the Node."""
        node = await self._cluster.get(paths.node(self._node))
        self.kubelet_version = node.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node["metadata"]["uid"]}
        metadata = {"name": self._node, "ownerReferences": [owner]}
        body: Object = {"apiVersion": API_VERSION, "kind": "NodePressure", "metadata": metadata}
        await self._cluster.apply(paths.node_pressure(self._node), body)
