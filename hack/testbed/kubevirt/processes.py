"""Starting what outlives the command that starts it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

# Whatever starts is in the cluster's cgroups before it does anything, so that it is found when the cluster goes.
_ENTER = (
    'log=$1; shift; while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@" >>"$log" 2>&1'
)


def start(command: Sequence[str | Path], log: Path, cgroups: Sequence[Path], inherit: Sequence[int] = ()) -> int:
    """Start a command in cgroups, with a session of its own; return its process's number.

    Args:
        command: The program and its arguments.
        log: Gets what it prints.
        cgroups: Directories, one of each hierarchy.
        inherit: Open file descriptors that it keeps.
    """
    process = subprocess.Popen(
        ["sh", "-c", _ENTER, "sh", log, *cgroups, "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=tuple(inherit),
    )
    process.returncode = 0  # nobody waits for it: it outlives this program
    return process.pid


def namespace(script: Path, *arguments: str | Path) -> list[str | Path]:
    """The command that runs a script as process 1 of a pid namespace, in a mount namespace of its own."""
    return ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--", script, *arguments]


def first_child(pid: int) -> int | None:
    """The number of the process that another has started, once it has."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None
