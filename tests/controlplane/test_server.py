"""A control plane that cannot start says why; its processes end when their parent is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hack.testbed.controlplane import ControlPlaneError, LocalControlPlane
from hack.testbed.controlplane.daemon import Daemon
from hack.testbed.controlplane.programs import DIRECTORY_VARIABLE, Programs

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 30  # far more than a process takes to end


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def ended(process_id: int) -> bool:
    try:
        descriptor = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE_SECONDS)[0])
    finally:
        os.close(descriptor)


@pytest.fixture
def broken(tmp_path: Path) -> Programs:
    """Fake programs: etcd writes its process id and keeps running, and the API server fails."""
    return Programs(
        etcd=script(tmp_path / "etcd", f"echo $$ >{tmp_path}/etcd.pid; exec sleep infinity"),
        kube_apiserver=script(tmp_path / "kube-apiserver", "echo no such flag; exit 3"),
        kubectl=script(tmp_path / "kubectl", ""),
        kube_controller_manager=None,
        kube_scheduler=None,
    )


def test_failed_start_shows_the_log_and_stops_the_rest(broken: Programs, tmp_path: Path) -> None:
    with pytest.raises(ControlPlaneError, match=r"kube-apiserver ended with status 3\n.*\n  no such flag") as failed:
        LocalControlPlane(broken, tmp_path / "run").__enter__()
    assert failed.value.log == tmp_path / "run" / "kube-apiserver.log"
    assert failed.value.log.exists()
    assert ended(int((tmp_path / "etcd.pid").read_text()))


def test_directory_in_use_is_refused(broken: Programs, tmp_path: Path) -> None:
    with pytest.raises(ControlPlaneError, match=f"{tmp_path} is not empty"):
        LocalControlPlane(broken, tmp_path).__enter__()


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A named pipe: reading it waits until the daemon writes to it."""
    path = tmp_path / "ready"
    os.mkfifo(path)
    return path


def test_daemon_that_ignores_sigterm_is_killed(tmp_path: Path, ready: Path) -> None:
    program = script(tmp_path / "stubborn", f"trap '' TERM; echo >{ready}; exec sleep infinity")
    daemon = Daemon.start(program, (), tmp_path)
    ready.read_text()
    daemon.stop(grace_seconds=0.1)
    assert daemon.process.returncode == -signal.SIGKILL


def test_daemons_end_with_the_process_that_started_them(tmp_path: Path, ready: Path) -> None:
    program = script(tmp_path / "daemon", f"echo >{ready}; exec sleep infinity")
    start = f"""
from pathlib import Path
from hack.testbed.controlplane.daemon import Daemon
print(Daemon.start(Path({str(program)!r}), (), Path({str(tmp_path)!r})).process.pid, flush=True)
input()
"""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", start]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, encoding="utf-8") as owner:
        assert owner.stdout
        process_id = int(owner.stdout.readline())
        ready.read_text()
        owner.kill()
    assert ended(process_id)


def test_command_line_shows_errors_without_traceback(broken: Programs, tmp_path: Path) -> None:
    environment = {**os.environ, DIRECTORY_VARIABLE: str(broken.etcd.parent)}
    command = [sys.executable, "-m", "hack.testbed.controlplane", "up", "--dir", str(tmp_path)]
    run = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert run.stderr == f"error: {tmp_path} is not empty\n"
