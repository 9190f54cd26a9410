"""This module finds the socket of a VM's libvirt daemon among the pods of this node, and connects to it.

The directory with the socket belongs to the launcher pod, and so to a tenant. No link is followed on the way: it could
lead the agent, which is root, to any other socket of the node, or onto a file system that hangs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.agent.hypervisor.errors import HypervisorError, SocketRefusedError

RUNTIME = "volumes/kubernetes.io~empty-dir/libvirt-runtime"
"""KubeVirt's volume for the daemon's socket, in the directory that the kubelet keeps for a pod."""
_SOCKETS = ("virtqemud-sock", "libvirt-sock")  # of the daemon for QEMU alone, and of the older one for everything


@dataclass(frozen=True, slots=True)
class Launcher:
    """A Launcher is a pod that runs the libvirt daemon of one VM.

    Attributes:
        pod: the pod's uid.
        pods: the directory in which the kubelet keeps the pods' directories, as seen by the agent.
        socket: where its daemon listens, below ``pods``.
    """

    pod: str
    pods: Path
    socket: str


def find_launcher(pods: Path, pod_uids: Sequence[str]) -> Launcher | None:
    """Find the first of the pods, in their order, that has a libvirt socket below ``pods``.

    Raises:
        SocketRefusedError: none of them has one, and in the place of one is a link.
    """
    linked = None
    for uid in pod_uids:
        if "/" in uid or uid.startswith("."):  # a uid is not a path, whatever an object claims
            continue
        for name in _SOCKETS:
            launcher = Launcher(uid, pods, f"{uid}/{RUNTIME}/{name}")
            with contextlib.suppress(OSError), _opened(pods, launcher.socket) as (_, mode):
                if stat.S_ISSOCK(mode):
                    return launcher
                linked = uid if stat.S_ISLNK(mode) else linked
    if linked is not None:
        raise SocketRefusedError(f"in pod {linked} a link stands in place of the libvirt socket: it is not followed")
    return None


def require_launcher(pods: Path, pod_uids: Sequence[str]) -> Launcher:
    """Find the first of the pods that has a libvirt socket.

    Raises:
        HypervisorError: none of them has one.
    """
    launcher = find_launcher(pods, pod_uids)
    if launcher is None:
        raise HypervisorError(f"no libvirt socket of its launcher pod under {pods}")
    return launcher


def connect_to(launcher: Launcher, seconds: float) -> socket.socket:
    """Connect to a launcher's daemon, which may take ``seconds``; the path to its socket may be of any length.

    Raises:
        SocketRefusedError: there is something else than a socket.
        OSError: there is no socket, or nobody listens.
    """
    with _opened(launcher.pods, launcher.socket) as (descriptor, mode):
        if not stat.S_ISSOCK(mode):
            raise SocketRefusedError(f"in pod {launcher.pod} another file stands in place of the libvirt socket")
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(seconds)
            connection.connect(
                f"/proc/self/fd/{descriptor}"
            )  # the file that was judged, whatever its name leads to now
        except OSError:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def _opened(root: Path, path: str) -> Iterator[tuple[int, int]]:
    """Hold the file at ``path`` below ``root`` inside the context; yield its descriptor, and its type and mode.

    The file is not opened itself (O_PATH). No link below ``root`` is followed; one at the end is what is yielded.
    """
    *directories, name = path.split("/")
    with contextlib.ExitStack() as opened:

        def hold(name: str | Path, flags: int, within: int | None = None) -> int:
            descriptor = os.open(name, os.O_PATH | os.O_CLOEXEC | flags, dir_fd=within)
            opened.callback(os.close, descriptor)
            return descriptor

        directory = hold(root, os.O_DIRECTORY)
        for each in directories:
            directory = hold(each, os.O_DIRECTORY | os.O_NOFOLLOW, directory)
        descriptor = hold(name, os.O_NOFOLLOW, directory)
        yield descriptor, os.fstat(descriptor).st_mode
