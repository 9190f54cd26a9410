"""An agent's Lease on the real API server, with the rights that the chart gives agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from hack.testbed.chart import NAMESPACE, RELEASE, agent_kubeconfig
from hack.testbed.controlplane import ControlPlane
from kubeballoon.agent.metrics import AgentMetrics
from kubeballoon.agent.report_writer import ReportWriter
from kubeballoon.api.v1alpha1 import NodeMemory, NodePressureStatus
from kubeballoon.cluster.client import ApiClient, NotFoundError
from kubeballoon.cluster.heartbeat import Heartbeat, lease_name, read_heartbeats
from tests.support.cluster import FakeNode, get

pytestmark = pytest.mark.cluster


@pytest.fixture
async def agent(installed: ControlPlane, node: FakeNode) -> AsyncIterator[ApiClient]:
    async with await ApiClient.connect("test", agent_kubeconfig(installed, node.name)) as client:
        yield client
    delete(installed, node)


def delete(plane: ControlPlane, node: FakeNode) -> None:
    plane.kubectl("delete", "lease", lease_name(node.name), f"--namespace={NAMESPACE}", "--ignore-not-found")


async def test_an_agent_s_heartbeats_are_read_where_its_report_says(
    installed: ControlPlane, node: FakeNode, agent: ApiClient
) -> None:
    heartbeat = Heartbeat(agent, node.name)
    assert await heartbeat.last() is None
    assert await heartbeat.beat()
    first = await heartbeat.last()
    assert await heartbeat.beat()
    assert await Heartbeat(agent, node.name).beat(), "another pod of the node's agent goes on with the Lease"
    assert await heartbeat.beat(), "and this one, while both run"
    assert heartbeat.namespace == NAMESPACE
    lease = get(installed, "lease", lease_name(node.name), f"--namespace={NAMESPACE}")
    (owner,) = lease["metadata"]["ownerReferences"]
    account = get(installed, "serviceaccount", f"{RELEASE}-agent", f"--namespace={NAMESPACE}")
    assert owner["uid"] == account["metadata"]["uid"], "it is deleted with kubeballoon"
    async with await ApiClient.connect("test", installed.kubeconfig) as administrator:
        read = await read_heartbeats(administrator, NAMESPACE)
    assert first is not None
    assert first < read[node.name] < datetime.now(UTC) + timedelta(minutes=1)


async def test_a_lease_that_was_deleted_is_noticed_and_made_anew(
    installed: ControlPlane, node: FakeNode, agent: ApiClient
) -> None:
    heartbeat = Heartbeat(agent, node.name)
    assert await heartbeat.beat()
    delete(installed, node)
    with pytest.raises(NotFoundError):
        await heartbeat.beat()
    assert await heartbeat.beat()


async def test_who_has_no_account_has_no_lease(installed: ControlPlane, node: FakeNode) -> None:
    async with await ApiClient.connect("test", installed.kubeconfig) as administrator:
        heartbeat = Heartbeat(administrator, node.name)
        assert not await heartbeat.beat()
        assert heartbeat.namespace is None


async def test_a_report_of_an_earlier_version_loses_its_managed_fields(
    installed: ControlPlane, node: FakeNode, agent: ApiClient
) -> None:
    node.add("vm")
    node.report()  # by server-side apply, as agents once wrote it
    memory = NodeMemory(total=1 << 30, available=1 << 29, other=0, reserve=0)
    writer = ReportWriter(node.name, agent, AgentMetrics(node.name, lambda: None, dict))
    await writer.write(NodePressureStatus(observed_at=datetime.now(UTC), memory=memory))
    assert writer.unready() is None
    stored = get(installed, "nodepressure", node.name, "--show-managed-fields")
    assert "virtualMachines" not in stored["status"] or stored["status"]["virtualMachines"] == []
    entries = [each for each in stored["metadata"]["managedFields"] if each.get("subresource") == "status"]
    assert [each["fieldsV1"] for each in entries] == [{"f:status": {}}]
