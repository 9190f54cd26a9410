"""How old a report counts as, and how large its figures may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kubeballoon.agent.wait_times import DEFAULT_TIMING
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressure, NodePressureStatus, ProcessorPolicy
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.governance.core_inputs import memory_node, processor_node
from kubeballoon.governance.loaded_policy import load_memory_policy, load_processor_policy
from kubeballoon.governance.report_bounds import SILENT_AFTER, as_last_held, lease_namespaces

WRITTEN = datetime(2026, 6, 1, tzinfo=UTC)


def node(namespace: str | None) -> NodePressure:
    memory = dict.fromkeys(("total", "available", "other", "reserve"), "1Gi")
    status = {"observedAt": WRITTEN, "memory": memory, "leaseNamespace": namespace}
    return NodePressure.model_validate({"metadata": {"name": "n"}, "status": status})


@pytest.mark.parametrize(
    ("namespace", "later", "counts"),
    [
        ("own", timedelta(hours=1), timedelta(hours=1)),
        ("own", timedelta(hours=-1), timedelta()),
        (
            None,
            timedelta(hours=1),
            timedelta(),
        ),  # an older agent, or one that may have no Lease
    ],
    ids=["held", "written since", "no Lease of its own"],
)
def test_a_report_is_as_old_as_when_it_last_held(namespace: str | None, later: timedelta, counts: timedelta) -> None:
    dated = as_last_held(node(namespace), {"n": WRITTEN + later, "other": WRITTEN + timedelta(days=1)})
    assert dated.status is not None
    assert dated.status.observed_at == WRITTEN + counts
    assert lease_namespaces([dated]) == ({namespace} if namespace else set())


def test_a_node_without_a_report_or_heartbeat_stays_as_it_is() -> None:
    bare = NodePressure.model_validate({"metadata": {"name": "n"}})
    assert as_last_held(bare, {"n": WRITTEN}) == bare
    assert as_last_held(node("own"), {}) == node("own")
    assert lease_namespaces([bare]) == set()


def test_an_agent_is_silent_when_three_of_its_heartbeats_are_missing() -> None:
    assert 3 * DEFAULT_TIMING.node.heartbeat == SILENT_AFTER


def test_a_size_that_no_node_has_is_decided_by_without_an_overflow() -> None:
    vm = {"uid": "vm", "namespace": "shop", "name": "vm", "size": "1e30", "overhead": "1e30", "need": "1e30"}
    memory = dict.fromkeys(("total", "available", "other", "reserve"), "1e30")
    status = NodePressureStatus.model_validate({"observedAt": WRITTEN, "memory": memory, "virtualMachines": [vm]})
    policy = load_memory_policy(MemoryPolicy.model_validate({"metadata": {"name": "all"}, "spec": {"selector": {}}}))
    (decision,) = allocate_memory(memory_node("n", status, lambda _: policy)).decisions
    assert decision.vm.size == 1 << 50
    assert decision.target is not None
    assert 0 <= decision.target <= decision.vm.size


@pytest.mark.parametrize("figure", ["size", "online", "target"])
def test_more_processors_than_any_node_has_are_decided_by_without_an_overflow(figure: str) -> None:
    processors = {"size": 4, "online": 4, "target": 3, figure: 1 << 60}
    vm = {"uid": "vm", "namespace": "shop", "name": "vm", "size": "1Gi", "overhead": "0", "processors": processors}
    memory = dict.fromkeys(("total", "available", "other", "reserve"), "1Gi")
    reported = {"observedAt": WRITTEN, "memory": memory, "processors": {"count": 1 << 60}, "virtualMachines": [vm]}
    policy = load_processor_policy(
        ProcessorPolicy.model_validate({"metadata": {"name": "all"}, "spec": {"selector": {}}})
    )
    translated = processor_node("n", NodePressureStatus.model_validate(reported), lambda _: policy)
    assert translated is not None
    (decision,) = allocate_processors(translated).decisions
    assert decision.target is None or 1 <= decision.target <= decision.vm.size <= translated.count
