"""The agent as a process with many VMs, the real libvirt client, daemons that are fakes, and a fake API server.

usage: python -m hack.bench.crowded_agent PODS NAME ...

Each NAME is a VM whose pod has the uid "pod-NAME". Timing is that of an agent on a real node. Once all VMs have been
reported, the agent prints, as JSON, what it has used and what it holds; and so it does each time it is sent a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hack.testbed.fake_cluster import FakeCluster, Object, cluster, namespace, vmi
from hack.testbed.hostile.agent_process import POLICY, large_machine, write_out
from kubeballoon.agent.agent import Agent
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.settings import AgentSettings, NodeSettings

_STATISTICS_SECONDS = 5
_TICK = os.sysconf("SC_CLK_TCK")


async def main(pods: str, *names: str) -> None:
    """Run an agent until its input ends."""
    api = cluster(*map(_vm, names), policies=[POLICY], namespaces=[namespace()])
    connection: Any = api
    settings = AgentSettings(Path(pods), window=300.0, period=_STATISTICS_SECONDS)
    memory = HostMemoryReader(large_machine(Path(pods)))
    agent = Agent("here", connection, LibvirtHypervisor(), memory, settings, NodeSettings(100 << 20, 64 << 20))
    working = asyncio.create_task(agent.run())
    while len(_reported(api)) < len(names) and not working.done():  # noqa: ASYNC110 - a fake's report is no event
        await asyncio.sleep(0.5)
    while not working.done():
        write_out(describe())
        if not await asyncio.to_thread(sys.stdin.readline):
            os._exit(0)  # a call to a daemon may hang in a thread
    working.result()


def _vm(name: str) -> Object:
    """Make a VM's object, as KubeVirt would."""
    made = vmi(name)
    made["status"]["activePods"] = {f"pod-{name}": "here"}
    return made


def _reported(api: FakeCluster) -> list[str]:
    """List the VMs that the last report shows with figures."""
    vms = api.reports[-1].get("virtualMachines", []) if api.reports else []
    return [vm["name"] for vm in vms if vm.get("need")]


def _kind(thread: str) -> str:
    """Return what the threads that differ only by their VM have in common in their names."""
    return thread.partition(" default_")[0].rstrip("0123456789")


def describe() -> str:
    """Write, as JSON, what the process has used so far, and what it holds."""
    seconds = Counter[str]()
    for thread in threading.enumerate():
        fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
        seconds[_kind(thread.name)] += sum(map(int, fields[11:13]))
    seen = {
        "at": time.monotonic(),
        "cpu_seconds": time.process_time(),
        "by_thread": {name: ticks / _TICK for name, ticks in seconds.most_common()},
        "threads": threading.active_count(),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
    }
    return json.dumps(seen) + "\n"


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
