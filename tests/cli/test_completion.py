"""Completion: by shells, and by kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 30.0


def printed(shell: str) -> str:
    command = [sys.executable, "-m", "kubeballoon.cli.main", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_taught_to_complete_the_command(shell: str) -> None:
    code = printed(shell)
    assert "kubectl-balloon" in code
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=code, text=True, check=True, timeout=SECONDS)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (("s",), {"status", "simulate"}),
        (("top", ""), {"nodes", "vms"}),
        (("status", "-o", "y"), {"yaml"}),
        (("release", "--un"), {"--undo"}),
    ],
)
def test_kubectl_completes_the_command(words: tuple[str, ...], completions: set[str], tmp_path: Path) -> None:
    binary, completer = tmp_path / "kubectl-balloon", tmp_path / "kubectl_complete-balloon"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubeballoon.cli.main "$@"\n')
    completer.write_text(printed("kubectl"))
    for program in (binary, completer):
        program.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run([completer, *words], env=path, capture_output=True, text=True, check=True, timeout=SECONDS)
    *lines, directive = ended.stdout.split()
    assert (set(lines), directive) == (completions, ":4")
