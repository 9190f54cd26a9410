"""The demo's short scenes are complete, and are what Makefile and README say there is; `make demo` plays them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from hack.demo.scenes import FILES, SCENES, Scene
from hack.demo.stage import ROOT
from kubeballoon.manifests import read

LONG = "memory"
"""The scene that is no short one."""

each = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())


@pytest.mark.parametrize("page", ["README.md", "Makefile"])
def test_the_scenes_that_are_named_are_those_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    shown = next(line for line in text.splitlines() if "SCENE=" in line)
    named = re.findall(r"[a-z]+(?:-[a-z]+)*", shown.split("SCENE=", 1)[1].split(" show")[0])
    assert set(named) - {"and", "or"} == set(SCENES)


def test_ci_plays_the_default_scene() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]
    assert "make demo" in [step.get("run") for step in jobs["test"]["steps"]]


def test_the_default_is_the_long_scene() -> None:
    assert f"SCENE ?= {LONG}\n" in (ROOT / "Makefile").read_text()
    assert LONG not in SCENES


@each
def test_its_guests_can_be_ordered_and_fit_on_its_node(scene: Scene) -> None:
    for spec in scene.guests:
        assert ET.fromstring(spec.domain_xml(kvm=False)).findtext("name") == spec.domain_name  # noqa: S314 - our own
    assert len({spec.name for spec in scene.guests}) == len(scene.guests)
    assert sum(spec.memory_bytes for spec in scene.guests) < scene.node_bytes


@each
def test_its_policy_is_one_and_is_called_what_it_deletes(scene: Scene) -> None:
    (policy,) = read([str(FILES / scene.policy)])
    assert policy.metadata.name == "demo"


def test_every_policy_is_some_scene_s_and_names_it() -> None:
    policies = {name: scene.policy for name, scene in SCENES.items()}
    assert {file.name for file in FILES.glob("*.yaml")} == {"policy.yaml", *policies.values()}
    for name, policy in policies.items():
        assert f"SCENE={name}`" in Path(FILES / policy).read_text()
