"""The CRDs on the real API server: defaults, refusals, columns."""

from __future__ import annotations

import pytest

from hack.controlplane import ControlPlane, ControlPlaneError
from hack.generate_crds import CRDS, render
from kubeballoon.api.v1alpha1 import KINDS
from tests.support.cluster import get, memory_policy


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
        ({"memory": {"max": "much"}}, "spec.memory.max", "a whole quantity of bytes such as 2Gi"),
        ({"memory": {"min": -5}}, "spec.memory.min", "a whole quantity of bytes"),
        ({"memory": {"headroom": "1.5"}}, "spec.memory.headroom", "a whole quantity of bytes"),
        ({"memory": {"idleTax": 100}}, "spec.memory.idleTax", "less than or equal to 99"),
        ({"memory": {"shares": 0}}, "spec.memory.shares", "greater than or equal to 1"),
        ({"reclaim": {"maxRate": "0"}}, "spec.reclaim.maxRate", "a positive quantity of bytes"),
        ({"reclaim": {"when": "Never"}}, "spec.reclaim.when", '"Overcommitted", "UnderPressure"'),
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
def test_what_is_left_out_has_a_default(installed: ControlPlane) -> None:
    installed.apply(memory_policy("defaults", mode="Observe", memory={"min": 1024, "max": "1Gi"}))
    spec = get(installed, "mempol", "defaults")["spec"]
    installed.kubectl("delete", "mempol", "defaults")
    assert spec == {
        "selector": {},
        "priority": 0,
        "mode": "Observe",
        "ownerExclusion": "Allow",
        "memory": {"min": 1024, "max": "1Gi", "shares": 1000, "idleTax": 75, "headroom": "10%"},
        "reclaim": {"when": "Overcommitted"},
    }


@pytest.mark.cluster
def test_kubectl_shows_what_an_administrator_looks_for(installed: ControlPlane) -> None:
    installed.apply(memory_policy("columns", mode="Observe"))
    header = installed.kubectl("get", "mempol").splitlines()[0].split()
    installed.kubectl("delete", "mempol", "columns")
    assert header == ["NAME", "MODE", "PRIORITY", "GOVERNED", "RESERVED", "READY", "REASON", "AGE"]
    assert "nodepressures" in installed.kubectl("api-resources", "--categories=kubeballoon")
