"""The cluster's cgroups: by them all of its processes are found, whatever became of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hack.testbed.controlplane import ControlPlaneError

NAME_VARIABLE = "KUBEBALLOON_CLUSTER"
DEFAULT_NAME = "kubeballoon-cluster"
NAME = os.environ.get(NAME_VARIABLE, DEFAULT_NAME)
"""The cluster's name, by which one is told from another on the same machine."""

_MOUNTS = Path("/proc/self/mountinfo")
_EMPTY_SECONDS = 30.0
_POLL_SECONDS = 0.1
_NEEDED = {"cpu", "cpuset", "memory", "pids"}


def hierarchies(mounts: str | None = None) -> list[Path]:
    """Where cgroups are mounted, or would be by the text of a mountinfo file; one place with cgroup v2 alone."""
    found = []
    for line in (_MOUNTS.read_text() if mounts is None else mounts).splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return list(dict.fromkeys(found))


def memory_hierarchy(roots: list[Path]) -> Path:
    """Where the memory of cgroups is limited."""
    return next((root for root in roots if "memory" in root.name.split(",")), roots[0])


def missing_controllers(roots: list[Path]) -> set[str]:
    """What a kubelet needs and this machine's cgroups do not have."""
    listed = [(root / "cgroup.controllers") for root in roots]
    unified = {word for file in listed if file.exists() for word in file.read_text().split()}
    return _NEEDED - unified - {word for root in roots for word in root.name.split(",")}


def create(name: str, roots: list[Path]) -> list[Path]:
    """Make a cgroup below the cluster's in every hierarchy, for a kubelet or processes to be put in."""
    return [_create(root, name) for root in roots]


def _create(root: Path, name: str) -> Path:
    parent = root
    for part in (NAME, name):
        if (parent / "cgroup.controllers").exists():  # v2: children have the controllers that their parent hands down
            available = (parent / "cgroup.controllers").read_text().split()
            (parent / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in available))
        directory = parent / part
        directory.mkdir(exist_ok=True)
        if (parent / "cgroup.clone_children").exists() and (parent / "cpuset.cpus").exists():
            for file in ("cpuset.cpus", "cpuset.mems"):  # v1: nothing can run in a new one before
                (directory / file).write_text((parent / file).read_text())
        parent = directory
    _weigh(root / NAME)
    return parent


def _weigh(directory: Path) -> None:
    """Give the cluster's cgroup the weight of ten processes.

    It has the weight of one otherwise, and many that compute: on a busy machine all of them would get what one gets.
    """
    for file, one in (("cpu.shares", 1024), ("cpu.weight", 100)):  # of cgroup v1 and v2
        if (directory / file).exists():
            (directory / file).write_text(str(10 * one))


def send_signal(name: str, program: str, roots: list[Path], number: int = signal.SIGKILL) -> int:
    """Send a signal to the processes of a program in a cgroup below the cluster's; return how many there were."""
    pids = [int(pid) for pid in (roots[0] / NAME / name / "cgroup.procs").read_text().split()]
    named = [pid for pid in pids if _name(pid) == program]
    for pid in named:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return len(named)


def _name(pid: int) -> str:
    """A process's name, of which the kernel keeps fifteen characters; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def remove(roots: list[Path]) -> None:
    """Kill everything in the cluster's cgroups and remove them; do nothing if there are none.

    Raises:
        ControlPlaneError: Something does not end within half a minute.
    """
    deadline = time.monotonic() + _EMPTY_SECONDS
    while left := [directory for root in roots for directory in _bottom_up(root / NAME)]:
        for directory in left:
            _kill(directory)
            with suppress(OSError):  # still busy
                directory.rmdir()
        if time.monotonic() > deadline:
            raise ControlPlaneError(f"processes in {left[0]} do not end")
        time.sleep(_POLL_SECONDS)


def _kill(directory: Path) -> None:
    with suppress(OSError):
        for pid in map(int, (directory / "cgroup.procs").read_text().split()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _bottom_up(directory: Path) -> Iterator[Path]:
    if directory.is_dir():
        for path, _, _ in os.walk(directory, topdown=False):
            yield Path(path)
