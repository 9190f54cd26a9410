"""LauncherProcess: the running launcher.sh of one pod, with its files and its libvirt daemon's socket."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .errors import LabError
from .image import Image, cache_directory
from .unix_sockets import listen

USER = 107
"""The uid and gid under which KubeVirt runs launchers that are not root."""

_SCRIPT = Path(__file__).resolve().parent / "launcher.sh"
_STOP_SECONDS = 10.0
_DAEMON = """\
auth_unix_rw = "none"
log_outputs = "3:stderr"
"""
_QEMU = """\
stdio_handler = "file"
security_driver = "none"
memory_backing_dir = "/mnt/memory"
"""


@dataclass(slots=True)
class LauncherProcess:
    """The process of one launcher. It and all of its children end when this process ends, or with `stop`."""

    directory: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path, socket: Path, image: Image, cgroups: Sequence[Path]) -> Self:
        """Start a launcher in the cgroups, with its files in `directory` and its libvirt daemon behind `socket`."""
        _lay_out(directory)
        cache = cache_directory() / "libvirt"
        cache.mkdir(parents=True, exist_ok=True)
        os.chown(cache, USER, USER)
        with listen(socket) as listener, (directory / "launcher.log").open("ab") as log:
            os.chown(socket, USER, USER)
            process = subprocess.Popen(
                [_SCRIPT, directory, image.directory, cache, str(listener.fileno()), *cgroups],
                stdin=subprocess.PIPE,  # closed when this process ends, and the launcher ends with its stdin
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(listener.fileno(),),
                start_new_session=True,
            )
        return cls(directory, process)

    def stop(self) -> None:
        """End the launcher, its daemon and its guest, as the kubelet ends a pod; their memory is free after that.

        Raises:
            LabError: The launcher does not end in time.
        """
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.process.kill()  # unshare kills its children, but does not wait for their end
            raise LabError(f"the launcher in {self.directory} did not end within {_STOP_SECONDS:g} s") from error

    def log_tail(self) -> str:
        """Return the last three lines that the launcher and its daemon logged."""
        lines = (self.directory / "launcher.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])


def _lay_out(directory: Path) -> None:
    """Create the directories that launcher.sh mounts, and the daemon's configuration."""
    for name in ("image", "cache", "memory", "run", "data", "etc/libvirt"):
        (directory / name).mkdir(parents=True)
    (directory / "etc/libvirt/libvirtd.conf").write_text(_DAEMON)
    (directory / "etc/libvirt/qemu.conf").write_text(_QEMU)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, USER, USER)
