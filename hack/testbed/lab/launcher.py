"""The process that is a virt-launcher pod: launcher.sh, with its files and its daemon's socket."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from .errors import LabError
from .image import Image, cache_directory
from .sockets import listen

USER = 107
"""KubeVirt's user of launchers that are not root, and its group."""

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
class Launcher:
    """One launcher's process. It and all its children end with this process, or with `stop`."""

    directory: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path, socket: Path, image: Image, cgroups: Sequence[Path]) -> Self:
        """Starts a launcher with its files in `directory` and its daemon behind `socket`."""
        _lay_out(directory)
        cache = cache_directory() / "libvirt"
        cache.mkdir(parents=True, exist_ok=True)
        os.chown(cache, USER, USER)
        with listen(socket) as listener, (directory / "launcher.log").open("ab") as log:
            os.chown(socket, USER, USER)
            process = subprocess.Popen(
                [_SCRIPT, directory, image.directory, cache, str(listener.fileno()), *cgroups],
                stdin=subprocess.PIPE,  # closed with this process, and its end is the launcher's
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(listener.fileno(),),
                start_new_session=True,
            )
        return cls(directory, process)

    def stop(self) -> None:
        """Ends the launcher, its daemon and its guest, as at the end of a pod; then their memory is free.

        Raises:
            LabError: They do not end.
        """
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.process.kill()  # unshare takes its children along, but does not wait for them
            raise LabError(f"the launcher in {self.directory} did not end within {_STOP_SECONDS:g} s") from error

    def log_tail(self) -> str:
        """The last lines that the launcher or its daemon said."""
        lines = (self.directory / "launcher.log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])


def _lay_out(directory: Path) -> None:
    for name in ("image", "cache", "memory", "run", "data", "etc/libvirt"):
        (directory / name).mkdir(parents=True)
    (directory / "etc/libvirt/libvirtd.conf").write_text(_DAEMON)
    (directory / "etc/libvirt/qemu.conf").write_text(_QEMU)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, USER, USER)
