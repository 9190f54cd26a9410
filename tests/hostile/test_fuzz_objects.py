"""Whatever stands in a node's report, a policy's file or a trace: it is read and decided by, or refused in the one way.

`make test` tries a hundred of each, `make fuzz` ten thousand.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kubeballoon import manifests
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePolicy, NodePressure, NodePressureStatus, ProcessorPolicy
from kubeballoon.controller.cluster_state import ClusterState
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.node_state import NodeFacts
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.governance.core_inputs import memory_node, processor_node
from kubeballoon.governance.loaded_policy import load_memory_policy, load_processor_policy
from kubeballoon.governance.node_policies import govern_limits, load_node_policy
from kubeballoon.replay import traces
from tests.hostile.test_fuzz import JSON, TEXTS, places_below, spoiled

HEAD = {"apiVersion": "kubeballoon.io/v1alpha1", "metadata": {"name": "here"}}
VM = {
    "uid": "vm",
    "namespace": "default",
    "name": "vm",
    "labels": {"tier": "gold"},
    "size": "1Gi",
    "actual": "900Mi",
    "resident": "950Mi",
    "overhead": "200Mi",
    "need": "300Mi",
    "presentNeed": "280Mi",
    "target": "900Mi",
    "targetSince": "2026-01-01T00:00:00Z",
    "min": "256Mi",
    "policy": "all",
    "swapAbility": "Able",
    "guest": {"available": "980Mi", "usable": "600Mi", "unused": "100Mi", "majorFaults": 5},
    "processors": {"size": 4, "online": 4, "offlinable": 3, "usage": 120, "target": 3, "policy": "all"},
}
REPORT: dict[str, Any] = {
    **HEAD,
    "kind": "NodePressure",
    "status": {
        "observedAt": "2026-01-01T00:00:00Z",
        "state": "Tight",
        "labels": {"pool": "big"},
        "memory": {"total": "64Gi", "available": "8Gi", "other": "1Gi", "reserve": "2Gi"},
        "limits": {
            "ample": "4Gi",
            "tight": "3Gi",
            "scarce": "2Gi",
            "critical": "1Gi",
            "policy": "big",
            "capacity": "64Gi",
            "evictionThreshold": "100Mi",
            "evictionMargin": "64Mi",
            "evictionRead": False,
        },
        "processors": {"count": 8, "usage": 20, "stall": 5},
        "virtualMachines": [VM, {**VM, "uid": "other", "name": "other"}],
    },
}
POLICIES: list[dict[str, Any]] = [
    {
        **HEAD,
        "kind": "MemoryPolicy",
        "spec": {
            "selector": {"virtualMachineSelector": {"matchLabels": {"tier": "gold"}}},
            "priority": 5,
            "memory": {"min": "25%", "max": "100%", "shares": 1000, "idleTax": 75, "headroom": "10%"},
            "reclaim": {"maxRate": "64Mi", "workingSet": "IfSwappable", "workingSetDelay": "10s"},
        },
    },
    {**HEAD, "kind": "ProcessorPolicy", "spec": {"selector": {}, "processors": {"min": 1, "shares": 500}}},
    {
        **HEAD,
        "kind": "NodePolicy",
        "spec": {
            "selector": {"nodeSelector": {"matchLabels": {"pool": "big"}}},
            "thresholds": {"ample": "6%", "tight": "4%", "scarce": "2%", "critical": "1%"},
            "eviction": {"threshold": "5%", "margin": "64Mi"},
            "reserve": "8Gi",
            "stall": {"tight": 30},
        },
    },
]
MEMORY_POLICY = load_memory_policy(MemoryPolicy.model_validate({**HEAD, "spec": {"selector": {}}}))
PROCESSOR_POLICY = load_processor_policy(ProcessorPolicy.model_validate({**HEAD, "spec": {"selector": {}}}))


DATES = st.sampled_from(
    [
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "0001-01-01T00:00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01",
        "1e300",
        "-1",
    ]
)


@st.composite
def changed(draw: st.DrawFn, original: dict[str, Any], below: str) -> dict[str, Any]:
    """Change an object at some places below one of its fields."""
    made = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 5))):
        parent, key = draw(st.sampled_from(places_below(made[below]) or [(made, below)]))
        parent[key] = draw(st.one_of(TEXTS, DATES, JSON))
    return made


@given(changed(REPORT, "status"))
def test_any_report_of_a_node_is_decided_by_or_refused(body: dict[str, Any]) -> None:
    state = ClusterState()
    for second in (0.0, 1.0):  # the first report of a node is dated otherwise than a later one
        state.put_node(copy.deepcopy(body), second)
    try:
        status = NodePressure.model_validate(body).status
    except ValidationError:
        return  # what the controller takes for a report that it cannot read
    if status is None:
        return
    assert NodePressureStatus.model_validate(status.to_wire()).observed_at <= status.observed_at, "in whole seconds"
    plan = allocate_memory(memory_node("here", status, lambda _: MEMORY_POLICY))
    assert all(0 <= each.target <= each.vm.size for each in plan.decisions if each.target is not None)
    processors = processor_node("here", status, lambda _: PROCESSOR_POLICY)
    if processors is not None:
        assert all((each.target or 0) >= 0 for each in allocate_processors(processors).decisions)


@given(st.sampled_from(POLICIES).flatmap(lambda policy: changed(policy, "spec")))
def test_any_policy_of_a_file_is_loaded_or_refused(body: dict[str, Any]) -> None:
    with TemporaryDirectory() as directory:
        file = Path(directory) / "policy.json"
        file.write_text(json.dumps(body))
        try:
            found = manifests.read_manifests([str(file)])
        except manifests.RefusedError:
            return
    for policy in found:
        if isinstance(policy, MemoryPolicy):
            load_memory_policy(policy)
        if isinstance(policy, ProcessorPolicy):
            load_processor_policy(policy)
        if isinstance(policy, NodePolicy):
            facts = NodeFacts(total=1 << 34, capacity=1 << 35, eviction=100 << 20, margin=64 << 20)
            limits = govern_limits(load_node_policy(policy), facts).limits
            assert 0 < limits.thresholds.ample <= limits.reserve


TRACES = [
    "seconds,size_bytes,used_bytes\n0,1073741824,5\n300,1073741824,6\n600,1073741824,7\n",
    "Timestamp [ms];\tMemory capacity provisioned [KB];\tMemory usage [KB]\n0;1000;5\n300000;1000;6\n",
]


@given(st.one_of(st.sampled_from(TRACES).flatmap(spoiled).map(lambda text: text.encode(errors="replace")), st.binary()))
@pytest.mark.filterwarnings("error")
def test_any_trace_is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as directory:
        (Path(directory) / "vm.csv").write_bytes(content)
        try:
            workload = traces.read_traces(Path(directory))
        except traces.TraceError:
            return
    assert workload.seconds > 0
