"""This module follows the nodes' reports.

kopf would list all of them at once, and takes longer for each event than the decision that follows from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, Object
from kubeballoon.cluster.reflector import Follower
from kubeballoon.controller.cluster_state import ClusterState

_LONGEST_PAUSE = 5.0  # seconds between attempts: decisions go on soon after the API server is back


class ReportWatch(Follower):
    """A ReportWatch takes every NodePressure into the cluster state."""

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        changed: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep ``state`` up to date; ``changed`` is called with the name of each node whose decision may differ."""
        super().__init__(cluster, paths.NODE_PRESSURES, longest_pause=_LONGEST_PAUSE)
        self._state = state
        self._node_changed = changed
        self._clock = clock
        self._names: dict[str, str] = {}  # by uid

    def fault(self) -> str | None:
        """Say in one line that the nodes' reports cannot be followed; None if they can."""
        return None if self.synced.is_set() and self.reachable else "the nodes' reports cannot be watched"

    def _take(self, item: Object) -> None:
        metadata = item["metadata"]
        self._names[metadata["uid"]] = metadata["name"]
        if self._state.put_node(item, self._clock()):
            self._node_changed(metadata["name"])

    def _drop(self, item: Object) -> None:
        self._forget(item["metadata"]["uid"])

    def _keep(self, uids: set[str]) -> None:
        for uid in self._names.keys() - uids:
            self._forget(uid)

    def _listed(self) -> None:
        """Do nothing more: every node was taken in one by one."""

    def _forget(self, uid: str) -> None:
        """Forget a node, unless another object has its name now."""
        name = self._names.pop(uid, None)
        known = self._state.nodes.get(name) if name is not None else None
        if name is not None and (known is None or known.metadata.uid in ("", uid)):
            self._state.forget_node(name)
            self._node_changed(name)  # the round of a node that is gone drops the node's result
