"""This module follows the nodes' reports.

kopf would list all of them at once, and takes longer for each event than the decision that follows from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, Object
from kubeballoon.cluster.reflector import Follower
from kubeballoon.controller.cluster_state import ClusterState

_LONGEST_PAUSE = 5.0  # seconds between attempts: decisions go on soon after the API server is back
# After a node's report, its next one waits for so many times as long as it took to take in: whoever writes large ones
# all the time gets a fifth of the event loop. Those of an honest agent take milliseconds, and come five times a second.
_REST = 4.0
_LONGEST_REST = 1.0  # seconds: what held the process itself up is not the node's fault


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
        self._rests_until: dict[str, float] = {}  # when a node's next report may be taken in, seconds, by uid
        self._waiting: dict[str, Object] = {}  # each node's newest report that has to wait, by uid

    def fault(self) -> str | None:
        """Say in one line that the nodes' reports cannot be followed; None if they can."""
        return None if self.synced.is_set() and self.reachable else "the nodes' reports cannot be watched"

    def _take(self, item: Object) -> None:
        metadata = item["metadata"]
        uid = metadata["uid"]
        self._names[uid] = metadata["name"]
        left = self._rests_until.get(uid, 0.0) - self._clock()
        if uid in self._waiting:
            self._waiting[uid] = item
        elif left > 0:
            self._waiting[uid] = item
            asyncio.get_running_loop().call_later(left, self._take_waiting, uid)
        else:
            self._put(item)

    def _take_waiting(self, uid: str) -> None:
        """Take in a report that had to wait, unless its node is gone."""
        item = self._waiting.pop(uid, None)
        if item is not None:
            self._put(item)

    def _put(self, item: Object) -> None:
        metadata, began = item["metadata"], self._clock()
        changed = self._state.put_node(item, began)
        ended = self._clock()
        self._rests_until[metadata["uid"]] = ended + min(_REST * (ended - began), _LONGEST_REST)
        if changed:
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
        self._waiting.pop(uid, None)
        self._rests_until.pop(uid, None)
        name = self._names.pop(uid, None)
        known = self._state.nodes.get(name) if name is not None else None
        if name is not None and (known is None or known.metadata.uid in ("", uid)):
            self._state.forget_node(name)
            self._node_changed(name)  # the round of a node that is gone drops the node's result
