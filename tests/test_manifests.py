"""Policies in files are refused where the API server refuses them, in its words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from kubeballoon.api import rules
from kubeballoon.api.v1alpha1 import MemoryPolicy, MemoryPolicySpec, ProcessorPolicySpec
from kubeballoon.governance.loaded_policy import load_memory_policy
from kubeballoon.manifests import RefusedError, read
from tests.support.cluster import Object, memory_policy, processor_policy

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
    (".5Ki", 512),
    ("0.1Ki", 103),
    ("100Ti", 100 << 40),
    ("1Pi", 1 << 50),
    ("1.5G", 1_500_000_000),
    ("1e3", 1000),
    ("1E+3", 1000),
    (1 << 30, 1 << 30),
]

WRONG_PROCESSORS: list[tuple[dict[str, Any], str, str]] = [
    ({"processors": {"min": 3, "max": 2}}, "spec.processors.min", "min must not exceed max"),
    ({"processors": {"max": 0}}, "spec.processors.max", "a whole number of processors such as 2, or a percentage"),
    ({"trigger": {"stall": {"start": 10, "end": 20}}}, "spec.trigger.stall.end", "end must not exceed start"),
    ({"trigger": {"stall": {"start": "10", "end": 5}}}, "spec.trigger.stall.start", "must be of type integer"),
    ({"trigger": {"usage": {"start": 101, "end": 5}}}, "spec.trigger.usage.start", "less than or equal to 100"),
    ({"coolDown": "soon"}, "spec.coolDown", "coolDown must be a duration such as 5m"),
    ({"method": "Magic"}, "spec.method", 'Unsupported value: "Magic"'),
]


def refused(*sources: Path) -> list[str]:
    with pytest.raises(RefusedError) as error:
        read(map(str, sources))
    return list(error.value.lines)


def written(directory: Path, *documents: Object, name: str = "policy.yaml") -> Path:
    path = directory / name
    path.write_text(yaml.safe_dump_all(documents))
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
    (taken,) = read([str(written(tmp_path, policy))])
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


def assert_refused_alike(plane: ControlPlane, tmp_path: Path, policy: Object, field: str, reason: str) -> None:
    with pytest.raises(ControlPlaneError) as refusal:
        plane.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", stdin=json.dumps(policy))
    assert field in str(refusal.value)
    assert reason in str(refusal.value)
    (line,) = refused(written(tmp_path, policy))
    assert field in line
    assert reason in line


@pytest.mark.parametrize("spec", [MemoryPolicySpec, ProcessorPolicySpec])
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
    assert sorted((policy.kind, policy.metadata.name) for policy in read([str(tmp_path)])) == [
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


def test_a_name_twice_an_unknown_version_and_no_name_are_refused(tmp_path: Path) -> None:
    first, second = (written(tmp_path, memory_policy("twice"), name=name) for name in ("1.yaml", "2.yaml"))
    assert refused(first, second) == [f"{second}: MemoryPolicy twice is in {first} too"]
    future = {**memory_policy("future"), "apiVersion": "kubeballoon.io/v2"}
    assert 'no matches for kind "MemoryPolicy" in version "kubeballoon.io/v2"' in refused(written(tmp_path, future))[0]
    labelled = memory_policy("labelled")
    labelled["metadata"]["labels"] = {"tier": 1}
    assert "metadata.labels.tier: Invalid value: 1" in refused(written(tmp_path, labelled))[0]
    assert "resource name may not be empty" in refused(written(tmp_path, memory_policy("")))[0]
