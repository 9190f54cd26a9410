"""The agent as a process of its own, with the real libvirt client and an API server that is a fake.

usage: python -m hack.testbed.hostile.agent_process PODS NEEDY NAME[=POD] ...

Each NAME is a VM of 1 GiB and two processors, of which it is to use one, whose pod has the uid POD, or else "pod-NAME".
Half of its memory is requested of the VM named NEEDY, which may be empty, under a policy that governs all. The node has
enough for all. Until its input ends, the agent prints twice a second, as JSON: the last report of each VM, when each
was last sampled, for how long its event loop was held at most, how far that and a process beside it have counted, and
what the process uses.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hack.testbed.fake_cluster import Object, cluster, namespace, vmi
from hack.testbed.hostile.metronome import Metronome
from hack.testbed.peak_memory import peak_memory
from kubeballoon.agent.agent import Agent
from kubeballoon.agent.hypervisor.libvirt import LibvirtHypervisor
from kubeballoon.agent.node.memory import HostMemoryReader
from kubeballoon.agent.settings import AgentSettings, NodeSettings
from kubeballoon.agent.wait_times import DEFAULT_TIMING, GuestAgentTiming, LibvirtTiming, Timing
from kubeballoon.core.backoff import Backoff

TIMING = Timing(
    node=replace(DEFAULT_TIMING.node, check_interval=0.5, heartbeat=1.0, refresh=1.0),
    memory=replace(DEFAULT_TIMING.memory, poll=0.5, longest_poll=0.5, reconnect=Backoff(shortest=0.5, longest=2.0)),
    guest=replace(DEFAULT_TIMING.guest, poll=0.5, idle_poll=0.5, reconnect=Backoff(shortest=0.5, longest=2.0)),
    guest_agent=GuestAgentTiming(retry=Backoff(shortest=0.5, longest=1.0)),
    libvirt=LibvirtTiming(call=2.0, connect=2.0, agent_answer=1, agent_queue=1.0),
)

POLICY = {
    "apiVersion": "kubeballoon.io/v1alpha1",
    "kind": "MemoryPolicy",
    "metadata": {"name": "all"},
    "spec": {"selector": {}, "memory": {"min": "256Mi"}},
}
_HOLD_INTERVAL = 0.02  # seconds between two measurements of how late the event loop is


async def main(pods: str, needy: str, *vms: str) -> None:
    """Run the agent."""
    pods_of = {name: pod or f"pod-{name}" for name, _, pod in (vm.partition("=") for vm in vms)}
    requests = {needy: {"memory_target": "512Mi", "memory_min": "256Mi", "policy": "all"}}
    made = (vm_of(name, pod, **requests.get(name, {})) for name, pod in pods_of.items())
    api = cluster(*made, policies=[POLICY], namespaces=[namespace()])
    connection: Any = api
    settings = AgentSettings(Path(pods), 60.0, 1, TIMING)
    limits = NodeSettings(100 << 20, 64 << 20)
    memory = HostMemoryReader(large_machine(Path(pods)))
    agent = Agent("here", connection, LibvirtHypervisor(TIMING.libvirt), memory, settings, limits)
    await watch(agent, lambda: api.reports[-1] if api.reports else {}, Path(pods))


async def watch(agent: Agent, last_report: Callable[[], Object], pods: Path) -> None:
    """Run an agent, and print twice a second what is seen of it from outside, until the input ends."""
    held = [0.0]
    working = asyncio.create_task(agent.run())
    watching = asyncio.create_task(measure_holds(held))
    over = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    with Metronome(pods.with_name("metronome")) as metronome:
        while not over.done():
            await asyncio.wait({working, watching, over}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            await asyncio.to_thread(write_out, describe(last_report(), agent, held[0], metronome))
    os._exit(0)  # a call to a daemon may hang in a thread


def large_machine(pods: Path) -> Path:
    """Write the /proc of a machine that has enough memory for all VMs beside the directory of pods, and return it."""
    proc = pods.with_name("proc-of-a-large-machine")
    proc.mkdir(exist_ok=True)
    (proc / "meminfo").write_text(f"MemTotal: {256 << 20} kB\nMemAvailable: {200 << 20} kB\n")
    return proc


def vm_of(name: str, pod: str, **annotations: str) -> Object:
    """Make a VM's object, as KubeVirt would for a pod with this uid, with further annotations."""
    made = vmi(name, processor_target="1", **annotations)
    made["status"]["activePods"] = {pod: "here"}
    made["spec"]["domain"]["cpu"]["sockets"] = 2
    return made


async def measure_holds(held: list[float]) -> None:
    """Note in ``held`` for how long the event loop was held at most, seconds.

    What its thread waited for a processor, because other processes had them all, does not count.
    """
    while True:
        due, waited = time.monotonic() + _HOLD_INTERVAL, _waited_for_processor()
        await asyncio.sleep(_HOLD_INTERVAL)
        late, waited = time.monotonic() - due, _waited_for_processor() - waited
        held[0] = max(held[0], late - waited)


def _waited_for_processor() -> float:
    """Read for how long this thread was ready to run and did not, seconds since it began."""
    _, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    return int(waited) / 1e9


def describe(report: Object, agent: Agent, held: float, metronome: Metronome) -> str:
    """Write, as JSON, what is seen from outside."""
    collected = (sample for metric in agent.metrics.registry.collect() for sample in metric.samples)
    sampled = {
        sample.labels["name"]: sample.value
        for sample in collected
        if sample.name == "kubeballoon_vm_sample_timestamp_seconds"
    }
    seen = {
        "vms": {vm["name"]: vm for vm in report.get("virtualMachines", [])},
        "memory": report.get("memory", {}),
        "sampled": sampled,
        "held": held,
        "ticks": asdict(metronome.ticks),
        "peak": peak_memory(),
        "threads": threading.active_count(),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }
    return json.dumps(seen) + "\n"


def write_out(line: str) -> None:
    """Write a line on stdout, which waits while nobody reads."""
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
