"""RunDirectory: the files of one lab node. Creating one removes what killed runs have left behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import string
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from .cgroups import Hierarchies, remove_cgroup
from .errors import LabError

PREFIX = "kubeballoon-lab-"
PARENT = Path("/var/tmp")  # noqa: S108 -- mkdtemp makes the names; unlike /tmp, it is on disk everywhere
LINKS = Path("/run")
_LINK_NAMES = tuple(f"b{digit}" for digit in string.digits + string.ascii_lowercase)
_LOCK = LINKS / "kubeballoon-lab.lock"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The directory of one lab node. The node's cgroup has the same name, so that both are found after a crash.

    Attributes:
        path: The directory; QEMU's user may enter it.
        pods: The directory in which the kubelet would keep its pods, by a short name (`/run/b0`): a launcher's socket
            in it must fit into the 107 bytes of a UNIX socket's path, as it does in `/pods` on a real node.
        owner: A file that stays locked as long as the owner lives.
    """

    path: Path
    pods: Path
    owner: IO[str]

    @classmethod
    def create(cls) -> Self:
        """Create a run directory, and remove those whose owners are dead.

        Raises:
            LabError: All short names are in use.
        """
        with _exclusively():
            for path in PARENT.glob(f"{PREFIX}*"):
                _remove_if_stale(path)
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
            path.chmod(0o755)
            owner = (path / "owner").open("w")
            fcntl.flock(owner, fcntl.LOCK_EX)
            (path / "pods").mkdir()
            return cls(path, _link(path / "pods"), owner)

    @property
    def name(self) -> str:
        """The name of the directory and of the node's cgroup, unique on this machine."""
        return self.path.name

    def remove(self) -> None:
        """Remove the directory and its short name."""
        with _exclusively():
            self.pods.unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)
            self.owner.close()


@contextmanager
def _exclusively() -> Iterator[None]:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _link(target: Path) -> Path:
    for link in (LINKS / name for name in _LINK_NAMES):
        if _is_ours(link) and not link.exists():  # its run directory was removed
            link.unlink()
        with suppress(FileExistsError):
            link.symlink_to(target)
            return link
    raise LabError(f"{len(_LINK_NAMES)} lab nodes exist already: {LINKS}/b?")


def _is_ours(link: Path) -> bool:
    return link.is_symlink() and link.readlink().is_relative_to(PARENT) and PREFIX in str(link.readlink())


def _remove_if_stale(path: Path) -> None:
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        return  # not the lab's: anyone may create files in the parent directory
    with suppress(FileNotFoundError, BlockingIOError), (path / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for directory in Hierarchies.find().directories(path.name):
            remove_cgroup(directory)
        shutil.rmtree(path, ignore_errors=True)
