"""This module finds how many migrations may be begun in the cluster: by KubeVirt's and our own limit."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ApiError
from kubeballoon.cluster.vm_migrations import MigrationLimits, read_limits
from kubeballoon.core.migration import MigrationNode, MigrationTerms

_log = logging.getLogger(__name__)

_READ_EVERY = 60.0  # seconds: an administrator changes these limits once in a long while


class ClusterMigrationLimits:
    """ClusterMigrationLimits hold across all NodePolicies, and count migrations that anybody began."""

    def __init__(self, cluster: ApiClient, max_migrations: int, clock: Callable[[], float]) -> None:
        """Allow ``max_migrations`` migrations in the cluster, or fewer where KubeVirt allows fewer."""
        self._cluster = cluster
        self._at_once = max_migrations
        self._clock = clock
        self._read_at = -math.inf
        self._of_kubevirt = MigrationLimits()
        self._readable = True

    async def update(self) -> None:
        """Read KubeVirt's limits now and then; what was read last holds on, and else KubeVirt's defaults."""
        if self._clock() - self._read_at < _READ_EVERY:
            return
        self._read_at = self._clock()
        try:
            kubevirts = [item async for page in self._cluster.pages(paths.KUBEVIRTS) for item in page["items"]]
        except ApiError as error:
            if self._readable:
                _log.warning("KubeVirt's limits of migrations are taken for its defaults: %s", error)
            self._readable = False
            return
        self._readable = True
        self._of_kubevirt = read_limits(kubevirts)

    def restrict(self, terms: MigrationTerms, nodes: Sequence[MigrationNode], under_way: int) -> MigrationTerms:
        """Restrict a policy's terms to what may be begun in the cluster now.

        Args:
            terms: the policy's.
            nodes: those that it governs, with what is under way there.
            under_way: how many migrations are under way in the cluster.
        """
        free = max(0, min(self._at_once, self._of_kubevirt.in_cluster) - under_way)
        leaving = sum(each.outgoing for each in nodes)
        return replace(
            terms,
            max_migrations=min(terms.max_migrations, leaving + free),
            max_migrations_per_node=min(terms.max_migrations_per_node, self._of_kubevirt.from_node),
        )
