"""kubeballoon's taint on a Node: it is written and removed beside others' taints, and only as the Node was read."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.agent.taint_remover import LEADERLESS_AFTER, TaintRemover
from kubeballoon.api.names import CONTROLLER_LEASE, TAINT
from kubeballoon.cluster import paths
from kubeballoon.cluster.client import ApiClient, ConflictError, NotFoundError
from kubeballoon.cluster.node_taints import has_taint, read_taint, write_taint
from kubeballoon.vocabulary import TaintEffect
from tests.support.cluster import FakeNode, Object, set_taints

OTHERS = {"key": "example.com/own", "value": "yes", "effect": "NoSchedule"}


def tainted(*taints: Object) -> Object:
    metadata = {"name": "here", "uid": "here", "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"taints": list(taints)}}


@pytest.mark.parametrize(
    ("node", "effect", "has"),
    [
        (tainted(), None, False),
        ({"metadata": {"name": "here"}}, None, False),
        (tainted(OTHERS), None, False),
        (tainted(OTHERS, {"key": TAINT, "effect": "NoSchedule"}), TaintEffect.NO_SCHEDULE, True),
        (tainted({"key": TAINT, "effect": "NoExecute"}), None, True),
    ],
)
def test_only_our_own_taint_is_read(node: Object, effect: TaintEffect | None, has: bool) -> None:  # noqa: FBT001 - a parameter
    assert (read_taint(node), has_taint(node)) == (effect, has)


@pytest.mark.cluster
async def test_others_taints_stay_and_a_node_that_changed_is_not_written(
    installed: ControlPlane, node: FakeNode
) -> None:
    set_taints(installed, node.name, OTHERS)
    async with await ApiClient.connect("test", installed.kubeconfig) as cluster:
        path = paths.node(node.name)

        async def taints() -> list[Object]:
            found: list[Object] = (await cluster.get(path))["spec"]["taints"]
            return found

        first = await cluster.get(path)
        await write_taint(cluster, first, TaintEffect.PREFER_NO_SCHEDULE)
        assert await taints() == [OTHERS, {"key": TAINT, "effect": "PreferNoSchedule"}]
        with pytest.raises(ConflictError):
            await write_taint(cluster, first, TaintEffect.NO_SCHEDULE)
        await write_taint(cluster, await cluster.get(path), TaintEffect.NO_SCHEDULE)
        assert await taints() == [OTHERS, {"key": TAINT, "effect": "NoSchedule"}]
        await write_taint(cluster, await cluster.get(path), None)
        assert await taints() == [OTHERS]


class FakeApi:
    """An API server with one Node and the controllers' Lease, if there is one."""

    def __init__(self, node: Object, lease: Object | None = None) -> None:
        self.node = node
        self.lease = lease
        self.patches: list[list[Object]] = []

    async def get(self, path: str, **_: str) -> Object:
        """Read the Node or the Lease."""
        if path == paths.node("here"):
            return copy.deepcopy(self.node)
        assert path == f"{paths.leases('own')}/{CONTROLLER_LEASE}"
        if self.lease is None:
            raise NotFoundError("there is none")
        return self.lease

    async def json_patch(self, path: str, operations: list[Object]) -> Object:
        """Change the Node's taints."""
        assert path == paths.node("here")
        self.patches.append(operations)
        self.node["spec"]["taints"] = operations[-1]["value"]
        return self.node


def lease(renewed: str, holder: str = "someone") -> Object:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed}}


def remover(api: Any, clock: list[float]) -> TaintRemover:
    return TaintRemover(api, "here", "own", clock=lambda: clock[0])


async def test_an_agent_leaves_the_taint_to_a_controller_that_lives() -> None:
    api, clock = FakeApi(tainted({"key": TAINT, "effect": "NoSchedule"}), lease("1")), [0.0]
    agent = remover(api, clock)
    for minute in range(20):
        clock[0] += 60
        api.lease = lease(str(minute))
        await agent.look()
    assert api.patches == []


@pytest.mark.parametrize("last", [lease("1"), lease("1", holder=""), None], ids=["dead", "ended", "no Lease"])
async def test_an_agent_removes_the_taint_that_no_controller_looks_after(last: Object | None) -> None:
    api, clock = FakeApi(tainted(OTHERS, {"key": TAINT, "effect": "NoSchedule"}), last), [0.0]
    agent = remover(api, clock)
    await agent.look()
    clock[0] += LEADERLESS_AFTER - 1
    await agent.look()
    assert api.patches == []
    clock[0] += 1
    await agent.look()
    assert api.node["spec"]["taints"] == [OTHERS]
    await agent.look()
    assert len(api.patches) == 1


async def test_a_taint_that_comes_anew_is_given_as_much_time() -> None:
    api, clock = FakeApi(tainted(), lease("1")), [0.0]
    agent = remover(api, clock)
    for _ in range(10):
        clock[0] += 60
        await agent.look()
    api.node["spec"]["taints"] = [{"key": TAINT, "effect": "NoSchedule"}]
    await agent.look()
    clock[0] += LEADERLESS_AFTER - 1
    await agent.look()
    assert api.patches == []
