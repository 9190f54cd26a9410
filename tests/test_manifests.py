"""Policies in files are refused where the API server refuses them, in its words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from kubeballoon.api import rules
from kubeballoon.api.v1alpha1 import (
    MemoryPolicy,
    MemoryPolicySpec,
    NodePolicySpec,
    ProcessorPolicy,
    ProcessorPolicySpec,
)
from kubeballoon.governance.loaded_policy import load_memory_policy, load_processor_policy
from kubeballoon.manifests import RefusedError, read_manifests
from tests.support.cluster import Object, memory_policy, node_policy, processor_policy

EXPRESSIONS = {"virtualMachineSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"memory": {"min": "80%", "max": "50%"}}, "spec.memory.min", "min must not exceed max"),
    ({"memory": {"min": "2Gi", "max": "1Gi"}}, "spec.memory.min", "min must not exceed max"),
    ({"memory": {"min": "150%"}}, "spec.memory.min", "a percentage from 0% to 100%"),
    ({"memory": {"max": "much"}}, "spec.memory.max", "max must be a quantity of bytes such as 1.5Gi"),
    ({"memory": {"min": -5}}, "spec.memory.min", "min must be a quantity of bytes"),
    ({"memory": {"headroom": "1.5"}}, "spec.memory.headroom", "headroom must be a quantity of bytes"),
    ({"memory": {"min": "+1Gi"}}, "spec.memory.min", "min must be a quantity of bytes"),
    ({"memory": {"max": "1e003"}}, "spec.memory.max", "max must be a quantity of bytes"),
    ({"memory": {"min": "1.5Gi", "max": "1.25Gi"}}, "spec.memory.min", "min must not exceed max"),
    ({"memory": {"min": 25}}, "spec.memory.min", "min must be a percentage such as 25%, or a quantity from 1Mi"),
    (
        {"memory": {"max": 100}},
        "spec.memory.max",
        "max must be a percentage from 1% such as 25%, or a quantity from 64Mi",
    ),
    ({"memory": {"max": "0%"}}, "spec.memory.max", "max must be a percentage from 1% such as 25%"),
    ({"memory": {"max": "63Mi"}}, "spec.memory.max", "or a quantity from 64Mi to 1Pi such as 2Gi"),
    ({"memory": {"headroom": 20}}, "spec.memory.headroom", "a number without unit is in bytes"),
    ({"memory": {"headroom": "2Pi"}}, "spec.memory.headroom", "or a quantity from 1Mi to 1Pi such as 2Gi"),
    ({"memory": {"max": "PodRequest"}}, "spec.memory.max", "max must be a quantity of bytes"),
    ({"memory": {"min": "podRequest"}}, "spec.memory.min", "a percentage from 0% to 100%, or PodRequest"),
    ({"reclaim": {"maxRate": 256}}, "spec.reclaim.maxRate", "such as 256Mi, from 1Mi to 1Pi"),
    ({"reclaim": {"maxRate": "+1Mi"}}, "spec.reclaim.maxRate", "maxRate must be a positive quantity of bytes"),
    ({"memory": {"idleTax": 100}}, "spec.memory.idleTax", "should be less than or equal to 99"),
    ({"memory": {"shares": 0}}, "spec.memory.shares", "should be greater than or equal to 1"),
    ({"memory": {"shares": "many"}}, "spec.memory.shares", "in body must be of type integer"),
    ({"memory": {"shares": "5"}}, "spec.memory.shares", "in body must be of type integer"),
    ({"memory": {"shares": 1.5}}, "spec.memory.shares", "in body must be of type integer"),
    ({"memory": "much"}, "spec.memory", "in body must be of type object"),
    ({"reclaim": {"maxRate": "0"}}, "spec.reclaim.maxRate", "maxRate must be a positive quantity of bytes"),
    ({"reclaim": {"when": "Never"}}, "spec.reclaim.when", '"Overcommitted", "UnderPressure"'),
    ({"mode": "Dry"}, "spec.mode", 'Unsupported value: "Dry": supported values: "Enforce", "Observe"'),
    ({"selector": None}, "spec.selector", "Required value"),
    ({"memory": {"floor": "1Gi"}}, "spec.memory.floor", "unknown field"),
    (
        {"selector": EXPRESSIONS},
        "spec.selector.virtualMachineSelector.matchExpressions[0].values",
        "values must be given for operators In and NotIn",
    ),
]

IN_SELECTOR: list[tuple[dict[str, Any], str, str]] = [
    ({"matchLabels": {"not a key!": "a"}}, "matchLabels", "a label's key is a name such as tier"),
    ({"matchLabels": {"example.com/": "a"}}, "matchLabels", "a label's key is a name such as tier"),
    ({"matchLabels": {"tier": "bad value!"}}, "matchLabels.tier", "in body should match '^"),
    (
        {"matchExpressions": [{"key": "a/b/c", "operator": "Exists"}]},
        "matchExpressions[0].key",
        "a label's key is a name",
    ),
    (
        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["good", "-bad"]}]},
        "matchExpressions[0].values[1]",
        "in body should match '^",
    ),
]
WRONG += [
    ({"selector": {name: selector}}, f"spec.selector.{name}.{field}", reason)
    for name in ("namespaceSelector", "virtualMachineSelector")
    for selector, field, reason in IN_SELECTOR
]

RIGHT: list[tuple[str | int, int]] = [
    ("1.5Gi", 3 << 29),
    ("0.5Gi", 1 << 29),
    ("1.0Gi", 1 << 30),
    ("2.50Gi", 5 << 29),
    (".5Gi", 1 << 29),
    ("64.1Mi", 67_213_722),
    ("100Ti", 100 << 40),
    ("1Pi", 1 << 50),
    ("1.5G", 1_500_000_000),
    ("1e8", 100_000_000),
    ("1E+9", 1_000_000_000),
    (1 << 30, 1 << 30),
]

WRONG_PROCESSORS: list[tuple[dict[str, Any], str, str]] = [
    ({"processors": {"min": 3, "max": 2}}, "spec.processors.min", "min must not exceed max"),
    ({"processors": {"max": 0}}, "spec.processors.max", "a whole number of processors such as 2, or a percentage"),
    ({"trigger": {"stall": {"start": 10, "end": 20}}}, "spec.trigger.stall.end", "end must not exceed start"),
    ({"trigger": {"stall": {"start": "10", "end": 5}}}, "spec.trigger.stall.start", "must be of type integer"),
    ({"trigger": {"usage": {"start": 101, "end": 5}}}, "spec.trigger.usage.start", "less than or equal to 100"),
    ({"coolDown": "soon"}, "spec.coolDown", "coolDown must be a duration such as 5m"),
    ({"coolDown": 5}, "spec.coolDown", "must be of type string"),
    ({"method": "Magic"}, "spec.method", 'Unsupported value: "Magic"'),
]

LEVELS = {"ample": "6%", "tight": "4%", "scarce": "2%", "critical": "1%"}
ORDER = "must all be percentages, or all be quantities, each less than the one before"
WRONG_NODES: list[tuple[dict[str, Any], str, str]] = [
    ({"thresholds": {**LEVELS, "tight": "6%"}}, "spec.thresholds.ample", ORDER),
    ({"thresholds": {**LEVELS, "critical": "3%"}}, "spec.thresholds.ample", ORDER),
    ({"thresholds": {**LEVELS, "ample": "8Gi"}}, "spec.thresholds.ample", ORDER),
    (
        {"thresholds": {"ample": "4Gi", "tight": "3Gi", "scarce": "3072Mi", "critical": "1Gi"}},
        "spec.thresholds.ample",
        ORDER,
    ),
    (
        {"thresholds": {"ample": "8Gi", "tight": "6Gi", "scarce": "4Gi", "critical": 1024}},
        "spec.thresholds.critical",
        "a number without unit is in bytes",
    ),
    ({"thresholds": {**LEVELS, "scarce": "few"}}, "spec.thresholds.scarce", "scarce must be a quantity of bytes"),
    ({"thresholds": {"ample": "6%", "tight": "4%", "scarce": "2%"}}, "spec.thresholds.critical", "Required value"),
    ({"eviction": {"threshold": "5.5%"}}, "spec.eviction.threshold", "threshold must be a quantity of bytes"),
    ({"eviction": {"margin": "1%"}}, "spec.eviction.margin", "margin must be a positive quantity of bytes"),
    ({"reserve": 10}, "spec.reserve", "a number without unit is in bytes"),
    ({"reserve": "101%"}, "spec.reserve", "a percentage from 0% to 100%"),
    ({"stall": {"tight": 0}}, "spec.stall.tight", "should be greater than or equal to 1"),
    ({"stall": {"scarce": "10%"}}, "spec.stall.scarce", "must be of type integer"),
    ({"taint": {"mode": "On"}}, "spec.taint.mode", 'supported values: "Off", "Observe", "Enforce"'),
    ({"taint": {"whenCritical": "NoExecute"}}, "spec.taint.whenCritical", '"PreferNoSchedule", "NoSchedule"'),
    ({"taint": {"maxTainted": 0}}, "spec.taint.maxTainted", "a whole number of nodes such as 2, or a percentage"),
    ({"taint": {"removeAfter": "soon"}}, "spec.taint.removeAfter", "must be a duration such as 5m"),
    ({"priority": 10_000_000}, "spec.priority", "should be less than or equal to 1000000"),
    ({"mode": "Observe"}, "spec.mode", "unknown field"),
]
WRONG_NODES += [
    ({"selector": {"nodeSelector": selector}}, f"spec.selector.nodeSelector.{field}", reason)
    for selector, field, reason in IN_SELECTOR
]


def refused(*sources: Path) -> list[str]:
    with pytest.raises(RefusedError) as error:
        read_manifests(map(str, sources))
    return list(error.value.lines)


def written(directory: Path, *documents: Object, name: str = "policy.yaml") -> Path:
    path = directory / name
    path.write_text("\n---\n".join(map(json.dumps, documents)))  # quoted: YAML's plain words are another matter
    return path


@pytest.mark.cluster
@pytest.mark.parametrize(("spec", "field", "reason"), WRONG)
def test_files_and_api_server_refuse_alike(
    installed: ControlPlane, tmp_path: Path, spec: dict[str, Any], field: str, reason: str
) -> None:
    policy = memory_policy("wrong", **spec)
    if policy["spec"]["selector"] is None:
        del policy["spec"]["selector"]
    assert_refused_alike(installed, tmp_path, policy, field, reason)


@pytest.mark.cluster
@pytest.mark.parametrize(("text", "size"), RIGHT)
def test_files_api_server_and_controller_take_the_same_quantities(
    installed: ControlPlane, tmp_path: Path, text: str | int, size: int
) -> None:
    memory = {"min": text, "max": text, "headroom": text}
    policy = memory_policy("right", memory=memory, reclaim={"maxRate": text})
    installed.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(policy))
    (taken,) = read_manifests([str(written(tmp_path, policy))])
    assert isinstance(taken, MemoryPolicy)
    meant = load_memory_policy(taken).terms
    assert {each.bytes for each in (meant.minimum, meant.maximum, meant.headroom)} == {size}
    assert meant.max_rate == size


@pytest.mark.cluster
@pytest.mark.parametrize(("spec", "field", "reason"), WRONG_PROCESSORS)
def test_files_and_api_server_refuse_policies_for_processors_alike(
    installed: ControlPlane, tmp_path: Path, spec: dict[str, Any], field: str, reason: str
) -> None:
    assert_refused_alike(installed, tmp_path, processor_policy("wrong", **spec), field, reason)


@pytest.mark.cluster
@pytest.mark.parametrize(("spec", "field", "reason"), WRONG_NODES)
def test_files_and_api_server_refuse_policies_for_nodes_alike(
    installed: ControlPlane, tmp_path: Path, spec: dict[str, Any], field: str, reason: str
) -> None:
    assert_refused_alike(installed, tmp_path, node_policy("wrong", **spec), field, reason)


def assert_refused_alike(plane: ControlPlane, tmp_path: Path, policy: Object, field: str, reason: str) -> None:
    with pytest.raises(ControlPlaneError) as refusal:
        plane.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(policy))
    assert field in str(refusal.value)
    assert reason in str(refusal.value)
    (line,) = refused(written(tmp_path, policy))
    assert field in line
    assert reason in line


# As YAML: kubectl reads it otherwise than PyYAML does.
VALUES = r"""
5 | 5.0 | -0.0 | 1.5 | 017 | 0o17 | 089 | 0x10 | 1_000 | _1 | +5 | 5. | .5 | 1e3 | 1.5e9 | 1e30 | 1e400 | 12:30
9223372036854775807 | 9223372036854775808 | 67108864 | 67108864.0 | 25 | 100 | 20 | .inf | .nan | !!float 5 | !!str 5
12:30:45 | "5" | "5m" | 5m | 1h30m | 1d | "5m\n"
50% | "050%" | 101% | 64Mi | 63Mi | 1023Ki | 1Pi | 2Pi | .5Gi | +1Gi | "1Gi "
PodRequest | Enforce | UnderPressure | yes | y | off | null | ~ | "" | [] | {} | [5] | {a: 1} | 2026-01-01 | "\u0663"
"""
MEMORY_FIELDS = """
priority | mode | memory | memory.min | memory.max | memory.shares | memory.idleTax | memory.headroom | reclaim.when
reclaim.maxRate | selector | selector.virtualMachineSelector.matchLabels | coolDown
selector.virtualMachineSelector.matchLabels.tier
"""
PROCESSOR_FIELDS = """
processors | processors.min | processors.max | processors.shares | trigger.stall.start | coolDown
"""
NODE_FIELDS = """
reserve | thresholds.ample | thresholds | eviction.threshold | eviction.margin | stall.tight | priority
selector.nodeSelector.matchLabels.tier | taint.maxTainted | taint.removeAfter | taint.mode
"""
METADATA = """
labels: {a: 5} | labels: {a: "not good"} | labels: {a/b/c: d} | annotations: {A/b: c} | creationTimestamp: null
unknown: null | finalizers: [5] | labels: []
"""


FIELDS = {"MemoryPolicy": MEMORY_FIELDS, "ProcessorPolicy": PROCESSOR_FIELDS, "NodePolicy": NODE_FIELDS}


def words(text: str) -> list[str]:
    """Split a text at bars and line ends."""
    return [word.strip() for line in text.strip().splitlines() for word in line.split(" | ")]


def nested(path: str, value: str) -> str:
    """Write a spec with one field, beside a selector, as YAML."""
    first, *rest = path.split(".")
    inner = "".join(f"{{{each}: " for each in rest) + value + "}" * len(rest)
    return f"{{{'' if first == 'selector' else 'selector: {}, '}{first}: {inner}}}"


def every_policy() -> Iterator[str]:
    """Write a policy for each value in each field, with NAME for its name."""
    for kind, fields in FIELDS.items():
        head = f"apiVersion: kubeballoon.io/v1alpha1\nkind: {kind}\n"
        for field in words(fields):
            for value in words(VALUES):
                yield f"{head}metadata: {{name: NAME}}\nspec: {nested(field, value)}\n"
    head = "apiVersion: kubeballoon.io/v1alpha1\nkind: MemoryPolicy\n"
    for metadata in words(METADATA):
        yield f"{head}metadata: {{name: NAME, {metadata}}}\nspec: {{selector: {{}}}}\n"
    for name in ("a/b", "A", "a_b", "-a", "5", "x" * 254):
        yield f"{head}metadata: {{name: {name}-NAME}}\nspec: {{selector: {{}}}}\n"


@pytest.mark.cluster
def test_files_and_api_server_agree_about_every_value_of_every_field(installed: ControlPlane, tmp_path: Path) -> None:
    texts = {f"policy-{number}x": text for number, text in enumerate(every_policy())}
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(text.replace("NAME", name))
    with pytest.raises(ControlPlaneError) as refusal:
        installed.kubectl("create", "--dry-run=server", "--validate=strict", f"--filename={tmp_path}", seconds=300)
    refused_there = {name for name in texts if name in str(refusal.value)}
    refused_here = set()
    for name in texts:
        try:
            read_manifests([str(tmp_path / f"{name}.yaml")])
        except RefusedError:
            refused_here.add(name)
    assert 100 < len(refused_here) < len(texts) - 100
    assert [texts[name] for name in sorted(refused_here ^ refused_there)] == []


@pytest.mark.parametrize(
    ("memory", "minimum"),
    [
        ({}, 50),
        ({"max": "40%"}, 40),
        ({"max": "1Gi"}, 25),
        ({"max": "3Gi"}, 50),
        ({"min": "50%", "max": "1Gi"}, 50),
        ({"min": "PodRequest"}, 75),
        ({"min": "PodRequest", "max": "50%"}, 75),
    ],
)
def test_a_minimum_that_nobody_wrote_is_half_or_the_maximum(
    tmp_path: Path, memory: dict[str, str], minimum: int
) -> None:
    (policy,) = read_manifests([str(written(tmp_path, memory_policy("p", memory=memory)))])
    assert isinstance(policy, MemoryPolicy)
    terms = load_memory_policy(policy).terms
    assert terms.minimum.of(4 << 30, pod_request=3 << 30) == (4 << 30) * minimum // 100


@pytest.mark.parametrize(("processors", "minimum"), [({"max": 1}, 1), ({"max": "25%"}, 2), ({}, 4)])
def test_processors_have_such_a_minimum_too(tmp_path: Path, processors: dict[str, Any], minimum: int) -> None:
    (policy,) = read_manifests([str(written(tmp_path, processor_policy("p", processors=processors)))])
    assert isinstance(policy, ProcessorPolicy)
    assert load_processor_policy(policy).terms.minimum.of(8) == minimum


def test_percent_signs_that_were_forgotten_are_refused_field_by_field(tmp_path: Path) -> None:
    forgotten = memory_policy("p", memory={"min": 25, "max": 100, "headroom": 20})
    lines = refused(written(tmp_path, forgotten))
    assert len(lines) == 3
    assert all("must be a percentage" in line and "a number without unit is in bytes" in line for line in lines)


@pytest.mark.parametrize("spec", [MemoryPolicySpec, ProcessorPolicySpec, NodePolicySpec])
def test_every_rule_of_the_api_server_is_checked_here_too(spec: type[BaseModel]) -> None:
    def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield model
        for field in model.model_fields.values():
            for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if inspect.isclass(inner) and issubclass(inner, BaseModel):
                    yield from models(inner)

    unchecked = rules.Rule("", "").holds
    every = [rule for model in models(spec) for rule in getattr(model, "rules", ())]
    assert every
    assert [rule.message for rule in every if rule.holds is unchecked] == []


def test_all_files_of_a_directory_are_read_and_other_objects_passed_over(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "policy"}}
    written(tmp_path / "deep", config_map, memory_policy("a", memory={"min": "1Gi"}))
    listed = {"apiVersion": "v1", "kind": "List", "items": [memory_policy("b"), config_map]}
    written(tmp_path, listed, name="list.yml")
    written(tmp_path, processor_policy("a"), name="same-name-other-kind.yaml")
    (tmp_path / "README.md").write_text(": no YAML")
    assert sorted((policy.kind, policy.metadata.name) for policy in read_manifests([str(tmp_path)])) == [
        ("MemoryPolicy", "a"),
        ("MemoryPolicy", "b"),
        ("ProcessorPolicy", "a"),
    ]


def test_each_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: b\nc: d: e\n")
    (tmp_path / "empty").mkdir()
    lines = refused(broken, tmp_path / "none.yaml", tmp_path / "empty")
    assert lines[0] == f"{broken}: line 2: mapping values are not allowed here"
    assert lines[1] == f"{tmp_path / 'none.yaml'}: No such file or directory"
    assert lines[2].startswith(f"{tmp_path / 'empty'}: this directory has no .yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("spec: &a {selector: {}, memory: *a}", "an anchor's value contains itself"),
        (f"spec: {'[' * 5000}", "this file is nested too deeply"),
        (f"spec: {{selector: {{}}, priority: {'9' * 5000}}}", "spec.priority"),
        ("spec: {selector: {}, memory: {[1]: 2}}", "unhashable key"),
        ("spec: {selector: {}, memory: {1: 2}}", 'unknown field "spec.memory.1"'),
        ("kind: [1]", "no matches for kind"),
    ],
)
def test_a_file_that_nobody_means_well_with_is_one_line(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "policy.yaml"
    head = "apiVersion: kubeballoon.io/v1alpha1\nmetadata: {name: p}\n"
    file.write_text(f"{head}{'' if text.startswith('kind') else 'kind: MemoryPolicy'}\n{text}\n")
    (line,) = refused(file)
    assert reason in line


def test_a_name_twice_an_unknown_version_and_no_name_are_refused(tmp_path: Path) -> None:
    first, second = (written(tmp_path, memory_policy("twice"), name=name) for name in ("1.yaml", "2.yaml"))
    assert refused(first, second) == [f"{second}: MemoryPolicy twice is in {first} too"]
    future = {**memory_policy("future"), "apiVersion": "kubeballoon.io/v2"}
    assert 'no matches for kind "MemoryPolicy" in version "kubeballoon.io/v2"' in refused(written(tmp_path, future))[0]
    labelled = memory_policy("labelled")
    labelled["metadata"]["labels"] = {"tier": 1}
    assert "metadata.labels.tier: Invalid value: 1" in refused(written(tmp_path, labelled))[0]
    assert "resource name may not be empty" in refused(written(tmp_path, memory_policy("")))[0]
