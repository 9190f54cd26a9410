"""ProcessorPolicies on a real controller and the real API server; the test plays the agent."""

from __future__ import annotations

import pytest

from hack.testbed.controlplane import ControlPlane
from tests.support.cluster import FakeNode, condition, controller_annotations, get, processor_policy
from tests.support.waiting import throughout, until

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("leader")]

NO_COOL_DOWN = {"coolDown": "1ms"}
SHORT = {"count": 4, "usage": 100, "stall": 60}
AMPLE = {"count": 4, "usage": 10, "stall": 0}


def test_processors_are_reclaimed_while_the_node_is_short_and_returned_after(
    installed: ControlPlane, node: FakeNode
) -> None:
    node.add("a")
    node.add("b")
    node.report()
    installed.apply(processor_policy("default", processors={"min": 1}, method="GuestAgent", **NO_COOL_DOWN))
    until(lambda: node.processor_targets() == {"a": 4, "b": 4})
    node.processors = SHORT
    node.report(follow=True)
    until(lambda: node.processor_targets() == {"a": 2, "b": 2})
    request = controller_annotations(installed, node.namespace, "a")
    assert request["processor-policy"] == "default"
    assert request["processor-method"] == "GuestAgent"
    assert "divided by shares" in request["processor-reason"]
    assert "memory-target" not in request
    node.processors = {**SHORT, "stall": 0}
    node.report(follow=True)
    throughout(lambda: node.processor_targets() == {"a": 2, "b": 2}, 1)
    node.processors = AMPLE
    node.report(follow=True)
    until(lambda: node.processor_targets() == {"a": 4, "b": 4})
    node.report(follow=True)
    installed.kubectl("delete", "cpupol", "default")
    until(lambda: all(controller_annotations(installed, node.namespace, name) == {} for name in node.vms))


def test_reclaimed_processors_are_requested_back_until_the_agent_reports_them(
    installed: ControlPlane, node: FakeNode
) -> None:
    node.add("a")
    node.report()
    installed.apply(processor_policy("default", processors={"min": 1, "max": 1}, **NO_COOL_DOWN))
    until(lambda: node.processor_targets() == {"a": 1})
    node.report(follow=True)
    node.vms["a"]["processors"]["reason"] = "Migrating"
    node.report()
    installed.kubectl("delete", "cpupol", "default")
    until(lambda: node.processor_targets() == {"a": 4})
    node.report()
    throughout(lambda: node.processor_targets() == {"a": 4}, 2)
    del node.vms["a"]["processors"]["reason"]
    node.report(follow=True)
    until(lambda: controller_annotations(installed, node.namespace, "a") == {})


def test_nothing_changes_again_before_the_cool_down_is_over(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.add("b")
    node.report()
    always = {"when": "Overcommitted"}
    installed.apply(processor_policy("default", processors={"min": 1}, trigger=always, coolDown="1h"))
    until(lambda: node.processor_targets() == {"a": 2, "b": 2})
    node.processors = {**AMPLE, "count": 6}
    node.report(follow=True)
    until(lambda: node.processor_targets() == {"a": 3, "b": 3})
    node.processors = {**AMPLE, "count": 4}
    node.report(follow=True)
    throughout(lambda: node.processor_targets() == {"a": 3, "b": 3}, 2)


def test_the_status_counts_governed_and_excluded_vms_and_reclaimed_processors(
    installed: ControlPlane, node: FakeNode
) -> None:
    node.add("a")
    node.add("pinned")
    node.vms["pinned"]["processors"] |= {
        "eligible": False,
        "reason": "DedicatedCPU",
        "message": "it has dedicated CPUs",
    }
    node.report()
    installed.apply(processor_policy("default", processors={"min": 1, "max": 1}))
    until(lambda: node.processor_targets() == {"a": 1})
    node.report(follow=True)
    until(lambda: get(installed, "cpupol", "default").get("status", {}).get("reclaimed") == 3)
    status = get(installed, "cpupol", "default")["status"]
    assert (status["matched"], status["governed"]) == (2, 2)
    assert status["excluded"] == [{"reason": "DedicatedCPU", "count": 1}]
    ready = condition(installed, "default", "Ready", of="cpupol")
    assert (ready["status"], ready["reason"]) == ("True", "Enforcing")
    assert condition(installed, "default", "Degraded", of="cpupol")["status"] == "False"
    assert condition(installed, "default", "AtRisk", of="cpupol") == {}, "only memory has this condition"


def test_an_observing_policy_reclaims_nothing(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.processors = SHORT
    node.report()
    installed.apply(processor_policy("watch", mode="Observe", processors={"max": 1}))
    until(lambda: condition(installed, "watch", "Ready", of="cpupol").get("reason") == "Observing")
    assert node.processor_targets() == {}


def test_reclaiming_and_returning_processors_are_posted_as_events(installed: ControlPlane, node: FakeNode) -> None:
    node.add("a")
    node.report()
    installed.apply(processor_policy("default", **NO_COOL_DOWN))
    until(lambda: node.processor_targets() == {"a": 4})
    node.report(follow=True)
    installed.apply(
        processor_policy("default", processors={"min": 1, "max": 4}, trigger={"when": "Overcommitted"}, **NO_COOL_DOWN)
    )
    node.processors = {**AMPLE, "count": 2}
    node.report(follow=True)

    def event_reasons() -> set[str]:
        events = get(installed, "events", f"--namespace={node.namespace}")["items"]
        return {event["reason"] for event in events}

    until(lambda: "ProcessorsReclaimed" in event_reasons())
    node.processors = AMPLE
    node.report(follow=True)
    until(lambda: "ProcessorsReturned" in event_reasons())
