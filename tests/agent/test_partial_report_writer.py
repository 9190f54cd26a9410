"""What an agent reports of one VM never keeps the rest of its report from a real API server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from hack.testbed.chart import agent_kubeconfig
from hack.testbed.controlplane import ControlPlane
from kubeballoon.agent.partial_report_writer import PartialReportWriter
from kubeballoon.api.v1alpha1 import NodeMemory, NodePressureStatus, VirtualMachineReport
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, InvalidError
from tests.support.cluster import MIB, FakeNode, Object, get

pytestmark = pytest.mark.cluster


@pytest.fixture
async def cluster(installed: ControlPlane, node: FakeNode) -> AsyncIterator[ApiClient]:
    async with await ApiClient.connect("test", agent_kubeconfig(installed, node.name)) as client:
        yield client


def vm(name: str, **report: Any) -> VirtualMachineReport:
    return VirtualMachineReport(uid=name, namespace="shop", name=name, size=512 * MIB, **report)


def status(*vms: VirtualMachineReport) -> NodePressureStatus:
    memory = NodeMemory(total=1 << 30, available=1 << 29, other=0, reserve=0)
    return NodePressureStatus(observed_at=datetime.now(UTC), memory=memory, virtual_machines=list(vms))


def written(plane: ControlPlane, node: FakeNode) -> dict[str, Object]:
    return {each["name"]: each for each in get(plane, "nodepressure", node.name)["status"]["virtualMachines"]}


async def test_what_the_api_server_refuses_of_a_vm_costs_its_own_part(
    installed: ControlPlane, node: FakeNode, cluster: ApiClient
) -> None:
    absurd = [vm("digits", need=10**400), vm("count", processors={"size": 1 << 70})]
    await PartialReportWriter(cluster, node.name).write(
        status(vm("a"), absurd[0], vm("b"), vm("c"), absurd[1], vm("d"))
    )
    found = written(installed, node)
    assert {name: each.get("reason") for name, each in found.items()} == {
        **dict.fromkeys("abcd"),
        **dict.fromkeys(("digits", "count"), "BadReport"),
    }
    assert "status.virtualMachines[0].need" in found["digits"]["message"]


async def test_parts_that_are_too_long_for_one_object_are_cut_before_those_of_others(
    installed: ControlPlane, node: FakeNode, cluster: ApiClient
) -> None:
    vms = [vm(f"vm-{number:03}", message="why" * 100) for number in range(250)]
    await PartialReportWriter(cluster, node.name).write(status(*vms, vm("long", policy="x" * (3 << 20))))
    found = written(installed, node)
    assert [name for name, each in found.items() if "reason" in each] == ["long"]
    assert len(found) == 251


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # it is meant to be large
@pytest.mark.parametrize("kilobytes", [1700, 2100, 4000], ids=["for etcd", "for a message to it", "for a request"])
async def test_a_status_that_is_too_large_is_invalid(node: FakeNode, cluster: ApiClient, kilobytes: int) -> None:
    large = status(vm("long", policy="x" * (kilobytes << 10)))
    head: Object = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure", "metadata": {"name": node.name}}
    with pytest.raises(InvalidError):
        await cluster.apply(paths.node_pressure_status(node.name), {**head, "status": large.to_wire()})
