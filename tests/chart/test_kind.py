"""hack/kind-up.sh, run with fakes of docker, kind, kubectl and helm, which only record their arguments."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hack.testbed.chart import CHART, render

pytestmark = pytest.mark.usefixtures("tools")

ROOT = CHART.parents[1]
PROGRAMS = ("docker", "kind", "kubectl", "helm")
FAKE = """#!/bin/sh
{ printf '%s\\t' "${0##*/}" "$@"; echo; } >>"$CALLS"
"""


def run(tmp_path: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    """Run the script with fakes of these programs and the few real programs that it needs on PATH."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in programs:
        (path / name).write_text(FAKE)
        (path / name).chmod(0o755)
    for name in ("dirname", "mkdir", "grep", "date", "bash"):
        (path / name).symlink_to(f"/usr/bin/{name}")
    environment = {"PATH": str(path), "CALLS": str(tmp_path / "calls"), "KUBEBALLOON_KIND_CLUSTER": "test"}
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


def calls(tmp_path: Path, *beginning: str) -> list[list[str]]:
    """Return the arguments of each call that begins with these words; the words are left out."""
    made = [line.removesuffix("\t").split("\t") for line in (tmp_path / "calls").read_text().splitlines()]
    return [call[len(beginning) :] for call in made if call[: len(beginning)] == list(beginning)]


def test_the_chart_runs_what_was_built_and_loaded(tmp_path: Path) -> None:
    ended = run(tmp_path, *PROGRAMS)
    assert ended.returncode == 0, ended.stderr
    built = {
        call[call.index("--target") + 1]: call[call.index("--tag") + 1] for call in calls(tmp_path, "docker", "build")
    }
    loaded = [
        image for image, *cluster in calls(tmp_path, "kind", "load", "docker-image") if cluster == ["--name", "test"]
    ]
    assert sorted(loaded) == sorted(built.values())
    ((chart, *options),) = calls(tmp_path, "helm", "upgrade", "--install", "kubeballoon")
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


def test_it_prints_the_kubeconfig_and_does_not_suggest_it_for_tests(tmp_path: Path) -> None:
    *_, last = run(tmp_path, *PROGRAMS).stdout.splitlines()
    assert last.strip() == f"export KUBECONFIG={ROOT}/build/test.kubeconfig"
    assert "KUBEBALLOON_KUBECONFIG" not in (ROOT / "hack/kind-up.sh").read_text()


@pytest.mark.parametrize("missing", PROGRAMS)
def test_a_program_that_is_missing_is_one_line(tmp_path: Path, missing: str) -> None:
    ended = run(tmp_path, *(set(PROGRAMS) - {missing}))
    assert (ended.returncode, ended.stderr) == (1, f"error: {missing} is not on PATH\n")
    assert not (tmp_path / "calls").exists()
