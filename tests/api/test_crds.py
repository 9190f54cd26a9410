"""The CRDs on the real API server: defaults, refusals, columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from hack.generate_crds import CRDS, render
from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from kubeballoon.api.v1alpha1 import KINDS, NodeMemory, NodePressureStatus, VirtualMachineReport
from tests.support.cluster import get, memory_policy, processor_policy


def test_the_crds_are_what_the_models_say() -> None:
    for kind in KINDS:
        assert (CRDS / f"{kind.plural}.yaml").read_text() == render(kind)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"memory": {"min": "80%", "max": "50%"}}, "spec.memory.min", "min must not exceed max"),
        ({"memory": {"min": "2Gi", "max": "1Gi"}}, "spec.memory.min", "min must not exceed max"),
        ({"memory": {"min": "150%"}}, "spec.memory.min", "a percentage from 0% to 100%"),
        ({"memory": {"max": "much"}}, "spec.memory.max", "a quantity of bytes such as 1.5Gi"),
        ({"memory": {"min": -5}}, "spec.memory.min", "a quantity of bytes"),
        ({"memory": {"headroom": "1.5"}}, "spec.memory.headroom", "a quantity of bytes"),
        ({"memory": {"idleTax": 100}}, "spec.memory.idleTax", "less than or equal to 99"),
        ({"memory": {"shares": 0}}, "spec.memory.shares", "greater than or equal to 1"),
        ({"reclaim": {"maxRate": "0"}}, "spec.reclaim.maxRate", "a positive quantity of bytes"),
        ({"reclaim": {"when": "Never"}}, "spec.reclaim.when", '"Overcommitted", "UnderPressure"'),
        ({"reclaim": {"method": "Magic"}}, "spec.reclaim.method", '"Balloon", "GuestAgent", "Auto"'),
        ({"mode": "Dry"}, "spec.mode", '"Enforce", "Observe"'),
        ({"selector": None}, "spec.selector", "Required value"),
        (
            {"selector": {"virtualMachineSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}},
            "spec.selector.virtualMachineSelector.matchExpressions[0].values",
            "values must be given for operators In and NotIn",
        ),
    ],
)
def test_a_wrong_policy_is_refused_with_field_and_reason(
    installed: ControlPlane, spec: dict[str, object], field: str, reason: str
) -> None:
    policy = memory_policy("wrong", **spec)
    if policy["spec"]["selector"] is None:
        del policy["spec"]["selector"]
    with pytest.raises(ControlPlaneError) as refused:
        installed.apply(policy)
    assert field in str(refused.value)
    assert reason in str(refused.value)


@pytest.mark.cluster
def test_fields_that_are_left_out_have_defaults(installed: ControlPlane) -> None:
    installed.apply(memory_policy("defaults", mode="Observe", memory={"min": 1 << 26, "max": "1Gi"}))
    spec = get(installed, "mempol", "defaults")["spec"]
    installed.kubectl("delete", "mempol", "defaults")
    assert spec == {
        "selector": {},
        "priority": 0,
        "mode": "Observe",
        "ownerExclusion": "Allow",
        "memory": {"min": 1 << 26, "max": "1Gi", "shares": 1000, "idleTax": 75, "headroom": "10%"},
        "reclaim": {
            "when": "Overcommitted",
            "method": "Auto",
            "workingSet": "IfSwappable",
            "workingSetDelay": "10s",
        },
    }


@pytest.mark.cluster
def test_a_quantity_that_is_left_out_of_a_status_is_a_string_as_any_other(installed: ControlPlane) -> None:
    installed.apply(memory_policy("quantities"))
    patch = json.dumps({"status": {"matched": 1}})
    installed.kubectl("patch", "mempol", "quantities", "--subresource=status", "--type=merge", f"--patch={patch}")
    status = get(installed, "mempol", "quantities")["status"]
    installed.kubectl("delete", "mempol", "quantities")
    assert status["reclaimed"] == "0"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"processors": {"min": 4, "max": 2}}, "spec.processors.min", "min must not exceed max"),
        ({"processors": {"min": "80%", "max": "50%"}}, "spec.processors.min", "min must not exceed max"),
        ({"processors": {"min": 0}}, "spec.processors.min", "a whole number of processors such as 2"),
        ({"processors": {"max": "1.5"}}, "spec.processors.max", "a whole number of processors such as 2"),
        ({"trigger": {"stall": {"start": 20, "end": 30}}}, "spec.trigger.stall.end", "end must not exceed start"),
        ({"trigger": {"usage": {"start": 90}}}, "spec.trigger.usage.end", "Required value"),
        ({"method": "Unplug"}, "spec.method", '"Driver", "GuestAgent", "Auto"'),
        ({"coolDown": "soon"}, "spec.coolDown", "coolDown must be a duration such as 5m"),
    ],
)
def test_a_wrong_processor_policy_is_refused_with_field_and_reason(
    installed: ControlPlane, spec: dict[str, object], field: str, reason: str
) -> None:
    with pytest.raises(ControlPlaneError) as refused:
        installed.apply(processor_policy("wrong", **spec))
    assert field in str(refused.value)
    assert reason in str(refused.value)


@pytest.mark.cluster
def test_a_processor_policy_has_defaults_too(installed: ControlPlane) -> None:
    installed.apply(processor_policy("defaults"))
    spec = get(installed, "cpupol", "defaults")["spec"]
    installed.kubectl("delete", "cpupol", "defaults")
    assert spec == {
        "selector": {},
        "priority": 0,
        "mode": "Enforce",
        "ownerExclusion": "Allow",
        "processors": {"max": "100%", "shares": 1000},
        "trigger": {
            "when": "UnderPressure",
            "stall": {"start": 25, "end": 10},
            "usage": {"start": 90, "end": 70},
        },
        "method": "Auto",
        "coolDown": "5m",
    }


@pytest.mark.cluster
def test_kubectl_shows_what_an_administrator_looks_for(installed: ControlPlane) -> None:
    installed.apply(memory_policy("columns", mode="Observe"))
    header = installed.kubectl("get", "mempol").splitlines()[0].split()
    installed.kubectl("delete", "mempol", "columns")
    assert header == ["NAME", "MODE", "PRIORITY", "GOVERNED", "RECLAIMED", "READY", "REASON", "AGE"]
    assert "nodepressures" in installed.kubectl("api-resources", "--categories=kubeballoon")


@pytest.mark.cluster
def test_kubectl_shows_how_much_is_reclaimed_on_a_node(installed: ControlPlane) -> None:
    memory = NodeMemory(total=2 << 30, available=1 << 30, other=0, reserve=0)
    vms = [
        VirtualMachineReport(uid=name, namespace="n", name=name, size=1 << 30, actual=left)
        for name, left in (("a", 256 << 20), ("b", 512 << 20), ("c", None))
    ]
    status = NodePressureStatus(observed_at=datetime.now(UTC), memory=memory, virtual_machines=vms)
    body = {"apiVersion": "kubeballoon.io/v1alpha1", "kind": "NodePressure", "metadata": {"name": "columns"}}
    installed.apply(body)
    written = json.dumps({**body, "status": status.to_wire()})
    installed.kubectl("apply", "--server-side", "--subresource=status", "--filename=-", stdin=written)
    header, row = (line.split() for line in installed.kubectl("get", "nodepressure", "columns").splitlines())
    installed.kubectl("delete", "np", "columns")
    assert header == ["NAME", "STATE", "TOTAL", "AVAILABLE", "RECLAIMED", "READY", "REPORTED", "AGE"]
    assert row[1:5] == ["Ample", "2Gi", "1Gi", "1280Mi"]


def test_a_vm_that_an_agent_reports_twice_counts_once() -> None:
    vms = [{"uid": uid, "namespace": "n", "name": uid, "size": size} for uid, size in (("a", 1), ("b", 2), ("a", 3))]
    memory = dict.fromkeys(("total", "available", "other", "reserve"), "1Gi")
    report = {"observedAt": datetime.now(UTC), "memory": memory, "virtualMachines": vms}
    status = NodePressureStatus.model_validate(report)
    assert [(vm.uid, vm.size) for vm in status.virtual_machines] == [("a", 1), ("b", 2)]
