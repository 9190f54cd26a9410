"""What hack/kind-up.sh asks of docker, kind, kubectl and helm; here they only say what they were asked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hack.testbed.chart import CHART, render

pytestmark = pytest.mark.usefixtures("tools")

ROOT = CHART.parents[1]
PROGRAMS = ("docker", "kind", "kubectl", "helm")
FAKE = """#!/bin/sh
{ printf '%s\\t' "${0##*/}" "$@"; echo; } >>"$ASKED"
"""


def run(tmp_path: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    """Run the script where there are these programs, and those of the system that it is written in."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in programs:
        (path / name).write_text(FAKE)
        (path / name).chmod(0o755)
    for name in ("dirname", "mkdir", "grep", "date", "bash"):
        (path / name).symlink_to(f"/usr/bin/{name}")
    environment = {"PATH": str(path), "ASKED": str(tmp_path / "asked"), "KUBEBALLOON_KIND_CLUSTER": "test"}
    script = ROOT / "hack/kind-up.sh"
    return subprocess.run(
        ["/usr/bin/bash", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def asked(tmp_path: Path, *beginning: str) -> list[list[str]]:
    """The arguments of each call that begins so, without that."""
    calls = [line.removesuffix("\t").split("\t") for line in (tmp_path / "asked").read_text().splitlines()]
    return [call[len(beginning) :] for call in calls if call[: len(beginning)] == list(beginning)]


def test_the_chart_runs_what_was_built_and_loaded(tmp_path: Path) -> None:
    ended = run(tmp_path, *PROGRAMS)
    assert ended.returncode == 0, ended.stderr
    built = {
        call[call.index("--target") + 1]: call[call.index("--tag") + 1] for call in asked(tmp_path, "docker", "build")
    }
    loaded = [
        image for image, *cluster in asked(tmp_path, "kind", "load", "docker-image") if cluster == ["--name", "test"]
    ]
    assert sorted(loaded) == sorted(built.values())
    ((chart, *options),) = asked(tmp_path, "helm", "upgrade", "--install", "kubeballoon")
    assert ROOT / chart == CHART
    rendered = render(f"--set={options[options.index('--set') + 1]}")
    pods = {
        item["metadata"]["name"]: item["spec"]["template"] for item in rendered if "template" in item.get("spec", {})
    }
    containers = {name: pod["spec"]["containers"][0] for name, pod in pods.items()}
    assert {name: container["image"] for name, container in containers.items()} == {
        "kubeballoon-agent": built["agent"],
        "kubeballoon-controller": built["controller"],
        "kubeballoon-uninstall": built["controller"],
    }
    assert {container["imagePullPolicy"] for container in containers.values()} == {"Never"}


def test_it_says_how_to_reach_the_cluster_and_sends_nobody_s_tests_there(tmp_path: Path) -> None:
    *_, last = run(tmp_path, *PROGRAMS).stdout.splitlines()
    assert last.strip() == f"export KUBECONFIG={ROOT}/build/test.kubeconfig"
    assert "KUBEBALLOON_KUBECONFIG" not in (ROOT / "hack/kind-up.sh").read_text()


@pytest.mark.parametrize("missing", PROGRAMS)
def test_a_program_that_is_missing_is_one_line(tmp_path: Path, missing: str) -> None:
    ended = run(tmp_path, *(set(PROGRAMS) - {missing}))
    assert (ended.returncode, ended.stderr) == (1, f"error: {missing} is not on PATH\n")
    assert not (tmp_path / "asked").exists()
