"""This module holds what the controller's remedies for nodes, taints and migrations, have in common."""

from __future__ import annotations

import time
from collections.abc import Callable

from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.events import EventRecorder, ObjectReference
from kubeballoon.controller.cluster_state import ClusterState


class NodeRemedy:
    """A NodeRemedy does for nodes what NodePolicies say, beyond what balloons do, and posts events about it."""

    _event_action: str  # in the event's own words: what the controller did, or would do

    def __init__(
        self,
        cluster: ApiClient,
        state: ClusterState,
        recorder: EventRecorder,
        may_write: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Act on the nodes of ``state`` as far as that is enabled there.

        Args:
            cluster: the API server.
            state: what the controller knows.
            recorder: posts events.
            may_write: whether this replica leads for certain.
            clock: monotonic seconds.
        """
        self._cluster = cluster
        self._state = state
        self._recorder = recorder
        self._may_write = may_write
        self._clock = clock

    async def _post_about_node(self, name: str, reason: str, note: str, *, warning: bool = False) -> None:
        """Post an event about a Node, which is referred to as the kubelet does: with its name for a uid."""
        about = ObjectReference("v1", "Node", name, name)
        await self._recorder.post(about, reason, note, action=self._event_action, warning=warning)
