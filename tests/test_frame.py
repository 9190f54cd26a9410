"""The project's frame: what must stay true of its files and its command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import kubeballoon

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kubeballoon", *arguments], capture_output=True, text=True, check=False, timeout=30
    )


def test_operator_is_no_package() -> None:
    assert not (ROOT / "operator/__init__.py").exists(), "it would shadow the standard library's operator"


def test_the_command_tells_its_version() -> None:
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
def test_a_wrong_option_is_said_and_ends_with_2(arguments: tuple[str, ...], complaint: str) -> None:
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
