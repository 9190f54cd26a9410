"""The agent as a process with fake VMs in place of libvirt's: more of them than the machine could hold.

usage: python -m hack.bench.fake_agent KUBECONFIG NODE PODS DOMAIN ...
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from hack.testbed.lab.fakes import FakeGuestControl, FakeHypervisor, FakeMemoryControl
from kubeballoon.agent.agent import Agent
from kubeballoon.agent.hypervisor.call_queue import CallQueue
from kubeballoon.agent.hypervisor.launcher_sockets import RUNTIME
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.settings import AgentSettings, NodeSettings
from kubeballoon.cluster.client import ApiClient

_STATISTICS_SECONDS = 10


async def main(kubeconfig: str, node: str, pods: str, *domains: str) -> None:
    """Run an agent until the process is ended."""
    for domain in domains:
        directory = Path(pods) / f"pod-{domain.partition('_')[2]}" / RUNTIME
        directory.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "virtqemud-sock"))
    memory_controls = {domain: FakeMemoryControl(calls=CallQueue(domain)) for domain in domains}
    guest_controls = {domain: FakeGuestControl(calls=CallQueue(f"{domain} guest")) for domain in domains}
    async with await ApiClient.connect("kubeballoon-agent", Path(kubeconfig)) as cluster:
        settings = AgentSettings(Path(pods), window=300.0, period=_STATISTICS_SECONDS)
        agent = Agent(
            node,
            cluster,
            FakeHypervisor(memory_controls, guest_controls),
            HostMemoryReader(),
            settings,
            NodeSettings(100 << 20, 64 << 20),
        )
        await agent.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
