"""This module reads the labels of the agent's Node now and then, for the selectors of NodePolicies.

A watch would need the right to list all Nodes, and would deliver each status that the kubelet writes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError

_log = logging.getLogger(__name__)


class NodeLabels:
    """NodeLabels are the labels of the agent's Node.

    Attributes:
        known: the labels when they were last read; None before that.
        tried: whether they were read, or the attempt has failed.
    """

    def __init__(
        self,
        cluster: ApiClient,
        node: str,
        changed: Callable[[], None],
        interval: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Read them every ``interval`` seconds, and call ``changed`` when they differ."""
        self.known: Mapping[str, str] | None = None
        self.tried = False
        self._cluster = cluster
        self._path = paths.node(node)
        self._changed = changed
        self._interval = interval
        self._sleep = sleep
        self._fault = ""

    async def run(self) -> None:
        """Read them until cancelled; the same fault is logged once."""
        while True:
            try:
                await self._read()
            except ApiError as error:
                if str(error) != self._fault:
                    _log.warning("the labels of this node are not known anew: %s", error)
                self._fault = str(error)
            if not self.tried:
                self.tried = True
                self._changed()
            await self._sleep(self._interval * random.uniform(0.8, 1.2))  # noqa: S311 - spreads many agents' reads

    async def _read(self) -> None:
        # From the API server's cache, as kubelets read their Nodes: the version says that any will do.
        node = await self._cluster.get(self._path, resourceVersion="0")
        labels = dict(node["metadata"].get("labels") or {})
        self._fault = ""
        if labels != self.known:
            self.known = labels
            self._changed()
