"""One virt-launcher pod of the lab: a libvirt daemon of its own, and the guest it runs."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from .accelerator import kvm_boots
from .errors import DeadlineError, LabError
from .hypervisor import Hypervisor
from .image import Image
from .launcher import USER, Launcher
from .load import GuestLoad
from .processes import command_line, descendants, resident_bytes
from .spec import GuestSpec

READY_SECONDS = 120.0
_CONNECT_SECONDS = 30.0
_POLL_SECONDS = 0.05
_UP = "lab: guest is up"
RUNTIME = "volumes/kubernetes.io~empty-dir/libvirt-runtime"
"""Where, below a pod's directory, the kubelet has the volume with libvirt's socket."""


@dataclass(slots=True)
class LauncherPod:
    """A pod and its guest, from `start` to `stop`.

    Attributes:
        uid: The pod's, as the kubelet would have it.
        files: The pod's own files: its logs, its guest's console and disks.
        pods: The kubelet's pods directory, in which the pod's libvirt socket is.
    """

    spec: GuestSpec
    image: Image
    files: Path
    pods: Path
    cgroups: Sequence[Path] = ()
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    load: GuestLoad = field(init=False)
    _launcher: Launcher | None = field(default=None, init=False)
    _hypervisor: Hypervisor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.load = GuestLoad(self.files / "load.sock")

    @property
    def socket(self) -> Path:
        """The libvirt daemon's socket, where the kubelet would have it."""
        return self.pods / self.uid / RUNTIME / "virtqemud-sock"

    @property
    def hypervisor(self) -> Hypervisor:
        """The lab's own connection to the daemon.

        Raises:
            LabError: The pod was not started.
        """
        if self._hypervisor is None:
            raise LabError(f"the pod of {self.spec.name} is not running")
        return self._hypervisor

    def start(self) -> None:
        """Starts the pod and its guest, and does not wait for the guest; a second start is a new pod.

        Raises:
            LabError: The daemon did not come up, or libvirt refuses the guest.
        """
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.files.mkdir(parents=True)
        self._launcher = Launcher.start(self.files, self.socket, self.image, self.cgroups)
        try:
            self._hypervisor = Hypervisor.connect(self.socket, _CONNECT_SECONDS)
            self._make_disks()
            self._hypervisor.start(self.spec.domain_xml(kvm=kvm_boots(self.image)))
        except LabError as error:
            said = self._launcher.log_tail()
            self.stop()
            raise LabError(f"{self.spec.name}: {error} ({said})") from error

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Waits until the guest is up and its load generator answers.

        Raises:
            DeadlineError: It was not in time; the text has the end of its console.
        """
        deadline = time.monotonic() + seconds
        console = self.files / "console.log"
        while _UP not in (text := console.read_text(errors="replace") if console.exists() else ""):
            if time.monotonic() > deadline:
                tail = " | ".join(text.splitlines()[-3:])
                raise DeadlineError(f"{self.spec.name} was not up within {seconds:g} s: {tail or 'no console'}")
            time.sleep(_POLL_SECONDS)
        self.load.info(seconds=max(1.0, deadline - time.monotonic()))

    @property
    def qemu_pid(self) -> int:
        """The guest's QEMU on this machine.

        Raises:
            LabError: There is none.
        """
        if self._launcher is not None:
            for pid in descendants(self._launcher.process.pid):
                if "qemu-system" in next(iter(command_line(pid)), ""):
                    return pid
        raise LabError(f"{self.spec.name} has no QEMU")

    @property
    def daemon_pid(self) -> int:
        """The pod's libvirt daemon on this machine.

        Raises:
            LabError: There is none.
        """
        if self._launcher is not None:
            for pid in descendants(self._launcher.process.pid):
                if next(iter(command_line(pid)), "").endswith("libvirtd"):
                    return pid
        raise LabError(f"{self.spec.name} has no libvirt daemon")

    def resident_bytes(self) -> int:
        """What QEMU holds of this machine's memory.

        Raises:
            LabError: There is no QEMU.
        """
        try:
            return resident_bytes(self.qemu_pid)
        except OSError as error:
            raise LabError(f"{self.spec.name} has no QEMU any more") from error

    def actual_bytes(self) -> int:
        """What the balloon leaves the guest."""
        return self.hypervisor.memory_stats(self.spec.domain_name)["actual"] * 1024

    def set_memory(self, size: int) -> None:
        """Asks the guest for all but `size` bytes, past any agent."""
        self.hypervisor.set_memory(self.spec.domain_name, size)

    @contextmanager
    def hung(self) -> Iterator[None]:
        """QEMU does not run meanwhile, as if it hung."""
        with self._stopped(self.qemu_pid):
            yield

    @contextmanager
    def hung_daemon(self) -> Iterator[None]:
        """The libvirt daemon does not run meanwhile, as if it hung."""
        with self._stopped(self.daemon_pid):
            yield

    def stop(self) -> None:
        """Ends the pod and its guest at once, and takes its directory away, as the kubelet does."""
        self.load.close()
        if self._launcher is not None:
            self._launcher.stop()
        self._launcher = self._hypervisor = None
        self.socket.unlink(missing_ok=True)

    @contextmanager
    def _stopped(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _make_disks(self) -> None:
        for name, size in self.spec.disks.items():
            disk = self.files / f"{name}.disk"
            with disk.open("wb") as file:
                file.truncate(size)
            os.chown(disk, USER, USER)
