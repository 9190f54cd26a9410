"""All who decide about a node, or explain what is decided, see the same node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubeballoon.api.v1alpha1 import NodePressure, VirtualMachineReport
from kubeballoon.cli.cluster_view import ClusterView
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.governance.policy_types import MEMORY, PROCESSORS
from kubeballoon.governance.targets_in_force import TargetInForce, memory_in_force, processors_in_force
from tests.support.cluster import MIB, Object, memory_policy, processor_policy

NOW = datetime.now(UTC)


def vm(name: str, **report: Any) -> Object:
    return {"uid": name, "namespace": "shop", "name": name, "size": "1Gi", "actual": "768Mi", **report}


def node(*vms: Object, state: str = "Critical") -> Object:
    memory = {"total": "2Gi", "available": "16Mi", "other": "128Mi", "reserve": "64Mi"}
    processors = {"count": 4, "usage": 90, "stall": 30}
    status = {"observedAt": NOW.isoformat(), "memory": memory, "processors": processors, "state": state}
    metadata = {"name": "n", "uid": "n", "resourceVersion": "1"}
    return {"metadata": metadata, "status": {**status, "virtualMachines": list(vms)}}


def views(body: Object) -> tuple[ClusterState, ClusterView, NodePressure]:
    """The controller's view and the CLI's of one node and the same policies."""
    state = ClusterState()
    memory, processors = memory_policy("m", memory={"min": "25%"}), processor_policy("p")
    state.memory.put(memory)
    state.processors.put(processors)
    state.put_namespace("shop", {})
    assert state.put_node(body, 0.0)
    pressure = state.nodes["n"]
    view = ClusterView((MEMORY.load(memory),), (PROCESSORS.load(processors),), {"shop": {}}, (pressure,), NOW)
    return state, view, pressure


@pytest.mark.parametrize(
    "reported",
    [
        {"target": "768Mi", "emergencyTarget": "512Mi"},
        {"target": "512Mi", "emergencyTarget": "1Gi", "troubled": True},
        {"target": "512Mi"},
        {"target": "512Mi", "targetSince": (NOW - timedelta(hours=2)).isoformat()},
        {},
        {"target": "768Mi", "reason": "Migrating", "responsive": False},
        {"target": "768Mi", "eligible": False, "reason": "VFIO"},
    ],
    ids=[
        "an emergency target below",
        "an emergency target above",
        "a request",
        "an old request",
        "no request",
        "held",
        "not eligible",
    ],
)
def test_controller_and_cli_decide_on_the_same_node(reported: Object) -> None:
    processors = {"size": 4, "online": 3, "target": 3}
    state, view, pressure = views(
        node(vm("a", policy="m", need="256Mi", processors=processors, **reported), vm("b", need="900Mi"))
    )
    status = pressure.status
    assert status is not None
    assert view.memory_node(pressure, status) == state.snapshot("n", status, 0.0)
    assert view.processor_node(pressure, status) == state.processor_snapshot("n", status, 0.0)


def test_while_an_agent_relieves_a_node_its_own_target_is_in_force_for_both() -> None:
    body = node(vm("a", policy="m", target="768Mi", emergencyTarget="512Mi"))
    state, view, pressure = views(body)
    status = pressure.status
    assert status is not None
    for translated in (view.memory_node(pressure, status), state.snapshot("n", status, 0.0)):
        assert [each.target for each in translated.vms] == [512 * MIB]


def report(**fields: Any) -> VirtualMachineReport:
    return VirtualMachineReport.model_validate(vm("a", **fields))


def test_a_request_that_is_newer_than_the_report_is_in_force_before_the_emergency_target() -> None:
    written = TargetInForce(640 * MIB, TargetChange(up=False, age=1.0))
    assert memory_in_force(report(target="768Mi", emergencyTarget="512Mi"), written) == written


def test_an_emergency_target_replaces_the_request_that_was_reported_with_it() -> None:
    change = TargetChange(up=False, age=1.0)
    in_force = memory_in_force(report(target="768Mi", emergencyTarget="512Mi"), TargetInForce(768 * MIB, change))
    assert in_force == TargetInForce(512 * MIB, change)


def since(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(
    ("written", "reported", "known"),
    [
        (None, 3600, TargetChange(None, 3600)),
        (None, -5, TargetChange(None, 0)),
        (None, None, None),
        (TargetChange(up=True, age=5), 3600, TargetChange(up=True, age=5)),
        (TargetChange(None, age=5), 3600, TargetChange(None, 3600)),
        (TargetChange(None, age=7200), 3600, TargetChange(None, 7200)),
    ],
    ids=["a new controller", "a clock set back", "an old agent", "moved", "written again", "an agent that came later"],
)
def test_the_age_of_a_target_is_known_from_its_controller_or_from_the_report(
    written: TargetChange | None, reported: int | None, known: TargetChange | None
) -> None:
    dated = {} if reported is None else {"targetSince": since(reported)}
    before = None if written is None else TargetInForce(768 * MIB, written)
    assert memory_in_force(report(target="768Mi", **dated), before, NOW).change == known


def test_a_date_in_a_report_is_not_that_of_a_target_that_was_written_since() -> None:
    newer = TargetInForce(640 * MIB, TargetChange(None, age=1))
    assert memory_in_force(report(target="768Mi", targetSince=since(3600)), newer, NOW) == newer


@pytest.mark.parametrize(("age", "corrected"), [(600, False), (3600, True)])
def test_a_controller_that_wrote_none_of_the_targets_puts_idle_memory_right_in_the_end(
    age: int, *, corrected: bool
) -> None:
    """Four VMs of 4 GiB that work with 1 GiB each share 8 GiB a little unevenly."""
    held = {"a": 2252, "b": 1946, "c": 1946, "d": 2048}
    vms = [
        vm(name, policy="m", size="4Gi", need="1Gi", actual=f"{mib}Mi", target=f"{mib}Mi", targetSince=since(age))
        for name, mib in held.items()
    ]
    body = node(*vms, state="Ample")
    body["status"]["memory"] = {"total": "9Gi", "available": "4Gi", "other": "0", "reserve": "1Gi"}
    state, view, pressure = views(body)
    assert pressure.status is not None
    for translated in (view.memory_node(pressure, pressure.status), state.snapshot("n", pressure.status, 0.0)):
        targets = {each.vm.uid: each.target for each in allocate_memory(translated).decisions}
        assert (targets["a"] != held["a"] * MIB) is corrected


def test_what_was_written_of_processors_is_in_force_before_what_is_reported() -> None:
    processors = {"size": 4, "target": 3}
    assert processors_in_force(report(processors=processors)) == TargetInForce(3)
    assert processors_in_force(report(processors=processors), TargetInForce(2)) == TargetInForce(2)
    assert processors_in_force(report()) == TargetInForce(None)
