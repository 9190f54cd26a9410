"""This module finds the socket of a VM's libvirt daemon among the pods of this node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kubeballoon.agent.hypervisor.errors import HypervisorError

LONGEST_SOCKET_PATH = 107  # bytes in sockaddr_un, less the terminating NUL
RUNTIME = "volumes/kubernetes.io~empty-dir/libvirt-runtime"
"""KubeVirt's volume for the daemon's socket, in the directory that the kubelet keeps for a pod."""
_SOCKETS = ("virtqemud-sock", "libvirt-sock")  # of the daemon for QEMU alone, and of the older one for everything


@dataclass(frozen=True, slots=True)
class Launcher:
    """A Launcher is a pod that runs the libvirt daemon of one VM.

    Attributes:
        pod: the pod's uid.
        socket: where its daemon listens, as seen by the agent.
    """

    pod: str
    socket: Path


def find_launcher(pods: Path, pod_uids: Sequence[str]) -> Launcher | None:
    """Find the first of the pods, in their order, that has a libvirt socket below ``pods``."""
    for uid in pod_uids:
        if "/" in uid or uid.startswith("."):  # a uid is not a path, whatever an object claims
            continue
        for name in _SOCKETS:
            path = pods / uid / RUNTIME / name
            if path.is_socket():
                return Launcher(uid, path)
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


def uris(launcher: Launcher, directory: int | None) -> tuple[str, str]:
    """Make the URIs of a launcher's daemon: the one for a daemon without root, and the one for a daemon with root.

    Args:
        launcher: the pod whose daemon is meant.
        directory: an open descriptor of the socket's directory, which shortens a path that is too long for a socket;
            None leaves such a path as it is.
    """
    path = str(launcher.socket)
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH and directory is not None:
        path = f"/proc/self/fd/{directory}/{launcher.socket.name}"
    return f"qemu+unix:///session?socket={path}", f"qemu+unix:///system?socket={path}"
