"""The plugin as a folder that needs no Python, its manifest for krew, and what the Python packages hold."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import kubeballoon
from hack.binary import krew
from hack.binary.__main__ import archive_name, build
from hack.testbed.controlplane import ControlPlane
from hack.testbed.tools import KREW

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = [(system, machine) for system in ("darwin", "linux") for machine in ("amd64", "arm64")]

pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as krew installs it: unpacked in a folder of its own, with a link to it on PATH."""
    directory = tmp_path_factory.mktemp("krew")
    archive = build()
    assert archive.name == archive_name()
    with tarfile.open(archive) as packed:
        packed.extractall(directory / "store", filter="data")
    (directory / "bin").mkdir()
    link = directory / "bin/kubectl-balloon"
    link.symlink_to(directory / "store/kubectl-balloon/kubectl-balloon")
    return link


def run(plugin: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the plugin without any environment variable."""
    return subprocess.run([plugin, *arguments], env={}, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.cluster
def test_the_binary_works_in_an_empty_environment(plugin: Path, installed: ControlPlane) -> None:
    for command in (
        ["status", "-o", "json"],
        ["top", "nodes"],
        ["top", "vms", "-A"],
        ["top", "nodes", "-o", "jsonpath={.items}"],
    ):
        ended = run(plugin, *command, f"--kubeconfig={installed.kubeconfig}")
        assert ended.returncode in (0, 3), ended.stderr
        assert len(ended.stderr.splitlines()) <= 1, "a hint that there is nothing to show, and no traceback"
    policy = ROOT / "examples/policies/default.yaml"
    ended = run(plugin, "diff", "-f", str(policy), f"--kubeconfig={installed.kubeconfig}")
    assert ended.returncode == 0, ended.stderr


def test_the_binary_completes_names_for_the_shell(plugin: Path) -> None:
    assert "kubectl-balloon" in run(plugin, "completion", "bash").stdout


def test_krew_accepts_the_manifest_of_all_platforms(tmp_path: Path) -> None:
    archives = [tmp_path / f"kubectl-balloon-{system}-{machine}.tar.gz" for system, machine in PLATFORMS]
    for archive in archives:
        archive.write_bytes(archive.name.encode())
    made = krew.manifest(kubeballoon.__version__, archives)
    found = [tuple(each["selector"]["matchLabels"].values()) for each in made["spec"]["platforms"]]
    assert found == PLATFORMS
    file = tmp_path / "balloon.yaml"  # krew wants the file to be named as the plugin
    file.write_text(yaml.safe_dump(made))
    checked = subprocess.run(
        [KREW.path(), f"--manifest={file}", "--skip-install"], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_an_archive_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not named"):
        krew.manifest("0.1.0", [tmp_path / "other.tar.gz"])


def test_the_python_packages_hold_the_program_and_nothing_by_accident(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", tmp_path], cwd=ROOT, check=True, timeout=120)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    known = {"operator", "crds", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", "pyproject.toml", ".gitignore"}
    assert {name.partition("/")[0] for name in names} <= known
    assert "operator/kubeballoon/core/entitlement.py" in names
    assert sum(name.startswith("crds/") for name in names) == len(list((ROOT / "crds").iterdir()))
    with zipfile.ZipFile(wheel) as package:
        tops = {name.partition("/")[0] for name in package.namelist()}
    assert tops == {"kubeballoon", f"kubeballoon-{kubeballoon.__version__}.dist-info"}
