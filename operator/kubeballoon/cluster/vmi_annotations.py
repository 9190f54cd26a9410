"""This module writes annotations on VMIs, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ConflictError, NotFoundError

_CONCURRENT_PATCHES = 8  # hides the API server's latency without filling its queue for everyone else


class VMIAnnotator:
    """A VMIAnnotator patches annotations on VMIs, at most eight VMIs at a time."""

    def __init__(self, cluster: ApiClient) -> None:
        """Write to the API server ``cluster``."""
        self._cluster = cluster
        self._limit = asyncio.Semaphore(_CONCURRENT_PATCHES)

    async def write(self, namespace: str, name: str, uid: str, annotations: Mapping[str, str | None]) -> bool:
        """Merge annotations into a VMI's; a value of None removes the annotation.

        Returns:
            Whether the annotations were written: False where the VM is gone. Then another VM may have its name, and the
            API server refuses the patch because of the uid.

        Raises:
            ApiError: the API server refuses the patch for another reason, or cannot be reached.
        """
        body = {"metadata": {"uid": uid, "annotations": dict(annotations)}}
        try:
            async with self._limit:
                await self._cluster.merge(paths.instance(namespace, name), body)
        except (NotFoundError, ConflictError):
            return False
        return True
