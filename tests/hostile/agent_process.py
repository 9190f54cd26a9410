"""The agent as a process of its own, with the real libvirt client and an API server that is a fake.

usage: python -m tests.hostile.agent_process PODS NEEDY NAME ...

Each NAME is a VM of 1 GiB, with one processor requested of it, whose pod is "pod-NAME". Half of its memory is requested
of the VM named NEEDY, under a policy that governs all. The node has enough for all. Until its input ends, the agent
prints twice a second, as JSON: the last report of each VM, when each was last sampled, and what the process uses.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubeballoon.agent.agent import Agent, NodeLimits
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.settings import AgentSettings
from kubeballoon.agent.wait_times import DEFAULT_TIMING, LibvirtTiming, Timing
from kubeballoon.core.backoff import Backoff
from tests.agent.test_loops import FakeCluster, cluster, namespace, vmi
from tests.support.cluster import memory_policy

TIMING = Timing(
    node=replace(DEFAULT_TIMING.node, check_interval=0.5, heartbeat=1.0),
    memory=replace(DEFAULT_TIMING.memory, poll=0.5, longest_poll=0.5, reconnect=Backoff(shortest=0.5, longest=2.0)),
    guest=replace(DEFAULT_TIMING.guest, idle_poll=0.5, reconnect=Backoff(shortest=0.5, longest=2.0)),
    libvirt=LibvirtTiming(call=2.0, connect=2.0, agent_answer=1, agent_queue=1.0),
)


async def main(pods: str, needy: str, *names: str) -> None:
    """Run the agent."""
    request = {needy: {"memory_target": "512Mi", "memory_min": "256Mi", "policy": "all"}}
    vms = [vmi(name, processor_target="1", **request.get(name, {})) for name in names]
    api = cluster(*vms, policies=[memory_policy("all", memory={"min": "256Mi"})], namespaces=[namespace()])
    connection: Any = api
    settings = AgentSettings(Path(pods), 60.0, 1, TIMING)
    limits = NodeLimits(100 << 20, 64 << 20)
    machine = Path(pods).with_name("proc-of-a-large-machine")
    machine.mkdir(exist_ok=True)
    (machine / "meminfo").write_text(f"MemTotal: {256 << 20} kB\nMemAvailable: {200 << 20} kB\n")
    memory = HostMemoryReader(machine)
    agent = Agent("here", connection, LibvirtHypervisor(TIMING.libvirt), memory, settings, limits)
    working = asyncio.create_task(agent.run())
    over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    while not over.done():
        await asyncio.wait({working, over}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        tell(api, agent, names)
    os._exit(0)  # a call to a daemon may hang in a thread


def tell(api: FakeCluster, agent: Agent, names: tuple[str, ...]) -> None:
    """Print what is seen from outside."""
    labels = [{"namespace": "default", "name": name} for name in names]
    value = agent.metrics.registry.get_sample_value
    told = {
        "vms": {vm["name"]: vm for vm in api.reports[-1].get("virtualMachines", [])} if api.reports else {},
        "memory": api.reports[-1]["memory"] if api.reports else {},
        "sampled": {each["name"]: value("kubeballoon_vm_sample_timestamp_seconds", each) for each in labels},
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "threads": threading.active_count(),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }
    print(json.dumps(told), flush=True)  # noqa: T201 - the test reads it


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
