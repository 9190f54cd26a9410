"""The agent as a process of its own, with the real libvirt client and a real API server.

usage: python -m hack.testbed.hostile.agent_on_cluster PODS NODE KUBECONFIG

It prints what `agent_process` prints; the report is the last one that the API server took.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from hack.testbed.fake_cluster import Object
from hack.testbed.hostile.agent_process import TIMING, large_machine, watch
from kubeballoon.agent.agent import Agent
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.settings import AgentSettings, NodeSettings
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient


class ApiClientWithLastReport:
    """An ApiClientWithLastReport keeps the last report that the API server took, and the length of the longest one.

    Attributes:
        report: what the API server took last; empty before.
    """

    def __init__(self, client: ApiClient, node: str) -> None:
        """Pass everything on to ``client``, and keep the reports of the node ``node``."""
        self.report: Object = {}
        self._client = client
        self._path = paths.node_pressure_status(node)
        self._longest = self._count = 0

    def __getattr__(self, name: str) -> Any:
        """Pass on what is not recorded."""
        return getattr(self._client, name)

    async def json_patch(self, path: str, operations: list[Object], *, dry_run: bool = False) -> Object:
        """Pass a patch on, and keep it if it is a report that is taken."""
        answer = await self._client.json_patch(path, operations, dry_run=dry_run)
        if path == self._path and not dry_run:
            self._longest, self._count = max(self._longest, len(json.dumps(operations))), self._count + 1
            self.report = {**operations[0]["value"]}
            self.report["memory"] = {**self.report["memory"], "longest": self._longest, "count": self._count}
        return answer


async def main(pods: str, node: str, kubeconfig: str) -> None:
    """Run the agent."""
    async with await ApiClient.connect("test", Path(kubeconfig)) as client:
        recording = ApiClientWithLastReport(client, node)
        connection: Any = recording
        memory = HostMemoryReader(large_machine(Path(pods)))
        settings = AgentSettings(Path(pods), 60.0, 1, TIMING)
        hypervisor = LibvirtHypervisor(TIMING.libvirt)
        agent = Agent(node, connection, hypervisor, memory, settings, NodeSettings(100 << 20, 64 << 20))
        await watch(agent, lambda: recording.report, Path(pods))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
