"""Where the libvirt daemon of a VM listens, on this side of its pod."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LONGEST_SOCKET_PATH = 107  # bytes in sockaddr_un, less the terminating NUL
RUNTIME = "volumes/kubernetes.io~empty-dir/libvirt-runtime"
_SOCKETS = ("virtqemud-sock", "libvirt-sock")


@dataclass(frozen=True, slots=True)
class Launcher:
    """A pod that runs one VM's libvirt."""

    pod: str
    socket: Path


def find_launcher(pods: Path, pod_uids: list[str]) -> Launcher | None:
    """The first of the pods, in order, with a libvirt socket on this node."""
    for uid in pod_uids:
        if "/" in uid or uid.startswith("."):  # a uid is not a path, whatever an object claims
            continue
        for name in _SOCKETS:
            path = pods / uid / RUNTIME / name
            if path.is_socket():
                return Launcher(uid, path)
    return None


def uris(launcher: Launcher, directory: int | None) -> tuple[str, str]:
    """The URIs to try, for a daemon without root and with.

    Args:
        launcher: whose daemon.
        directory: an open descriptor of the socket's directory, through which a path that is too long is shortened.
    """
    path = str(launcher.socket)
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH and directory is not None:
        path = f"/proc/self/fd/{directory}/{launcher.socket.name}"
    return f"qemu+unix:///session?socket={path}", f"qemu+unix:///system?socket={path}"
