"""A node of limited memory, and the launcher pods on it.

The agent is to be started with `--pods-dir NODE.pods_dir --node-memory-cgroup NODE.cgroup`. It then reads the node's
memory in that cgroup: memory.limit_in_bytes, memory.usage_in_bytes and memory.stat with cgroup v1; memory.max,
memory.current and memory.stat with v2. Pressure is found from the same path alone: in its memory.pressure if there is one
(v2), else in memory.pressure of the cgroup that has the same path, relative to where its hierarchy is mounted, in the
unified hierarchy (v1: /sys/fs/cgroup/memory/X and /sys/fs/cgroup/unified/X); else there is none.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from .cgroups import NodeCgroup
from .pod import READY_SECONDS, LauncherPod
from .requirements import TO_RUN, check_programs, check_root
from .rundir import RunDirectory
from .spec import GuestSpec


class LabNode:
    """A part of this machine that stands for a node with so much memory.

    Raises:
        LabError: This machine cannot: no root, no cgroups, a program missing.

    Attributes:
        name: The node's name.
        memory_bytes: Its memory: the limit of all its pods together.
        pods_dir: The kubelet's pods directory; short, so that sockets below it have usable paths.
        long_pods_dir: The same directory, by a path with which sockets' paths are longer than the 107 bytes that
            connect(2) takes, as below /var/lib/kubelet/pods.
        directory: The node's files; removed when it is closed.
    """

    def __init__(self, name: str, memory_bytes: int) -> None:
        check_root()
        check_programs(TO_RUN)
        self.name = name
        self.memory_bytes = memory_bytes
        self._closing = ExitStack()
        with ExitStack() as undo:
            self._run = RunDirectory.create()
            undo.callback(self._run.remove)
            self._cgroup = NodeCgroup.create(self._run.name, memory_bytes)
            undo.callback(self._cgroup.remove)
            self._closing = undo.pop_all()
        self.directory = self._run.path
        self.pods_dir = self._run.pods
        self.long_pods_dir = self._run.path / "pods"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cgroup(self) -> Path:
        """The directory of its memory cgroup: the agent's --node-memory-cgroup."""
        return self._cgroup.memory

    @property
    def psi_path(self) -> Path | None:
        """Its memory.pressure; None on a machine without cgroup v2."""
        return self._cgroup.psi_path

    def usage_bytes(self) -> int:
        """The memory its pods use, their page cache included."""
        return self._cgroup.usage_bytes()

    def oom_kills(self) -> int:
        """How many processes the kernel killed because the node's memory was exhausted."""
        return self._cgroup.oom_kills()

    def pod(self, uid: str | None = None) -> LauncherPod:
        """A launcher pod on this node, not yet started; it is stopped with the node at the latest."""
        uid = uid or str(uuid.uuid4())
        pod = LauncherPod(uid, self.pods_dir, self.directory / "launchers" / uid, self._cgroup.directories)
        self._closing.callback(pod.stop)
        return pod

    def boot(self, *specs: GuestSpec, timeout: float = READY_SECONDS) -> list[LauncherPod]:
        """One pod for each guest, booted together, all ready.

        Args:
            specs: The guests.
            timeout: Seconds for the slowest guest, once all are started.

        Raises:
            LabError: One cannot be started.
            DeadlineError: One is not ready in time.
        """
        return self.wait_ready(self.start(*specs), timeout)

    def start(self, *specs: GuestSpec) -> list[LauncherPod]:
        """As `boot`, but waits for no guest."""
        pods = [self.pod() for _ in specs]
        for pod in pods:
            pod.start()
        for pod, spec in zip(pods, specs, strict=True):
            pod.boot(spec)
        return pods

    @staticmethod
    def wait_ready(pods: Sequence[LauncherPod], timeout: float = READY_SECONDS) -> list[LauncherPod]:
        """The pods, once all their guests are ready; `timeout` seconds is for the slowest."""
        for pod in pods:
            pod.wait_ready(timeout)
        return list(pods)

    def close(self) -> None:
        """Stops every pod and removes everything of the node's; does nothing the second time."""
        self._closing.close()
