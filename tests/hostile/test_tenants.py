"""Tenants whose VMs' objects are as long, as odd and as restless as the real API server lets them be.

They are on one node, beside a VM that is honest, with a real agent that reaches all of them by the real libvirt client.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane
from hack.testbed.hostile.metronome import Ticks
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, UnreachableError
from tests.support.cluster import FakeNode, Object, get
from tests.support.honest_agents import agent_of
from tests.support.processes import memory_limit

pytestmark = pytest.mark.cluster

KIB, GIB = 1 << 10, 1 << 30
HONEST, RESTLESS = "honest", "restless"


def labels(kilobytes: int) -> dict[str, str]:
    """Make labels of so many KiB; each value is as long as values may be."""
    return {f"key-{number:05}": "x" * 63 for number in range((kilobytes << 10) // 72)}


TENANTS: dict[str, dict[str, str]] = {
    "long-1": labels(800),
    "long-2": labels(800),
    "many": {f"k{number}": "" for number in range(9000)},
    RESTLESS: labels(900) | {"a": "0"},
}
DIGITS = "digits"  # the VM whose object says that its memory has 4,000 digits
FLAPS = 20


@pytest.fixture
async def tenant(installed: ControlPlane) -> AsyncIterator[ApiClient]:
    async with await ApiClient.connect("test", installed.kubeconfig) as client:
        yield client


def vmi(node: FakeNode, name: str, added: dict[str, str]) -> Object:
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "namespace": node.namespace, "labels": {"kubevirt.io/nodeName": node.name, **added}},
        "spec": {"domain": {"devices": {}, "memory": {"guest": "9" * 4000 if name == DIGITS else "1Gi"}}},
        "status": {"phase": "Running", "nodeName": node.name, "activePods": {f"pod-{name}": node.name}},
    }


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # it is meant to be large
async def test_vms_with_as_many_labels_as_an_object_holds_cost_their_node_nothing(
    installed: ControlPlane, node: FakeNode, tenant: ApiClient, tmp_path: Path
) -> None:
    names = [HONEST, DIGITS, *TENANTS]
    for name in names:
        path = f"/apis/kubevirt.io/v1/namespaces/{node.namespace}/virtualmachineinstances"
        await tenant.create(path, vmi(node, name, TENANTS.get(name, {})))
    pods = tmp_path / "pods"
    with agent_of(installed, node.name, pods, *names) as agent:
        named = agent.until(lambda look: look["vms"].keys() == set(names) and "need" in look["vms"][HONEST])
        assert {name: vm.get("labelsCut", False) for name, vm in named["vms"].items()} == {
            HONEST: False,
            DIGITS: True,
            **dict.fromkeys(TENANTS, True),
        }
        assert {name: vm.get("reason") for name, vm in named["vms"].items() if "reason" in vm} == {DIGITS: "BadReport"}
        before = agent.look()
        for flap in range(1, FLAPS + 1):
            await write_label(tenant, node.namespace, str(flap))
        look = agent.vm(RESTLESS, lambda vm: vm["labels"]["a"] == str(FLAPS)) and agent.look()
        for _ in range(3):
            sampled = look["sampled"]
            look = agent.until(
                lambda look, sampled=sampled: all(  # type: ignore[misc]  # mypy infers no lambda with a default
                    look["sampled"][name] > sampled[name] for name in (HONEST, *TENANTS)
                )
            )
        check_writes(before, look)
        assert not Ticks(**look["ticks"]).held
        assert look["peak"] < memory_limit("agent")
    stored = get(installed, "nodepressure", node.name)["status"]["virtualMachines"]
    assert {vm["name"] for vm in stored} == set(names), "nothing was refused"


async def write_label(tenant: ApiClient, namespace: str, value: str) -> None:
    """Change a label of the restless VM; on a busy machine an object of that length takes the API server long."""
    change: Object = {"op": "replace", "path": "/metadata/labels/a", "value": value}
    for _ in range(10):
        with contextlib.suppress(UnreachableError):
            await tenant.json_patch(paths.instance(namespace, RESTLESS), [change])
            return
    raise TimeoutError("the API server does not answer")


def check_writes(before: Object, after: Object) -> None:
    """Check that the node's reports are short, and are written less often than a label changes."""
    assert after["memory"]["longest"] < (4 * KIB + 2 * KIB) * (len(TENANTS) + 2)
    assert after["memory"]["count"] > before["memory"]["count"], "reports are written all the while"
