"""Completion: by shells, and by kubectl."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlane
from kubeballoon.cli import completion_names
from tests.support.cluster import FakeNode, memory_policy, processor_policy
from tests.support.waiting import until

SECONDS = 60.0  # for one command, and until completion has once been within its deadline
SHELLS = ("bash", "zsh", "fish")

Run = Callable[..., str]


def printed(shell: str) -> str:
    command = [sys.executable, "-m", "kubeballoon.cli.main", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with kubectl-balloon, and what kubectl completes it with."""
    binary, completer = tmp_path / "kubectl-balloon", tmp_path / "kubectl_complete-balloon"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m kubeballoon.cli.main "$@"\n')
    completer.write_text(printed("kubectl"))
    for program in (binary, completer):
        program.chmod(0o755)
    return tmp_path


def run(programs: Path, *command: str, **environment: str) -> str:
    """What a command prints that has the programs in its PATH."""
    variables = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", **environment}
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=SECONDS)
    return ended.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_are_taught_to_complete_the_command(shell: str) -> None:
    code = printed(shell)
    assert "kubectl-balloon" in code
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=code, text=True, check=True, timeout=SECONDS)


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (("s",), {"status"}),
        (("d",), {"diff"}),
        (("top", ""), {"nodes", "vms"}),
        (("status", "-o", "y"), {"yaml"}),
        (("release", "--un"), {"--undo"}),
        (("explain", "--kubeconfig=/nonexistent", ""), set()),
    ],
)
def test_kubectl_completes_the_command(words: tuple[str, ...], completions: set[str], programs: Path) -> None:
    *lines, directive = run(programs, "kubectl_complete-balloon", *words).split()
    assert (set(lines), directive) == (completions, ":4")


def test_files_are_completed_where_files_are_meant(programs: Path) -> None:
    (programs / "policies").mkdir()
    lines = run(programs, "kubectl_complete-balloon", "diff", "-f", f"{programs}/pol").split()
    assert lines == [f"{programs}/policies/", ":4"]


VMS = [("shop", "db"), ("shop", "web"), ("test", "web")]


@pytest.mark.parametrize(
    ("prefix", "namespace", "other_namespaces", "expected"),
    [
        ("", "shop", True, ["db", "web"]),
        ("w", "shop", True, ["db", "web", "test/web"]),
        ("vm/", "test", True, ["vm/web"]),
        ("shop/d", "shop", True, ["db", "web", "shop/db", "shop/web", "test/web"]),
        ("w", "shop", False, ["db", "web"]),
        ("", "default", True, ["shop/db", "shop/web", "test/web"]),
        ("", "default", False, []),
    ],
)
def test_vms_are_completed_as_they_can_be_written(
    prefix: str, namespace: str, *, other_namespaces: bool, expected: list[str]
) -> None:
    assert completion_names.vm_names(prefix, VMS, namespace, other_namespaces=other_namespaces) == expected


def test_what_takes_long_or_fails_completes_nothing() -> None:
    never = threading.Event()

    def hang(*_: object) -> list[str]:
        never.wait()
        return ["late"]

    def fail(*_: object) -> list[str]:
        raise RuntimeError

    for read in (hang, fail):
        assert completion_names.complete("vms", argparse.Namespace(), "", deadline=0.1, read=read) == []
    never.set()


@pytest.fixture
def cluster(installed: ControlPlane, node: FakeNode, programs: Path) -> Run:
    """Runs a command that knows a cluster with two VMs and two policies."""
    node.add("unmistakable")
    node.add("other")
    node.report()
    installed.apply([memory_policy("for-memory"), processor_policy("for-processors")])
    (programs / "kubectl").symlink_to(installed.kubectl_path)

    def command(*words: str) -> str:
        return run(programs, *words, KUBECONFIG=str(installed.kubeconfig), HOME=str(programs))

    return command


@pytest.mark.cluster
def test_kubectl_completes_names(cluster: Run, node: FakeNode) -> None:
    def offered(*words: str) -> set[str]:
        *lines, directive = cluster("kubectl", "__complete", "balloon", *words).split()
        assert directive == ":4"
        return set(lines)

    def completed(*words: str) -> set[str]:
        return until(lambda: offered(*words), SECONDS)

    namespace = node.namespace
    assert completed("explain", "-n", namespace, "") == {"unmistakable", "other"}
    assert completed("explain", f"{namespace}/o") == {f"{namespace}/other"}
    assert completed("release", "-n", namespace, "vm/u") == {"vm/unmistakable"}
    assert completed("release", f"node/{node.name}") == {f"node/{node.name}"}
    assert node.name in completed("top", "vms", "--node", "")
    assert completed("top", "vms", "--policy", "for-") == {"for-memory", "for-processors"}
    assert namespace in completed("top", "vms", "-n", "")
    assert len(completed("status", "--context", "")) == 1


_BASH = """
source <(kubectl-balloon completion bash)
COMP_LINE='{line}' COMP_POINT={point} COMP_TYPE=9
_python_argcomplete kubectl-balloon
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
_FISH = "kubectl-balloon completion fish | source; complete -C '{line}'"
_ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'autoload -U compinit; compinit -u -d $HOME/dump; source <(kubectl-balloon completion zsh)'
zpty -w -n shell $'{line}\\t\\n'
zpty -r shell screen '*(MEMORY|kubectl balloon:)*'
print -r -- $screen
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("shell", "script"),
    [
        pytest.param(
            shell, script, marks=pytest.mark.skipif(not shutil.which(shell), reason=f"there is no {shell} here")
        )
        for shell, script in (("bash", _BASH), ("fish", _FISH), ("zsh", _ZSH))
    ],
)
def test_shells_complete_names(shell: str, script: str, cluster: Run, node: FakeNode) -> None:
    """Zsh completes for terminals only: there the line is run, too."""
    line = f"kubectl-balloon explain -n {node.namespace} unm"
    command = (shell, "-c", script.format(line=line, point=len(line)))
    until(lambda: "unmistakable" in cluster(*command), SECONDS)
