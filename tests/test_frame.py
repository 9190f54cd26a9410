"""The project as a whole: contracts of imports, and errors of the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kubeballoon

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kubeballoon", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def test_operator_is_not_a_package() -> None:
    assert not (ROOT / "operator/__init__.py").exists(), "it would shadow the standard library's operator"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, with pyproject.toml and its import contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return shutil.copytree(ROOT / "operator/kubeballoon", tmp_path / "operator/kubeballoon")


def broken(copied: Path) -> str:
    """Run import-linter on a copy that breaks a contract, and return what it prints."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(copied.parent), "COLUMNS": "1000"}
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, cwd=copied.parents[1], env=environment
    )
    assert ended.returncode == 1, ended.stdout
    return ended.stdout


@pytest.mark.parametrize(
    ("library", "its_own"),
    [("libvirt", "agent/hypervisor/libvirt.py"), ("kubernetes", "cluster/*.py"), ("kopf", "controller/*.py")],
)
def test_a_library_is_imported_where_it_belongs_and_nowhere_else(copied: Path, library: str, its_own: str) -> None:
    modules = [path for path in copied.rglob("*.py") if (path.parent / "__init__.py").exists()]
    others = [path for path in modules if not path.relative_to(copied).match(its_own)]
    assert len(modules) - len(others) == len(list(copied.glob(its_own)))
    for path in others:
        path.write_text(f"{path.read_text()}\nimport {library}\n")
    printed = broken(copied)
    names = {
        ".".join(path.relative_to(copied.parent).with_suffix("").parts).removesuffix(".__init__") for path in others
    }
    assert {name for name in names if f"{name} -> {library} (" not in printed} == set()


def test_a_module_without_a_layer_is_named(copied: Path) -> None:
    (copied / "stray.py").touch()
    assert "stray" in broken(copied)


def test_the_command_prints_its_version() -> None:
    assert run("--version").stdout.strip() == f"kubeballoon {kubeballoon.__version__}"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("agent", "--node-name=n", "--demand-window=soon"), "not a duration such as 10s"),
        (("agent", "--node-name=n", "--demand-window=0s"), "is less than a second"),
        (("agent", "--node-name=n", "--eviction-threshold=much"), "not a quantity of bytes"),
        (("controller", "--listen=here"), "is not HOST:PORT"),
        (("fly",), "invalid choice"),
    ],
)
def test_a_wrong_option_is_named_and_ends_with_2(arguments: tuple[str, ...], complaint: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["controller", "agent"])
def test_a_missing_kubeconfig_is_one_line(command: str, tmp_path: Path) -> None:
    options = ["--node-name=n", f"--pods-dir={tmp_path}"] if command == "agent" else []
    ended = run(command, *options, f"--kubeconfig={tmp_path / 'none'}")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "no access to a cluster" in ended.stderr
