"""What agents cost the API server: one report, as a ratio to a patch of a VMI, and all agents of a fleet at rest.

The ratios are taken within one run, so that they hold on any machine. What the API server uses anyway, with its
controllers, is measured first and taken off.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hack.bench.processes import ProcessUsage
from hack.testbed.chart import NAMESPACE, RELEASE, install
from hack.testbed.controlplane import LocalControlPlane
from hack.testbed.controlplane.programs import Programs
from hack.testbed.lab import GuestSpec, node_object, vmi_object
from kubeballoon.agent.metrics import AgentMetrics
from kubeballoon.agent.report_writer import ReportWriter
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from kubeballoon.api.meta import Condition, ConditionStatus
from kubeballoon.api.v1alpha1 import (
    GuestReport,
    NodeMemory,
    NodePressureStatus,
    NodeProcessors,
    ProcessorReport,
    VirtualMachineReport,
)
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient
from kubeballoon.cluster.kubernetes_async import client, config
from kubeballoon.cluster.reflector import Reflector
from kubeballoon.cluster.vmi_annotations import VMIAnnotator, VMIReference
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import ReclaimMethod

_VM_COUNTS = (20, 100, 250)  # of one node
_AGENTS = 500
_VMS_PER_AGENT = 20
_MOST_PATCHES = 2.0  # that a report of so many VMs may cost
_CONCURRENT = 16
_SHORTEST_SECONDS = 2.0  # of processor time for each kind of write: the kernel counts in hundredths of a second
_TURN = 10  # writes of one kind, before it is another's turn
_MOST_WRITES = 400
_REST_SECONDS = 120.0
_QUIET_SECONDS = 5.0
_DEADLINE = 120.0

Row = dict[str, object]


def measure() -> list[Row]:
    """Measure reports of several sizes, and a fleet at rest."""
    with _installed() as plane:
        return asyncio.run(_measure(plane))


@contextmanager
def _installed() -> Iterator[LocalControlPlane]:
    """Run an API server of our own, for its process is measured; a cluster that the user names is left alone."""
    with LocalControlPlane(Programs.find()) as plane:
        plane.install_kubevirt_crds()
        install(plane)
        yield plane


async def _measure(plane: LocalControlPlane) -> list[Row]:
    async with await ApiClient.connect("kubeballoon-bench", plane.kubeconfig) as admin:
        accounts = _Accounts(plane.kubeconfig, admin)
        meter = _Meter(plane.api_server_pid)
        await meter.measure_idle()
        rows = [await _measure_report(accounts, meter, vms) for vms in _VM_COUNTS]
        return [*rows, await _measure_rest(accounts, meter)]


@dataclass(slots=True)
class _Meter:
    """A _Meter reads what the API server uses.

    Attributes:
        pid: the number of its process.
        idle: the cores that it uses while nobody asks it anything.
    """

    pid: int
    idle: float = 0.0

    async def measure_idle(self) -> None:
        """Measure what the API server uses anyway."""
        await asyncio.sleep(_QUIET_SECONDS)  # until what was installed is known everywhere
        self.idle = 0.0
        self.idle = await self.cores(partial(asyncio.sleep, _QUIET_SECONDS))

    async def cores(self, work: Callable[[], Awaitable[object]]) -> float:
        """Measure the cores that the API server uses while ``work`` goes on, beyond those that it uses anyway."""
        before, started = ProcessUsage.read(self.pid), time.monotonic()
        await work()
        used = ProcessUsage.read(self.pid).seconds - before.seconds
        return used / (time.monotonic() - started) - self.idle

    async def milliseconds(self, *writes: Callable[[int], Awaitable[object]]) -> list[float]:
        """Measure the processor time of the API server for one write of each kind, milliseconds.

        The kinds take turns, so that whatever else the machine does slows all of them down alike.

        Args:
            writes: each writes something that differs by the count that it is given.
        """
        used, counts = [0.0] * len(writes), [0] * len(writes)
        while min(used) < _SHORTEST_SECONDS and max(counts) < _MOST_WRITES:
            for kind, write in enumerate(writes):
                before, started = ProcessUsage.read(self.pid), time.monotonic()
                for _ in range(_TURN):
                    counts[kind] += 1
                    await write(counts[kind])
                seconds = ProcessUsage.read(self.pid).seconds - before.seconds
                used[kind] += seconds - self.idle * (time.monotonic() - started)
        return [1e3 * seconds / count for seconds, count in zip(used, counts, strict=True)]


class _Accounts:
    """_Accounts log in as agents and as the controller, with the rights and the admission rules that users install."""

    def __init__(self, kubeconfig: Path, admin: ApiClient) -> None:
        """Have the administrator ``admin``, whose kubeconfig is given, make pods and tokens."""
        self.admin = admin
        self._kubeconfig = kubeconfig

    async def agent(self, node: str) -> ApiClient:
        """Create a node with the pod of an agent, and log in by a token that is bound to the pod."""
        await self.admin.create(paths.NODES, node_object(node, 64 * GIB))
        name, account = f"{RELEASE}-agent-{node}", f"{RELEASE}-agent"
        spec = {"nodeName": node, "serviceAccountName": account, "containers": [{"name": "agent", "image": "none"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        await self.admin.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
        return await self._log_in(account, {"kind": "Pod", "apiVersion": "v1", "name": name})

    async def controller(self) -> ApiClient:
        """Log in as the controller."""
        return await self._log_in(f"{RELEASE}-controller", None)

    async def _log_in(self, account: str, bound: dict[str, str] | None) -> ApiClient:
        request = {"spec": {"boundObjectRef": bound, "expirationSeconds": 7200}}
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token"
        answer = await self.admin.create(path, {"apiVersion": "authentication.k8s.io/v1", **request})
        configuration = client.Configuration()
        await config.load_kube_config(str(self._kubeconfig), client_configuration=configuration)
        configuration.cert_file = configuration.key_file = None
        configuration.api_key = {"BearerToken": f"Bearer {answer['status']['token']}"}
        return ApiClient(configuration, account)


async def _measure_report(accounts: _Accounts, meter: _Meter, vms: int) -> Row:
    """Measure a report of so many VMs, and a patch of a VMI, each watched as in an installation."""
    node, name = f"bench-{vms}", f"bench-{vms}"
    vmi = await accounts.admin.create(_namespaced_vmis(), _vmi(name, node))
    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(await accounts.agent(node))
        controller = await stack.enter_async_context(await accounts.controller())
        await stack.enter_async_context(_watched(controller, paths.NODE_PRESSURES))
        await stack.enter_async_context(_watched(agent, paths.INSTANCES))
        writer = ReportWriter(node, agent, AgentMetrics(node, lambda: None, dict))
        annotator = VMIAnnotator(controller)
        reference = VMIReference("default", name, vmi["metadata"]["uid"], node)

        async def report(count: int) -> None:
            await writer.write(_report(vms, count))
            if writer.fault:
                raise RuntimeError(writer.fault)

        async def patch(count: int) -> None:
            await annotator.write(reference, _request(count))

        await report(0)
        await patch(0)
        reports, patches = await meter.milliseconds(report, patch)
    stored = await accounts.admin.get(paths.node_pressure(node))
    fields = stored["metadata"].get("managedFields", [])
    return {
        "vms": vms,
        "report_ms": round(reports, 1),
        "vmi_patch_ms": round(patches, 1),
        "report_to_patch": round(reports / patches, 2),
        **({"allowed_ratio": _MOST_PATCHES} if vms == _VMS_PER_AGENT else {}),
        "stored_kb": round(_size(stored) / 1e3, 1),
        "managed_fields_kb": round(_size(fields) / 1e3, 1),
    }


async def _measure_rest(accounts: _Accounts, meter: _Meter) -> Row:
    """Measure what agents cost while nothing happens."""
    async with AsyncExitStack() as stack:
        limit = asyncio.Semaphore(_CONCURRENT)

        async def start(number: int) -> ReportWriter:
            node = f"rest-{number}"
            async with limit:
                agent = await stack.enter_async_context(await accounts.agent(node))
                writer = ReportWriter(node, agent, AgentMetrics(node, lambda: None, dict))
                await writer.write(_report(_VMS_PER_AGENT, 0))
                await writer.confirm(_report(_VMS_PER_AGENT, 0))  # the first heartbeat brings a report of its own
                if writer.fault:
                    raise RuntimeError(writer.fault)
            return writer

        writers = await asyncio.gather(*map(start, range(_AGENTS)))

        async def rest() -> None:
            await asyncio.gather(*map(_rest, writers, range(_AGENTS)))

        cores = await meter.cores(rest)
    return {"agents": _AGENTS, "vms": _VMS_PER_AGENT, "api_server_cores": round(cores, 3)}


async def _rest(writer: ReportWriter, number: int) -> None:
    """Say each minute that a report holds, as an agent does while nothing happens."""
    interval = DEFAULT_TIMING.node.heartbeat
    await asyncio.sleep(interval * number / _AGENTS)
    for _ in range(round(_REST_SECONDS / interval)):
        await writer.confirm(_report(_VMS_PER_AGENT, 0))
        await asyncio.sleep(interval)


@asynccontextmanager
async def _watched(cluster: ApiClient, path: str) -> AsyncIterator[None]:
    """Watch a collection inside the context."""
    reflector = Reflector(cluster, path)
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(_DEADLINE):
            await reflector.synced.wait()
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


def _namespaced_vmis() -> str:
    return paths.instance("default", "x").rpartition("/")[0]


def _vmi(name: str, node: str) -> dict[str, object]:
    """Make a VMI about as large as KubeVirt's, about 10 KB."""
    body = vmi_object(
        GuestSpec(name=name, memory_bytes=4 * GIB),
        f"pod-{name}",
        node,
        annotations={"kubevirt.io/latest-observed-api-version": "v1"},
    )
    script = "\n".join(f"echo line {number} of what its owner wrote for the first boot" for number in range(120))
    volumes = [{"name": "init", "cloudInitNoCloud": {"userData": f"#cloud-config\n{script}"}}]
    return {**body, "spec": {**body["spec"], "volumes": volumes}}


def _request(count: int) -> dict[str, str]:
    return {
        "kubeballoon.io/memory-target": str(3 * GIB + count * MIB),
        "kubeballoon.io/memory-min": "2Gi",
        "kubeballoon.io/policy": "bench",
        "kubeballoon.io/reason": f"its demand is {count} MiB above what it needs least, and its node has idle memory",
    }


def _report(vms: int, count: int) -> NodePressureStatus:
    """Make the report of a node; with each count, a tenth of its VMs have other figures."""
    return NodePressureStatus(
        observed_at=datetime.now(UTC),
        agent_version="bench",
        memory=NodeMemory(total=vms * 3 * GIB, available=vms * GIB, other=8 * GIB, reserve=vms * GIB // 5),
        processors=NodeProcessors(count=64, usage=30, stall=2),
        virtual_machines=[_vm(number, count * MIB if (number + count) % 10 == 0 else 0) for number in range(vms)],
        conditions=[
            Condition(
                type="Ready",
                status=ConditionStatus.TRUE,
                reason="Reporting",
                message=f"{vms} VMs on this node",
                last_transition_time=datetime(2026, 1, 1, tzinfo=UTC),
            )
        ],
    )


def _vm(number: int, more: int) -> VirtualMachineReport:
    size, need = 4 * GIB, GIB + more
    keys = [
        "kubevirt.io/nodeName",
        "kubevirt.io/domain",
        "app.kubernetes.io/name",
        "app.kubernetes.io/part-of",
        "team",
        "env",
        "tier",
    ]
    return VirtualMachineReport(
        uid=f"00000000-0000-4000-8000-{number:012}",
        namespace=f"project-{number % 7}",
        name=f"vm-{number:04}",
        labels=dict.fromkeys(keys, f"some-value-{number}"),
        size=size,
        actual=3 * GIB,
        resident=need + 200 * MIB,
        overhead=300 * MIB,
        need=need,
        present_need=need,
        min=size // 2,
        target=3 * GIB,
        policy="default",
        message="its demand is 1.1 GiB; idle memory beyond it was reclaimed for others on its node",
        method=ReclaimMethod.BALLOON,
        guest=GuestReport(
            available=size - 200 * MIB, usable=size - need, unused=GIB, disk_caches=GIB, swap_in=0, swap_out=0
        ),
        processors=ProcessorReport(size=4, online=4, offlinable=3, usage=37),
    )


def _size(value: object) -> int:
    return len(json.dumps(value, separators=(",", ":")).encode())
