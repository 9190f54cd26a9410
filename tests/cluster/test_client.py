"""The client on the real API server."""

from __future__ import annotations

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient

pytestmark = pytest.mark.cluster


async def test_an_empty_collection_has_no_names(installed: ControlPlane, namespace: str) -> None:
    async with await ApiClient.connect("test", installed.kubeconfig) as cluster:
        assert await cluster.names(paths.leases(namespace)) == set()
