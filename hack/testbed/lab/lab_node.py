"""LabNode: a part of this machine that behaves as a Kubernetes node of limited memory, with launcher pods on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from . import image
from .cgroups import NodeCgroup
from .errors import DeadlineError, LabError
from .guest_spec import GuestSpec
from .launcher_pod import LauncherPod
from .requirements import TO_RUN, check_programs, check_root
from .run_directory import RunDirectory

_BOOT_SECONDS = 60.0  # an emulated guest is up within 15, and within 40 on a busy machine
# A program that enters cgroups, and then holds as much memory as each line of its stdin says, in bytes.
_HOLD = """
import mmap, sys
for group in sys.argv[1:]:
    open(f"{group}/cgroup.procs", "w").write("0")
held = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for line in sys.stdin:
    before = len(held)
    held.resize(int(line))
    for page in range(before, len(held), mmap.PAGESIZE):
        held[page] = 1
    print(flush=True)
"""


class LabNode:
    """A node of limited memory, whose launcher pods run on this machine; a context manager, which ends it.

    Its agent needs the options `--pods-dir` and `--node-memory-cgroup`. With cgroup v1, the agent reads the stall from
    the cgroup of the same name in the unified hierarchy.

    Attributes:
        pods_dir: The directory in which the kubelet would keep its pods.
        cgroup: The directory of the cgroup whose limit is the node's memory.
        pods: The node's pods, by the name of their guest.
    """

    def __init__(self, name: str, memory_bytes: int, say: image.Say = image.say_on_stderr) -> None:
        """Create the node's files and cgroups, and build the guests' image if there is none.

        Args:
            name: The name of the node.
            memory_bytes: The node's memory.
            say: Is called with each line of progress.

        Raises:
            LabError: This is not root, or a program or a cgroup that the lab needs is missing.
        """
        check_root()
        check_programs(TO_RUN)
        self.name = name
        self.memory_bytes = memory_bytes
        self.image = image.build(say=say)
        self._say = say
        self._files = RunDirectory.create()
        try:
            self._group = NodeCgroup.create(self._files.name, memory_bytes)
        except LabError:
            self._files.remove()
            raise
        self.pods_dir = self._files.pods
        self.cgroup = self._group.memory
        self.pods: dict[str, LauncherPod] = {}
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def psi_path(self) -> Path | None:
        """The file with the memory pressure (PSI) of the node; None if this machine has none."""
        return self._group.psi_path

    def usage_bytes(self) -> int:
        """Return the memory in use on the node, page cache included, in bytes."""
        return self._group.usage_bytes()

    def used_bytes(self) -> int:
        """Return the memory in use on the node, in bytes, without page cache that the kernel can drop at once."""
        return self._group.used_bytes()

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed because the node had no memory left."""
        return self._group.oom_kills()

    def boot(self, specs: Iterable[GuestSpec]) -> list[LauncherPod]:
        """Start a pod for each guest, all at the same time, and wait until all guests are up.

        A guest that is not up in time is started once more: on a busy machine, an emulated guest with several
        processors may hang before its kernel prints anything.

        Raises:
            LabError: A guest could not be started, or was not up in time.
        """
        return [self._await_ready(pod) for pod in [self.start(spec) for spec in specs]]

    def start(self, spec: GuestSpec, pods_dir: Path | None = None) -> LauncherPod:
        """Start a pod with one guest, and do not wait until the guest is up.

        Args:
            spec: The guest; a guest of the same name is stopped first.
            pods_dir: Where to create the pod's directory instead of in `pods_dir`, as for a path that is too long for
                a UNIX socket.

        Raises:
            LabError: The guest could not be started.
        """
        if spec.name in self.pods:
            self.stop(spec.name)
        self._started += 1
        files = self._files.path / f"{self._started}"
        booted = image.build(image.PYTHON_PACKAGES, say=self._say) if spec.python else self.image
        pod = LauncherPod(spec, booted, files, pods_dir or self.pods_dir, self._group.directories)
        pod.start()
        self.pods[spec.name] = pod
        return pod

    def _await_ready(self, pod: LauncherPod) -> LauncherPod:
        try:
            pod.wait_ready(_BOOT_SECONDS)
        except DeadlineError as error:
            self._say(f"{error}: starting it again")
            pod = self.start(pod.spec)
            pod.wait_ready()
        return pod

    def stop(self, name: str) -> None:
        """End a guest and its pod."""
        self.pods.pop(name).stop()

    @contextmanager
    def holding(self, size: int) -> Iterator[Callable[[int], None]]:
        """Run a process that is no VM and holds ``size`` bytes of the node's memory inside the context.

        Yields a function that changes the size.

        Raises:
            LabError: The node has too little memory for it.
        """
        command = [sys.executable, "-c", _HOLD, *map(str, self._group.directories)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def hold(size: int) -> None:
                if process.stdin is None or process.stdout is None:
                    raise LabError(f"nothing holds memory of {self.name}")
                print(size, file=process.stdin, flush=True)
                if not process.stdout.readline():
                    raise LabError(f"{self.name} has no {size} bytes left")

            try:
                hold(size)
                yield hold
            finally:
                process.kill()

    def close(self) -> None:
        """End all pods, and remove the node's files and cgroups."""
        for pod in self.pods.values():
            with suppress(LabError):
                pod.stop()
        self.pods.clear()
        self._group.remove()
        self._files.remove()
