"""Reports as the controller takes them in, also those of an agent that writes all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.controller.report_watch import ReportWatch
from tests.controller.test_rounds import report
from tests.support.cluster import Object
from tests.support.waiting import Clock, soon

TODAY = datetime(2026, 1, 1, tzinfo=UTC)


class SlowState(ClusterState):
    """A cluster state that needs a while for each report of one node."""

    clock: Clock
    taken: list[tuple[str, str]]

    def put_node(self, body: Mapping[str, Any], now: float) -> bool:
        """Take in a report, and let time pass."""
        metadata = body["metadata"]
        self.taken.append((metadata["name"], metadata["resourceVersion"]))
        self.clock.now += 0.01 if metadata["name"] == "loud" else 0.0
        return super().put_node(body, now)


class Scene:
    """A controller that is told of reports by the test."""

    def __init__(self) -> None:
        self.state = SlowState()
        self.state.clock, self.state.taken = Clock(), []
        cluster: Any = None
        self.changed: list[str] = []
        self.watch = ReportWatch(cluster, self.state, self.changed.append, self.state.clock)

    def tell(self, node: str, version: int, event_type: str = "MODIFIED") -> None:
        """Have the API server tell of a report."""
        body: Object = report(TODAY, version=version, node=node)
        self.watch._apply(event_type, body)  # noqa: SLF001 - as the watch does with what the API server sends


async def test_a_node_that_reports_all_the_time_has_its_newest_report_taken_in_after_a_rest() -> None:
    scene = Scene()
    for version in range(1, 8):
        scene.tell("loud", version)
        scene.tell("calm", version)
    assert [version for node, version in scene.state.taken if node == "loud"] == ["1"]
    assert [version for node, version in scene.state.taken if node == "calm"] == [str(n) for n in range(1, 8)]
    await soon(lambda: len(scene.state.taken) > 8, 10)
    assert scene.state.taken[-1] == ("loud", "7")
    assert scene.changed == ["loud", "calm"], "what the reports say is the same"


async def test_a_report_that_waits_while_its_node_is_deleted_is_forgotten() -> None:
    scene = Scene()
    scene.tell("loud", 1)
    scene.tell("loud", 2)
    scene.tell("loud", 3, "DELETED")
    assert scene.state.nodes == {}
    scene.tell("loud", 4)
    await asyncio.sleep(0)
    assert scene.state.taken == [("loud", "1"), ("loud", "4")]
