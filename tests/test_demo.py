"""The demo's scenes are complete, and README and Makefile name all of them."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from hack.demo.record import Measurement, Memory
from hack.demo.scene import POLICIES, LabScene, Scene
from hack.demo.scenes import DEFAULT, SCENES
from hack.demo.screen import Screen
from hack.demo.stage import ROOT
from kubeballoon.manifests import read_manifests

each = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())


@pytest.mark.parametrize("page", ["README.md", "Makefile"])
def test_the_scenes_that_are_named_beside_the_default_are_those_that_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    shown = next(line for line in text.splitlines() if "SCENE=" in line)
    named = re.findall(r"[a-z]+(?:-[a-z]+)*", shown.split("SCENE=", 1)[1].split(" show")[0])
    assert set(named) - {"and", "or"} == set(SCENES) - {DEFAULT}


def test_ci_plays_the_default_scene() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]
    assert "make demo" in [step.get("run") for step in jobs["test"]["steps"]]


def test_make_plays_the_memory_scene_by_default() -> None:
    assert DEFAULT == "memory"
    assert f"SCENE ?= {DEFAULT}\n" in (ROOT / "Makefile").read_text()


LAB_SCENES = {name: scene for name, scene in SCENES.items() if issubclass(scene, LabScene)}


@pytest.mark.parametrize("scene", LAB_SCENES.values(), ids=LAB_SCENES.keys())
def test_its_guests_can_be_ordered_and_fit_on_its_node_unless_memory_is_to_run_short(scene: type[LabScene]) -> None:
    for spec in scene.guests:
        assert ET.fromstring(spec.domain_xml(kvm=False)).findtext("name") == spec.domain_name  # noqa: S314 - our own
    assert len({spec.name for spec in scene.guests}) == len(scene.guests)
    fits = sum(spec.memory_bytes for spec in scene.guests) < scene.node_bytes
    assert fits is (scene is not SCENES[DEFAULT])


@each
def test_its_policy_is_one_and_is_called_what_it_deletes(scene: type[Scene[Any]]) -> None:
    (policy,) = read_manifests([str(POLICIES / scene.policy)])
    assert policy.metadata.name == "demo"


def test_every_policy_belongs_to_a_scene_and_names_it() -> None:
    policies = {name: scene.policy for name, scene in SCENES.items()}
    assert {file.name for file in POLICIES.glob("*.yaml")} == set(policies.values())
    for name, policy in policies.items():
        command = "`make demo`" if name == DEFAULT else f"`make demo SCENE={name}`"
        assert command in (POLICIES / policy).read_text()


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        """Say that it is a terminal."""
        return True


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_of_the_table_wraps_since_it_is_drawn_over_the_last_one(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal, size = Terminal(), 2 << 30
    memory = Memory({"calm": size // 2}, {"calm": size // 3}, {"node-1": size, "node-2": 0})
    Screen(terminal).show_nodes(Measurement(1.0, memory, {"calm": size // 4}), 2 * size, {"calm": size})
    lines = terminal.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["node-1", "node-2", "calm"]
    assert max(map(len, lines)) < columns
    bars = [re.sub("[^█·]", "", line) for line in lines]
    assert [bar.count("█") * 2 for bar in bars] == [len(bars[0]), 0, len(bars[0])]
