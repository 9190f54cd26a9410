"""The controller's loop over taints, with an API server that is a fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from kubeballoon.api.names import TAINT
from kubeballoon.api.v1alpha1 import NodePressure
from kubeballoon.cluster.client import ConflictError, ForbiddenError, Object
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.node_tainter import NodeTainter
from kubeballoon.governance.report_bounds import SILENT_AFTER
from tests.support.cluster import node_policy
from tests.support.waiting import soon

OTHERS = {"key": "example.com/own", "effect": "NoSchedule"}
PREFER = {"key": TAINT, "effect": "PreferNoSchedule"}
FORBID = {"key": TAINT, "effect": "NoSchedule"}


class FakeApi:
    """An API server with Nodes, of which each patch that is accepted is watched."""

    def __init__(self, **taints: list[Object]) -> None:
        self.nodes = {name: self._node(name, of_node) for name, of_node in taints.items()}
        self.fails: Exception | None = None
        self.attempts = 0
        self.forbidden = False
        self.listed = 0
        self.seen: Any = None

    def taints(self, name: str) -> list[Object]:
        """Return a Node's taints."""
        found: list[Object] = self.nodes[name]["spec"]["taints"]
        return found

    async def pages(self, *_: object, **__: object) -> AsyncIterator[Object]:
        """List the Nodes, or fail."""
        self.listed += 1
        if self.forbidden:
            raise ForbiddenError("may not list nodes")
        yield {"metadata": {"resourceVersion": "1"}, "items": list(self.nodes.values())}

    @asynccontextmanager
    async def watch(self, *_: object, **__: str) -> AsyncIterator[AsyncIterator[Object]]:
        """Deliver nothing: tests hand what was written to the reflector themselves."""

        async def never() -> AsyncIterator[Object]:
            nothing: list[Object] = []
            for each in nothing:
                yield each

        yield never()

    async def json_patch(self, path: str, operations: list[Object]) -> Object:
        """Change a Node's taints, or fail."""
        self.attempts += 1
        if self.fails is not None:
            raise self.fails
        name = path.rsplit("/", 1)[1]
        self.nodes[name] = self._node(name, operations[-1]["value"])
        self.seen(self.nodes[name])
        return self.nodes[name]

    @staticmethod
    def _node(name: str, taints: list[Object]) -> Object:
        return {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": {"taints": taints}}


class Recorder:
    """Keeps events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    async def post(self, about: Any, reason: str, *_: object, **__: object) -> None:
        """Keep an event."""
        self.events.append((about.name, reason))


class Loop:
    """A tainter with its clock, its API server, and the nodes' reports."""

    def __init__(self, policy: Object | None, *, enabled: bool = True, **taints: list[Object]) -> None:
        self.now = 0.0
        self.leads = True
        self.api = FakeApi(**taints)
        self.recorder = Recorder()
        self.state = ClusterState(taints_enabled=enabled, utc_now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
        if policy is not None:
            self.state.node_policies.put(policy)
        api: Any = self.api
        recorder: Any = self.recorder
        self.tainter = NodeTainter(api, self.state, recorder, lambda: self.leads, lambda: self.now)
        nodes = self.tainter._nodes  # noqa: SLF001 - stands in for the watch
        self.api.seen = lambda node: nodes._take(nodes._kept(node))  # noqa: SLF001 - as the watch does
        self._reports = 0

    def fault(self) -> str | None:
        """Return what keeps taints from being written."""
        return self.state.taint_fault

    async def begin(self) -> None:
        """Let the tainter list the Nodes."""
        await self.tainter._nodes._list()  # noqa: SLF001 - a watch would never end

    async def report(self, seconds: float = 0.0, **states: str) -> None:
        """Let agents report these states, and ``seconds`` later the tainter decide."""
        for name, state in states.items():
            self._reports += 1
            minute, second = divmod(self._reports, 60)
            status = {
                "observedAt": f"2026-01-01T00:{minute:02}:{second:02}Z",
                "state": state,
                "memory": {"total": "64Gi", "available": "8Gi", "other": "0", "reserve": "4Gi"},
                "conditions": [],
            }
            metadata = {"name": name, "uid": name, "resourceVersion": str(self._reports)}
            body = NodePressure.model_validate({"metadata": metadata, "status": status}).to_wire()
            self.state.put_node(body, self.now)
        self.now += seconds
        await self.tainter.update()


def policy(mode: str = "Enforce", **taint: Any) -> Object:
    made = node_policy("all", taint={"mode": mode, "maxTainted": "50%", "removeAfter": "60s", **taint})
    made["metadata"] |= {"uid": "all", "resourceVersion": "1"}
    return made


async def test_a_node_is_tainted_while_it_is_short_and_for_a_while_after() -> None:
    loop = Loop(policy(whenCritical="NoSchedule"), a=[OTHERS], b=[])
    await loop.begin()
    await loop.report(a="Ample", b="Ample")
    assert (loop.api.attempts, loop.state.taints) == (0, {})
    await loop.report(a="Tight")
    assert loop.api.taints("a") == [OTHERS, PREFER]
    await loop.report(a="Critical")
    assert loop.api.taints("a") == [OTHERS, FORBID]
    await loop.report(59, a="Ample", b="Ample")
    assert loop.api.taints("a") == [OTHERS, FORBID]
    await loop.report(1, a="Ample", b="Ample")
    assert loop.api.taints("a") == [OTHERS]
    assert loop.recorder.events == [("a", "Tainted"), ("a", "Tainted"), ("a", "Untainted")]


async def test_no_more_than_the_share_of_a_pool_is_tainted_and_the_worst_comes_first() -> None:
    loop = Loop(policy(), a=[], b=[])
    await loop.begin()
    await loop.report(a="Tight", b="Tight")
    assert (loop.api.taints("a"), loop.api.taints("b")) == ([PREFER], [])
    await loop.report(b="Scarce")
    assert (loop.api.taints("a"), loop.api.taints("b")) == ([], [PREFER])


async def test_what_is_only_observed_is_told_once_and_a_taint_that_is_there_is_removed() -> None:
    loop = Loop(policy("Observe"), a=[PREFER], b=[])
    await loop.begin()
    for _ in range(3):
        await loop.report(a="Ample", b="Tight")
    assert (loop.api.taints("a"), loop.api.taints("b")) == ([], [])
    assert loop.state.taints.keys() == {"b"}
    assert loop.recorder.events == [("b", "WouldTaint"), ("a", "Untainted")]


async def test_without_the_right_to_taint_nodes_they_are_not_even_read() -> None:
    loop = Loop(policy("Observe"), enabled=False, a=[])
    await loop.tainter.watch()
    await loop.report(a="Tight")
    assert (loop.api.attempts, set(loop.state.taints)) == (0, {"a"})
    await loop.report(59, a="Ample")
    assert loop.state.taints.keys() == {"a"}
    await loop.report(2, a="Ample")
    assert loop.state.taints == {}


async def test_a_taint_that_nothing_stands_behind_is_removed_at_once() -> None:
    loop = Loop(None, gone=[PREFER, OTHERS], ample=[{**FORBID, "effect": "NoExecute"}])
    await loop.begin()
    await loop.report(ample="Critical")
    assert (loop.api.taints("gone"), loop.api.taints("ample")) == ([OTHERS], [])


async def test_a_new_leader_keeps_what_it_finds_until_the_node_has_been_ample_for_long_enough() -> None:
    loop = Loop(policy(), a=[PREFER], b=[])
    loop.now = 1000.0
    await loop.begin()
    await loop.report(59, a="Ample", b="Ample")
    assert loop.api.taints("a") == [PREFER]
    await loop.report(61, a="Ample", b="Ample")
    assert loop.api.taints("a") == []


async def test_the_taint_of_a_node_whose_agent_is_silent_ends() -> None:
    loop = Loop(policy(), a=[], b=[])
    await loop.begin()
    await loop.report(a="Critical", b="Ample")
    await loop.report(SILENT_AFTER - 1)
    assert loop.api.taints("a") == [PREFER]
    await loop.report(62)
    assert loop.api.taints("a") == []


async def test_nothing_is_written_before_the_nodes_are_known_or_without_the_lead() -> None:
    loop = Loop(policy(), a=[], b=[])
    await loop.report(a="Tight", b="Ample")
    loop.leads = False
    await loop.begin()
    await loop.report()
    assert loop.api.attempts == 0
    loop.leads = True
    await loop.report()
    assert loop.api.taints("a") == [PREFER]


async def test_a_conflict_is_tried_again_and_a_missing_right_is_said() -> None:
    loop = Loop(policy(), a=[], b=[])
    await loop.begin()
    loop.api.fails = ConflictError("it has changed")
    await loop.report(a="Tight", b="Ample")
    assert not loop.fault()
    loop.api.fails = ForbiddenError("may not patch nodes")
    await loop.report()
    assert loop.fault() == "may not patch nodes"
    loop.api.fails = None
    await loop.report()
    assert (loop.api.taints("a"), loop.fault()) == ([PREFER], None)


async def test_nodes_that_cannot_be_read_are_said_and_not_tainted() -> None:
    loop = Loop(policy(), a=[], b=[])
    loop.api.forbidden = True
    watching = asyncio.create_task(loop.tainter.watch())
    await soon(lambda: loop.api.listed > 0, 10)
    await loop.report(a="Tight", b="Ample")
    assert (loop.api.attempts, loop.fault()) == (0, "no node is tainted: Nodes cannot be read")
    watching.cancel()
    loop.api.forbidden = False
    await loop.begin()
    await loop.report()
    assert (loop.api.taints("a"), loop.fault()) == ([PREFER], None)


async def test_the_watch_of_nodes_keeps_names_and_taints_alone() -> None:
    loop = Loop(policy(), a=[OTHERS])
    node = {**loop.api.nodes["a"], "status": {"images": ["large"]}}
    assert loop.tainter._nodes._kept(node) == loop.api.nodes["a"]  # noqa: SLF001 - its memory
