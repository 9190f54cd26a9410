"""A directory of a lab node's own, and the end of what a killed run left behind."""

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
PARENT = Path("/var/tmp")  # noqa: S108 -- only names that mkdtemp makes, and on disk even where /tmp is memory
LINKS = Path("/run")
_LINK_NAMES = tuple(f"b{digit}" for digit in string.digits + string.ascii_lowercase)
_LOCK = LINKS / "kubeballoon-lab.lock"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A node's files. Its name is also the name of the node's cgroup, so that both can be found again.

    Attributes:
        path: The directory; QEMU's user may enter it.
        pods: The kubelet's pods directory in it, by a name so short (`/run/b0`) that a launcher's socket below it fits
            into the 107 bytes of a UNIX socket's path, as it does below `/pods` on a real node.
        owner: A file that is locked while the owner lives.
    """

    path: Path
    pods: Path
    owner: IO[str]

    @classmethod
    def create(cls) -> Self:
        """Makes one, after removing those whose owners are dead.

        Raises:
            LabError: All short names are taken.
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
        """Unique on this machine while the directory exists."""
        return self.path.name

    def remove(self) -> None:
        """Removes the directory and its short name."""
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
        if _is_ours(link) and not link.exists():  # its target is gone
            link.unlink()
        with suppress(FileExistsError):
            link.symlink_to(target)
            return link
    raise LabError(f"{len(_LINK_NAMES)} lab nodes exist already: {LINKS}/b?")


def _is_ours(link: Path) -> bool:
    return link.is_symlink() and link.readlink().is_relative_to(PARENT) and PREFIX in str(link.readlink())


def _remove_if_stale(path: Path) -> None:
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        return  # not made here: anyone may write to the parent directory
    with suppress(FileNotFoundError, BlockingIOError), (path / "owner").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for directory in Hierarchies.find().directories(path.name):
            remove_cgroup(directory)
        shutil.rmtree(path, ignore_errors=True)
