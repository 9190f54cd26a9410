"""This module checks, for a replica that stands by, whether it could read what a leader reads."""

from __future__ import annotations

import asyncio
import logging

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError, UnreachableError

_log = logging.getLogger(__name__)

_COLLECTIONS = (
    paths.NAMESPACES,
    paths.MEMORY_POLICIES,
    paths.PROCESSOR_POLICIES,
    paths.NODE_POLICIES,
    paths.NODE_PRESSURES,
)


class StandbyCheck:
    """A StandbyCheck lists one object of every kind that a leader reads, now and then, while its replica stands by.

    Attributes:
        fault: why a kind could not be listed at the last attempt, in one line; None if all could.
    """

    def __init__(self, cluster: ApiClient, interval: float) -> None:
        """Try every ``interval`` seconds whether all kinds can be listed."""
        self._cluster = cluster
        self._interval = interval
        self.fault: str | None = "not all kinds have been listed yet"

    async def run(self) -> None:
        """Check until cancelled; the same fault is logged once."""
        while True:
            try:
                for path in _COLLECTIONS:
                    await self._cluster.get(path, limit="1")
                self.fault = None
            except ApiError as error:
                # An API server that cannot be reached is logged by the Lease, which needs it too.
                if str(error) != self.fault and not isinstance(error, UnreachableError):
                    _log.warning("%s", error)
                self.fault = str(error)
            await asyncio.sleep(self._interval)
