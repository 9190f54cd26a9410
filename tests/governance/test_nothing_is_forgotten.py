"""Every field of a policy and of a report reaches the core: one that is added and not translated fails here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    MemoryPolicySpec,
    NodePolicy,
    NodePolicySpec,
    NodePressureStatus,
    ProcessorPolicy,
    ProcessorPolicySpec,
    Resource,
)
from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.memory.node_state import NodeTerms, StallLimits
from kubeballoon.core.migration import MigrationTerms
from kubeballoon.core.processors.model import Count, Hysteresis, ProcessorTerms, ProcessorTrigger
from kubeballoon.core.tainting import TaintTerms
from kubeballoon.governance.core_inputs import memory_node, processor_node
from kubeballoon.governance.loaded_policy import load_memory_policy, load_processor_policy
from kubeballoon.governance.node_policies import load_node_policy
from kubeballoon.governance.targets_in_force import TargetInForce
from kubeballoon.vocabulary import Mode, ReclaimWhen, RemedyMode, TaintEffect, WorkingSetReclaim

Object = dict[str, Any]
WHOM: Object = {"selector": {}, "priority": 7}
# Each field has a value that is not its default, and no two that could be mixed up have the same.
POLICIES: dict[type[Resource], Object] = {
    MemoryPolicy: {
        **WHOM,
        "mode": "Observe",
        "ownerExclusion": "Deny",
        "memory": {"min": "11%", "max": "90%", "shares": 2000, "idleTax": 33, "headroom": "7%"},
        "reclaim": {
            "when": "UnderPressure",
            "method": "Balloon",
            "maxRate": "64Mi",
            "workingSet": "Never",
            "workingSetDelay": "23s",
        },
    },
    ProcessorPolicy: {
        **WHOM,
        "mode": "Observe",
        "ownerExclusion": "Deny",
        "processors": {"min": 2, "max": "90%", "shares": 3000},
        "trigger": {"when": "Overcommitted", "stall": {"start": 41, "end": 12}, "usage": {"start": 83, "end": 64}},
        "method": "Driver",
        "coolDown": "77s",
    },
    NodePolicy: {
        **WHOM,
        "thresholds": {"ample": "16%", "tight": "12%", "scarce": "8%", "critical": "4%"},
        "eviction": {"threshold": "3%", "margin": "99Mi"},
        "reserve": "20%",
        "stall": {"tight": 31, "scarce": 13},
        "taint": {"mode": "Observe", "whenCritical": "NoSchedule", "maxTainted": "17%", "removeAfter": "88s"},
        "migration": {
            "mode": "Enforce",
            "after": "99s",
            "maxMigrations": 9,
            "maxMigrationsPerNode": 4,
            "rest": "66s",
        },
    },
}
GIVEN_TOGETHER = ("thresholds.", "trigger.stall.", "trigger.usage.")
# What decides about a VM or node outside of the core, in the package governance or in the agent.
ELSEWHERE = {"selector", "priority", "ownerExclusion", "reclaim.method", "method"}
SPECS: dict[type[Resource], type[BaseModel]] = {
    MemoryPolicy: MemoryPolicySpec,
    ProcessorPolicy: ProcessorPolicySpec,
    NodePolicy: NodePolicySpec,
}
LOAD: dict[type[Resource], Any] = {
    MemoryPolicy: load_memory_policy,
    ProcessorPolicy: load_processor_policy,
    NodePolicy: load_node_policy,
}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of a model's fields, as they are written; those of nested models instead of the models themselves."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        kinds = (field.annotation, *get_args(field.annotation))
        nested = next((each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)), None)
        if nested is None or path == "selector":
            yield path
        else:
            yield from leaves(nested, f"{path}.")


def translated(kind: type[Resource], spec: Object) -> tuple[object, ...]:
    """What the core gets of a policy."""
    loaded = LOAD[kind](kind.model_validate({"metadata": {"name": "p", "uid": "1"}, "spec": spec}))
    return tuple(getattr(loaded, name) for name in ("terms", "taints", "migrations") if hasattr(loaded, name))


def altered(spec: Object, path: str) -> Object:
    """The same policy without one field, or with one more of what is given together with others or not at all."""
    *parents, name = path.split(".")
    changed = inner = copy.deepcopy(spec)
    for parent in parents:
        inner = inner[parent]
    value = inner.pop(name)
    if path.startswith(GIVEN_TOGETHER):
        inner[name] = value + 1 if isinstance(value, int) else f"{int(value.removesuffix('%')) + 1}%"
    return changed


@pytest.mark.parametrize("kind", POLICIES)
def test_each_field_of_a_policy_changes_what_the_core_gets(kind: type[Resource]) -> None:
    spec = POLICIES[kind]
    for path in leaves(SPECS[kind]):
        if path not in ELSEWHERE:
            assert translated(kind, altered(spec, path)) != translated(kind, spec), f"{path} is forgotten"


def test_each_field_of_a_policy_becomes_the_term_that_it_means() -> None:
    memory, processors = (
        translated(MemoryPolicy, POLICIES[MemoryPolicy]),
        translated(ProcessorPolicy, POLICIES[ProcessorPolicy]),
    )
    assert memory == (
        MemoryTerms(
            name="p",
            minimum=Amount(percent=11),
            maximum=Amount(percent=90),
            headroom=Amount(percent=7),
            shares_per_gib=2000,
            idle_tax=33,
            mode=Mode.OBSERVE,
            when=ReclaimWhen.UNDER_PRESSURE,
            max_rate=64 << 20,
            working_set=WorkingSetReclaim.NEVER,
            working_set_delay=23.0,
        ),
    )
    trigger = ProcessorTrigger(ReclaimWhen.OVERCOMMITTED, stall=Hysteresis(41, 12), usage=Hysteresis(83, 64))
    bounds = {"minimum": Count(number=2), "maximum": Count(percent=90)}
    assert processors == (
        ProcessorTerms(name="p", **bounds, shares=3000, mode=Mode.OBSERVE, trigger=trigger, cool_down=77.0),
    )
    node, taints, migrations = translated(NodePolicy, POLICIES[NodePolicy])
    assert node == NodeTerms(
        thresholds=(Amount(percent=16), Amount(percent=12), Amount(percent=8), Amount(percent=4)),
        eviction=Amount(percent=3),
        margin=99 << 20,
        reserve=Amount(percent=20),
        stall=StallLimits(tight_some=31, scarce_full=13),
    )
    assert taints == TaintTerms(RemedyMode.OBSERVE, TaintEffect.NO_SCHEDULE, max_tainted_percent=17, remove_after=88.0)
    assert migrations == MigrationTerms(after=99.0, max_migrations=9, max_migrations_per_node=4, rest=66.0)


def defaults(of: object) -> Iterator[tuple[Field[Any], object]]:
    """The fields of a value of the core that have a default, each with its value here."""
    for field in fields(of):  # type: ignore[arg-type]  # every one is a dataclass
        if field.init and (field.default is not MISSING or field.default_factory is not MISSING):
            yield field, getattr(of, field.name)


def forgotten(of: object, exempt: frozenset[str] = frozenset()) -> list[str]:
    """The fields that have still their default, and so may have been forgotten."""
    return [field.name for field, value in defaults(of) if value == field.default and field.name not in exempt]


def test_each_term_of_the_core_comes_from_a_policy() -> None:
    for kind, spec in POLICIES.items():
        for terms in translated(kind, spec):
            # The percentage stands in place of a number of nodes.
            assert forgotten(terms, frozenset({"max_tainted"})) == [], type(terms).__name__


VM: Object = {
    "uid": "u",
    "namespace": "shop",
    "name": "a",
    "size": "8Gi",
    "actual": "7Gi",
    "resident": "5320Mi",
    "overhead": "200Mi",
    "need": "5Gi",
    "presentNeed": "4Gi",
    "target": "6Gi",
    "troubled": True,
    "responsive": False,
    "reason": "Hugepages",
    "message": "why",
    "eligible": False,
    "swapAbility": "Unable",
    "podRequest": "3Gi",
    "processors": {
        "size": 8,
        "online": 7,
        "target": 6,
        "eligible": False,
        "responsive": False,
        "reason": "DedicatedCPU",
        "message": "why",
    },
}
STATUS: Object = {
    "observedAt": "2026-01-01T00:00:00Z",
    "memory": {"total": "64Gi", "available": "9Gi", "other": "5Gi", "reserve": "4Gi"},
    "state": "Scarce",
    "processors": {"count": 16, "usage": 81, "stall": 22},
    "virtualMachines": [VM],
    "conditions": [],
}
WRITTEN: Mapping[str, TargetInForce] = {"u": TargetInForce(6 << 30, TargetChange(up=True, age=12.0))}


def test_each_figure_of_a_node_s_memory_comes_from_its_report() -> None:
    status = NodePressureStatus.model_validate(STATUS)
    policy = load_memory_policy(
        MemoryPolicy.model_validate({"metadata": {"name": "p"}, "spec": POLICIES[MemoryPolicy]})
    )
    node = memory_node("n", status, lambda _: policy, WRITTEN, 13.0)
    assert (node.total, node.available, node.other, node.reserve) == tuple(each << 30 for each in (64, 9, 5, 4))
    assert forgotten(node) == []
    (vm,) = node.vms
    assert forgotten(vm) == []
    assert (vm.size, vm.actual, vm.need, vm.present_need) == tuple(each << 30 for each in (8, 7, 5, 4))
    assert (vm.target, vm.pod_request, vm.overhead) == (6 << 30, 3 << 30, 200 << 20)
    assert vm.untouched == 2 << 30, "of what it is left its process holds 5 GiB, and its overhead"


def test_each_figure_of_a_node_s_processors_comes_from_its_report() -> None:
    status = NodePressureStatus.model_validate(STATUS)
    body = {"metadata": {"name": "p"}, "spec": POLICIES[ProcessorPolicy]}
    policy = load_processor_policy(ProcessorPolicy.model_validate(body))
    written = {"u": TargetInForce(6, TargetChange(up=True, age=12.0))}
    node = processor_node("n", status, lambda _: policy, written)
    assert node is not None
    assert forgotten(node) == []
    assert (node.count, node.pressure.stall, node.pressure.usage) == (16, 22, 81)
    (vm,) = node.vms
    assert forgotten(vm) == []
    assert (vm.size, vm.online, vm.target) == (8, 7, 6)
