"""CI runs on what the package claims, and what it runs cannot change behind its back."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
_PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def test_each_python_that_is_claimed_is_tested() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    claimed = [found[1] for line in classifiers if (found := re.fullmatch(r".*Python :: (3\.\d+)", line))]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]
    assert [run["python"] for run in jobs["quick"]["strategy"]["matrix"]["include"]] == claimed


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_digest_and_name_their_version(workflow: Path) -> None:
    used = re.findall(r"^ +(?:- )?uses: (.*)$", workflow.read_text(), re.MULTILINE)
    assert used
    assert [action for action in used if not _PINNED.fullmatch(action)] == []


def test_images_are_built_on_a_base_that_is_pinned_by_its_digest() -> None:
    lines = (ROOT / "images/Containerfile").read_text().splitlines()
    known = dict(line.removeprefix("ARG ").split("=", 1) for line in lines if line.startswith("ARG ") and "=" in line)
    stages = {found[1] for line in lines if (found := re.fullmatch(r"FROM .* AS (\S+)", line))}
    bases = {line.split()[1] for line in lines if line.startswith("FROM ")} - stages - {"scratch"}
    assert bases == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"docker\.io/library/python:3\.[\w.-]+@sha256:[0-9a-f]{64}", known["PYTHON_IMAGE"])
    release = (ROOT / ".github/workflows/release.yaml").read_text()
    assert "PYTHON_IMAGE" not in release, "a release is built on the same"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_read_the_code_and_no_more_unless_they_say_so(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}


_IMAGE_OPTIONS = {
    "docker/setup-qemu-action": "image",
    "docker/setup-buildx-action": "driver-opts",
}
"""The actions that run an image, and the option that names it; without it they take what a tag names on that day."""
_BY_DIGEST = re.compile(r"(?:image=|generator=)?docker\.io/[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_images_that_a_workflow_runs_are_named_by_their_digests(workflow: Path) -> None:
    for name, job in yaml.safe_load(workflow.read_text())["jobs"].items():
        images = [job["container"]["image"]] if "container" in job else []
        for step in job["steps"]:
            option = _IMAGE_OPTIONS.get(step.get("uses", "").partition("@")[0])
            if option is not None:
                images.append(step["with"][option])
            images += [step["with"]["sbom"]] if "sbom" in step.get("with", {}) else []
        assert [image for image in images if not _BY_DIGEST.fullmatch(image)] == [], name


def test_a_release_refuses_tags_that_exist_signs_all_and_names_images_by_digest() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())["jobs"]
    scripts = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    for name, pushes in (("image", "cosign"), ("chart", "helm push"), ("publish", "gh release create")):
        absent = scripts[name].index("hack.release absent ")
        assert absent < scripts[name].index(pushes), "it is refused before anything is pushed"
    steps = [step.get("name") or step.get("uses", "").partition("@")[0] for step in jobs["image"]["steps"]]
    assert steps.index("Refuse a tag that exists") < steps.index("docker/build-push-action")
    for name in ("image", "chart"):
        assert 'cosign" sign --yes' in scripts[name]
        assert jobs[name]["permissions"]["id-token"] == "write"
    assert 'cosign" sign-blob --yes' in scripts["publish"]
    assert "sha256sum" in scripts["publish"]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    assert scripts["chart"].index("hack.release pin ") < scripts["chart"].index("helm package")


def test_what_fuzzing_finds_is_kept_although_the_run_fails() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/fuzz.yaml").read_text())["jobs"]
    steps = jobs["fuzz"]["steps"]
    restored, saved = (
        next(index for index, step in enumerate(steps) if step.get("uses", "").startswith(f"actions/cache/{what}@"))
        for what in ("restore", "save")
    )
    fuzzed = next(index for index, step in enumerate(steps) if "make fuzz" in step.get("run", ""))
    assert restored < fuzzed < saved
    assert steps[saved]["if"] == "always()"
    assert steps[saved]["with"].items() <= steps[restored]["with"].items()


def test_images_begin_with_nothing_and_their_build_is_given_each_script_that_it_copies() -> None:
    text = (ROOT / "images/Containerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE)
    assert [base for base, name in stages if name in ("controller", "agent")] == ["scratch", "scratch"]
    scripts = {word for line in re.findall(r"^COPY (images/.*)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert scripts == {"images/root.sh", "images/slim.sh"}
    assert {f"!{script}" for script in scripts} <= set((ROOT / ".containerignore").read_text().splitlines())


def test_ci_builds_images_for_both_architectures_and_checks_what_they_list() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]["images"]
    assert job["strategy"]["matrix"] == {
        "part": ["controller", "agent"],
        "runner": ["ubuntu-24.04", "ubuntu-24.04-arm"],
    }
    assert any("python -m hack.sbom root" in step.get("run", "") for step in job["steps"])


_ARM64 = {
    "sys_platform": "linux",
    "os_name": "posix",
    "platform_system": "Linux",
    "platform_machine": "aarch64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_version": "3.13",
    "python_full_version": "3.13.5",  # as images/Containerfile's base
}


def _fits_arm64(wheel: str) -> bool:
    """Whether a wheel, given by its address, can be installed in an image for arm64."""
    tags = parse_wheel_filename(unquote(wheel.rpartition("/")[2]))[3]
    return any(
        (tag.platform == "any" or (tag.platform.startswith("manylinux") and tag.platform.endswith("aarch64")))
        and (tag.interpreter in ("py3", "cp313") or tag.abi == "abi3")
        for tag in tags
    )


def _locked_packages(lock: dict[str, Any], of_project: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Find the packages that a package of uv.lock needs on arm64, and what these need."""
    known: set[str] = set()
    waiting = [of_project]
    while waiting:
        package = waiting.pop()
        for needed in package.get("dependencies", ()):
            if "marker" in needed and not Marker(needed["marker"]).evaluate(_ARM64):
                continue
            (found,) = (
                each
                for each in lock["package"]
                if each["name"] == needed["name"] and each["version"] == needed.get("version", each["version"])
            )
            if found["name"] not in known:
                known.add(found["name"])
                waiting.append(found)
                yield found


def test_each_package_of_the_controller_s_image_has_a_wheel_for_arm64() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    (project,) = (package for package in lock["package"] if package["name"] == "kubeballoon")
    packages = list(_locked_packages(lock, project))
    assert {"numpy", "pydantic-core", "kopf", "aiohttp"} <= {package["name"] for package in packages}
    without = [each["name"] for each in packages if not any(_fits_arm64(wheel["url"]) for wheel in each["wheels"])]
    assert without == []


def test_make_help_lists_every_target_in_a_line_that_fits_a_terminal() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    # Under `make test` a make would say beside this which directory it enters.
    command = ("make", "--no-print-directory", "help")
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    lines = shown.splitlines()
    assert sorted(line.split()[1] for line in lines) == sorted(phony[1].split())
    assert [line for line in lines if len(line) > 100] == []
