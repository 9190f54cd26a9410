"""What a controller of 500 nodes with 20 VMs each does in time, against an API server that costs nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from hack.testbed.fake_api_server import FakeApiServer, Write
from hack.testbed.fleet import Fleet, policy, serve_fleet
from kubeballoon.api.names import MEMORY_TARGET
from kubeballoon.cluster import paths

Row = dict[str, object]

_NODES, _VMS = 500, 20
_CHANGED_PART, _SHORT_PART = 0.4, 0.04  # of the nodes: those whose VMs a policy change touches, and that run short
_LATENCY = 0.012  # seconds for each write: what a real API server takes for the patch of a VMI
_DEADLINE = 240.0
_OUTAGE = 30.0
_QUIET_SECONDS = 4.0
_PROBE_SECONDS = 0.05


def rows() -> list[Row]:
    """Run all scenes one after the other on one fleet."""
    return [asyncio.run(measure(_NODES, _VMS))]


async def measure(nodes: int, vms: int) -> Row:
    """Run all scenes on a fleet of so many nodes, with so many VMs each."""
    fleet = Fleet(nodes, vms, pooled=int(nodes * _CHANGED_PART))
    with tempfile.TemporaryDirectory() as directory:
        async with FakeApiServer(_LATENCY, fleet.follow) as server:
            serve_fleet(server, fleet)
            bench = _Bench(server, fleet, Path(directory))
            for name in ("a", "b"):
                server.put(paths.MEMORY_POLICIES, policy(name, name))
            row: Row = {"nodes": nodes, "vms": vms}
            scenes = (
                bench.first_start,
                bench.start_again,
                bench.change,
                bench.kill_leader,
                bench.outage,
                bench.recreate,
            )
            for scene in scenes:
                row |= await scene()
                print(f"  {scene.__name__}: {json.dumps(row)}", file=sys.stderr, flush=True)
            return row


@dataclass(slots=True)
class _Bench:
    """A _Bench runs controllers against a fleet; each scene returns figures."""

    server: FakeApiServer
    fleet: Fleet
    directory: Path
    _policies: int = 0
    _started: int = 0
    _holds: list[float] = field(default_factory=list)

    async def first_start(self) -> Row:
        """Start a controller while no VM has a request yet."""
        async with self._controller() as replica:
            began = await replica.leads()
            await _until(lambda: bool(self.server.writes))
            first = self.server.writes[0].at - began
            await self._quiet()
            writes = self.server.writes
            seconds = writes[-1].at - writes[0].at
            return {
                "first_write_s": round(first, 1),
                "writes_per_s": round(len(writes) / seconds),
                "first_writes": len(writes),
                "first_peak_mib": replica.peak_mib(),
            }

    async def start_again(self) -> Row:
        """Start a controller while everything is as it should be."""
        lists = self.server.requests[f"LIST {paths.NODE_PRESSURES}"]
        async with self._controller() as replica:
            began = await replica.leads()
            await _until_async(lambda: replica.decided(1))
            first = time.monotonic() - began
            await _until_async(lambda: replica.decided(self.fleet.nodes))
            every = time.monotonic() - began
            await asyncio.sleep(15.0)
            return {
                "first_round_s": round(first, 1),
                "every_round_s": round(every, 1),
                "peak_mib": replica.peak_mib(),
                "resident_mib": replica.resident_mib(),
                "longest_hold_s": round(max(replica.holds), 2),
                "node_lists": self.server.requests[f"LIST {paths.NODE_PRESSURES}"] - lists,
            }

    async def change(self) -> Row:
        """Change a policy of 200 nodes' VMs; meanwhile other nodes run short of memory, and a hundred VMs change."""
        async with self._controller() as replica:
            await self._settled(replica)
            replica.holds.clear()
            before, began, cpu = len(self.server.writes), time.monotonic(), replica.cpu_seconds()
            self._change_policy()
            await asyncio.sleep(1.0)
            since = {}
            for node in list(self.fleet.bodies)[-max(1, int(self.fleet.nodes * _SHORT_PART)) :]:
                self.fleet.run_short(node)
                since[node] = time.monotonic()
                await asyncio.sleep(0.1)
            await self._quiet()
            writes = self.server.writes[before:]
            waits = [self._first_write(writes, node, at) - at for node, at in since.items()]
            status = min(
                (at for at, name, body in self.server.statuses if name == "a" and at > began), default=float("inf")
            )
            return {
                "need_p50_s": round(statistics.median(waits), 2),
                "need_p99_s": round(max(waits), 2),
                "status_s": round(status - began, 1),
                "change_writes": len(writes),
                "change_s": round(writes[-1].at - began, 1),
                "change_cpu_s": round(replica.cpu_seconds() - cpu, 1),
                "change_hold_s": round(max(replica.holds), 2),
            }

    async def kill_leader(self) -> Row:
        """Kill the leader while it writes; a second replica stands by."""
        async with self._controller() as first, self._controller() as second:
            await _until(lambda: "leading as" in first.log() or "leading as" in second.log())
            leader = first if "leading as" in first.log() else second
            await self._settled(leader)
            self._change_policy()
            before = len(self.server.writes)
            await _until(lambda: len(self.server.writes) > before + 200)
            leader.process.kill()
            killed, count = time.monotonic(), len(self.server.writes)
            await asyncio.sleep(0.5)
            after = len(self.server.writes)
            await _until(lambda: len(self.server.writes) > after)
            gap = self.server.writes[after].at - killed
            await self._quiet()
            written = [(write.vmi, tuple(sorted(write.annotations.items()))) for write in self.server.writes[before:]]
            return {
                "failover_s": round(gap, 1),
                "twice": len(written) - len(set(written)),
                "after_kill": len(self.server.writes) - count,
            }

    async def outage(self) -> Row:
        """Take the API server away for 30 s; a policy changes meanwhile."""
        async with self._controller() as replica:
            await self._settled(replica)
            before = len(self.server.writes)
            async with self.server.outage():
                self._change_policy()
                await asyncio.sleep(_OUTAGE)
            back = time.monotonic()
            await _until(lambda: len(self.server.writes) > before)
            gap = self.server.writes[before].at - back
            await self._quiet()
            return {"outage_s": round(gap, 1), "restarts": int(replica.process.poll() is not None)}

    async def recreate(self) -> Row:
        """Delete all VMs of half of the nodes at once, and create them anew at once under the same names."""
        async with self._controller() as replica:
            await self._settled(replica)
            resident = replica.resident_mib()
            nodes = list(self.fleet.bodies)[: self.fleet.nodes // 2]
            vms = self.fleet.delete_vms(nodes)
            for vmi in vms:
                del self.server.vmis[vmi]
            await self._quiet()
            began = time.monotonic()
            self.server.vmis.update(self.fleet.create_vms(vms))
            await _until(lambda: all(MEMORY_TARGET in self.server.vmis[vmi].annotations for vmi in vms))
            seconds = time.monotonic() - began
            await self._quiet()
            growth = replica.resident_mib() - resident
            return {"recreated": len(vms), "recreated_s": round(seconds, 1), "recreated_growth_mib": round(growth, 1)}

    def _change_policy(self) -> None:
        self._policies += 1
        minimum = "45%" if self._policies % 2 else "30%"
        body = policy("a", "a", min=minimum, headroom="35%" if self._policies % 2 else "10%")
        known = self.server.get(paths.MEMORY_POLICIES, "a")
        body["metadata"]["generation"] = known["metadata"]["generation"] + 1
        body["status"] = known.get("status", {})
        self.server.put(paths.MEMORY_POLICIES, body)

    def _first_write(self, writes: Sequence[Write], node: str, since: float) -> float:
        return min(each.at for each in writes if each.at >= since and self.fleet.home(each.vmi) == node)

    async def _settled(self, replica: _Replica) -> None:
        """Wait until the controller has decided for every node, and writes nothing more."""
        await _until_async(lambda: replica.decided(self.fleet.nodes))
        await self._quiet()

    async def _quiet(self) -> None:
        """Wait until nothing was written for a while."""
        deadline = time.monotonic() + _DEADLINE
        while True:
            count = len(self.server.writes)
            await asyncio.sleep(_QUIET_SECONDS)
            if len(self.server.writes) <= count:
                return
            if time.monotonic() > deadline:
                raise RuntimeError("the controller does not stop writing")

    @asynccontextmanager
    async def _controller(self) -> AsyncIterator[_Replica]:
        self._started += 1
        replica = _Replica.start(self.server.write_kubeconfig(self.directory / "kubeconfig"), self._started)
        probing = asyncio.create_task(replica.probe())
        try:
            yield replica
        finally:
            probing.cancel()
            if replica.process.poll() is None:
                replica.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(replica.process.wait, 20)


@dataclass(slots=True)
class _Replica:
    """A _Replica is a controller's process.

    Attributes:
        holds: how long its event loop left probes without an answer, seconds.
    """

    process: subprocess.Popen[bytes]
    port: int
    path: Path
    holds: list[float] = field(default_factory=lambda: [0.0])

    @classmethod
    def start(cls, kubeconfig: Path, number: int) -> _Replica:
        """Start a controller."""
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            port = holder.getsockname()[1]
        path = kubeconfig.with_name(f"log-{number}")
        options = (f"--kubeconfig={kubeconfig}", "--namespace=kubeballoon-system", f"--listen=127.0.0.1:{port}")
        command = [sys.executable, "-m", "kubeballoon", "controller", *options]
        with path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        return cls(process, port, path)

    def log(self) -> str:
        """Return what it has logged."""
        return self.path.read_text()

    async def leads(self) -> float:
        """Wait until it leads, and return when that was: before, it only starts Python."""
        await _until(lambda: "leading as" in self.log())
        return time.monotonic()

    async def decided(self, nodes: int) -> bool:
        """Whether it has decided for so many nodes."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
                session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
            ):
                return (await answer.text()).count("\nkubeballoon_node_capacity_bytes{") >= nodes
        return False

    async def probe(self) -> None:
        """Ask the liveness probe again and again, and record how long each answer took."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            while True:
                began = time.monotonic()
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://127.0.0.1:{self.port}/healthz"):
                        self.holds.append(time.monotonic() - began)
                await asyncio.sleep(_PROBE_SECONDS)

    def cpu_seconds(self) -> float:
        """Return the processor time that it has used, seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Return the most memory that it has held, MiB."""
        return self._memory("VmHWM")

    def resident_mib(self) -> float:
        """Return the memory that it holds, MiB."""
        return self._memory("VmRSS")

    def _memory(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return round(int(found[1]) / 1024, 1) if found else 0.0


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_DEADLINE:.0f} s in vain")
        await asyncio.sleep(0.05)


async def _until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not await condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_DEADLINE:.0f} s in vain")
        await asyncio.sleep(0.3)
