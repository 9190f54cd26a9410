"""A lab node: limited memory, and the launcher pods that share it."""

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
from .pod import LauncherPod
from .requirements import TO_RUN, check_programs, check_root
from .rundir import RunDirectory
from .spec import GuestSpec

_BOOT_SECONDS = 60.0  # a guest is up within 15, within 40 on a busy machine
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
    """Part of this machine that behaves as a node with so much memory; a context manager.

    An agent is started for it with `--pods-dir` and `--node-memory-cgroup`. With cgroup v1 the stall is told by the
    cgroup of the same name in the unified hierarchy.

    Attributes:
        pods_dir: The kubelet's pods directory.
        cgroup: The cgroup with the node's memory.
        pods: The node's pods, by the name of their guests.
    """

    def __init__(self, name: str, memory_bytes: int, say: image.Say = image.say_on_stderr) -> None:
        """Makes the node.

        Raises:
            LabError: Something that the lab needs is missing.
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
        """The file with the stall of the node's memory, where this machine tells it."""
        return self._group.psi_path

    def usage_bytes(self) -> int:
        """The memory in use on the node, page cache included."""
        return self._group.usage_bytes()

    def used_bytes(self) -> int:
        """The memory in use that the kernel could not take back at once."""
        return self._group.used_bytes()

    def oom_kills(self) -> int:
        """How many processes the node has lost for want of memory."""
        return self._group.oom_kills()

    def boot(self, specs: Iterable[GuestSpec]) -> list[LauncherPod]:
        """Starts a pod for each guest, all at once, and waits until all guests are up.

        One that is not in good time is started once more: an emulated guest with several processors may hang before
        its kernel says a word, when the machine is busy.

        Raises:
            LabError: One could not be started, or was not up in time.
        """
        return [self._ready(pod) for pod in [self.start(spec) for spec in specs]]

    def start(self, spec: GuestSpec, pods_dir: Path | None = None) -> LauncherPod:
        """Starts one guest and does not wait for it.

        Args:
            spec: The guest; one of the same name is stopped first.
            pods_dir: Another directory for its socket, such as one with a path too long for a UNIX socket.
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

    def _ready(self, pod: LauncherPod) -> LauncherPod:
        try:
            pod.wait_ready(_BOOT_SECONDS)
        except DeadlineError as error:
            self._say(f"{error}: starting it again")
            pod = self.start(pod.spec)
            pod.wait_ready()
        return pod

    def stop(self, name: str) -> None:
        """Ends a guest and its pod."""
        self.pods.pop(name).stop()

    @contextmanager
    def holding(self, size: int) -> Iterator[Callable[[int], None]]:
        """Something that is no VM holds so many bytes of the node meanwhile, or as many as what is yielded is told.

        Raises:
            LabError: The node's memory did not suffice for it.
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
        """Ends the node and all that is on it."""
        for pod in self.pods.values():
            with suppress(LabError):
                pod.stop()
        self.pods.clear()
        self._group.remove()
        self._files.remove()
