"""A virt-launcher pod as the kubelet and KubeVirt leave it on a node: one libvirt daemon, one guest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

from . import image, processes
from .accelerator import kvm_boots
from .errors import DeadlineError, LabError
from .hypervisor import Hypervisor
from .load import GuestLoad
from .sockets import listen
from .spec import LAUNCHER_USER, GuestSpec

SOCKET_IN_POD = Path("volumes/kubernetes.io~empty-dir/libvirt-runtime/virtqemud-sock")
"""Where the kubelet has the daemon's socket, below the pod's directory."""

READY_SECONDS = 120.0
_CONNECT_SECONDS = 60.0  # the first daemon on a machine asks QEMU what it can do
_END_SECONDS = 10.0
_POLL_SECONDS = 0.05
_CONSOLE_LINES = 5

_LAUNCHER = Path(__file__).resolve().with_name("launcher.sh")
_LIBVIRTD_CONF = 'auth_unix_rw = "none"\nlog_outputs = "3:file:/mnt/libvirtd.log"\n'
_QEMU_CONF = 'stdio_handler = "file"\nsecurity_driver = "none"\n'


@dataclass(slots=True)
class LauncherPod:
    """One launcher pod; ends with the process that started it, however that ends.

    Attributes:
        uid: The pod's UID.
        pods_dir: The kubelet's pods directory.
        directory: The pod's files that the kubelet knows nothing of: console.log, libvirtd.log, launcher.log.
        cgroups: The cgroups that the pod is in.
        load: Commands to the guest's load generator.
    """

    uid: str
    pods_dir: Path
    directory: Path
    cgroups: tuple[Path, ...]
    load: GuestLoad = field(init=False)
    _image: image.Image = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _hypervisor: Hypervisor | None = field(default=None, init=False)
    _spec: GuestSpec | None = field(default=None, init=False)
    _booted_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.load = GuestLoad(self.directory / "load.sock")

    @property
    def socket_path(self) -> Path:
        """The daemon's socket, where the agent looks for it."""
        return self.pods_dir / self.uid / SOCKET_IN_POD

    @property
    def spec(self) -> GuestSpec:
        """What was booted.

        Raises:
            LabError: Nothing was.
        """
        if self._spec is None:
            raise LabError(f"pod {self.uid} has no guest")
        return self._spec

    def start(self) -> None:
        """Starts the launcher: the daemon's socket is there at once, and answers when the daemon is up.

        Raises:
            LabError: The guest's image cannot be built, or the launcher cannot be run.
        """
        self._image = image.build()
        self._make_directories()
        with listen(self.socket_path) as listener, (self.directory / "launcher.log").open("wb") as log:
            os.chown(self.socket_path, LAUNCHER_USER, LAUNCHER_USER)
            arguments = [_LAUNCHER, self.directory, self._image.directory, _libvirt_cache(), str(listener.fileno())]
            try:
                self._process = subprocess.Popen(
                    [*arguments, *self.cgroups],
                    stdin=subprocess.PIPE,  # held open: the pod ends with it
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(listener.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                raise LabError(f"{_LAUNCHER.name} cannot be run: {error}") from error

    def boot(self, spec: GuestSpec) -> None:
        """Starts the guest, and does not wait for it.

        Raises:
            LabError: libvirt refuses it.
            DeadlineError: The daemon is not up in a minute.
        """
        for name, size in spec.disks.items():
            disk = self.directory / f"{name}.disk"
            disk.touch(mode=0o600)
            os.chown(disk, LAUNCHER_USER, LAUNCHER_USER)
            os.truncate(disk, size)
        self._hypervisor = Hypervisor.connect(self.socket_path, _CONNECT_SECONDS)
        self._booted_at = time.monotonic()
        self._hypervisor.start(spec.domain_xml(kvm=kvm_boots(self._image)))
        self._spec = spec

    def wait_ready(self, timeout: float = READY_SECONDS) -> float:
        """Waits until the load generator and, if the guest has one, the guest agent answer.

        Args:
            timeout: Seconds from now.

        Returns:
            Seconds since the guest was started.

        Raises:
            DeadlineError: They do not in time.
            LabError: The guest is gone; the last lines of its console say why.
        """
        deadline = time.monotonic() + timeout
        try:
            self.load.info(seconds=timeout)
            while self.spec.guest_agent and not self.guest_agent_connected():
                if time.monotonic() > deadline:
                    raise DeadlineError("no guest agent")
                time.sleep(_POLL_SECONDS)
        except LabError as error:
            said = " | ".join(self.console().splitlines()[-_CONSOLE_LINES:]) or "nothing"
            raise type(error)(f"{self.spec.name} is not ready: {error}; its console says: {said}") from error
        return time.monotonic() - self._booted_at

    def guest_agent_connected(self) -> bool:
        """Whether QEMU's guest agent runs in the guest: KubeVirt's condition AgentConnected."""
        domain = ET.fromstring(self.hypervisor.domain_xml(self.spec.domain_name))  # noqa: S314 -- our own daemon's
        target = domain.find("devices/channel/target[@name='org.qemu.guest_agent.0']")
        return target is not None and target.get("state") == "connected"

    def memory_stats(self) -> dict[str, int]:
        """libvirt's memory statistics as they come: KiB, counts, and seconds since the epoch."""
        return self.hypervisor.memory_stats(self.spec.domain_name)

    def set_balloon(self, size: int) -> None:
        """Asks the guest to use only `size` bytes; returns at once. The agent's work, done by hand."""
        self.hypervisor.set_memory(self.spec.domain_name, size)

    @property
    def hypervisor(self) -> Hypervisor:
        """The lab's own connection to the daemon.

        Raises:
            LabError: There is none before a guest is booted.
        """
        if self._hypervisor is None:
            raise LabError(f"pod {self.uid} has no guest")
        return self._hypervisor

    @property
    def qemu_pid(self) -> int:
        """The guest's QEMU, as this process sees it.

        Raises:
            LabError: There is none: the guest ended, or was killed.
        """
        return self._find(f"guest={self.spec.domain_name},debug-threads=on", "QEMU")

    @property
    def daemon_pid(self) -> int:
        """The libvirt daemon. The launcher starts another if it ends, as KubeVirt's does.

        Raises:
            LabError: There is none now.
        """
        return self._find("libvirtd", "libvirt daemon")

    @property
    def running(self) -> bool:
        """Whether the guest's QEMU is alive."""
        try:
            return self.qemu_pid > 0
        except LabError:
            return False

    def resident_bytes(self) -> int:
        """The machine's memory that QEMU holds: the guest's, and some of its own.

        Raises:
            LabError: The guest ended.
        """
        try:
            return processes.resident_bytes(self.qemu_pid)
        except OSError as error:
            raise LabError(f"{self.spec.name} ended") from error

    def pause(self) -> None:
        """Freezes QEMU, which then answers nobody: not a paused guest, a hung hypervisor."""
        os.kill(self.qemu_pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a frozen QEMU go on."""
        os.kill(self.qemu_pid, signal.SIGCONT)

    def console(self) -> str:
        """What the guest has printed."""
        try:
            return (self.directory / "console.log").read_text(errors="replace")
        except OSError:
            return ""

    def stop(self) -> None:
        """Ends the pod and all in it; when it returns their memory is free. Does nothing the second time.

        Raises:
            LabError: The pod's processes do not end.
        """
        if self._process is None:
            return
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise LabError(f"pod {self.uid} does not end") from None
        finally:
            self._process = None
            self.load.close()
            if self._hypervisor:
                self._hypervisor.close()
        shutil.rmtree(self.pods_dir / self.uid, ignore_errors=True)

    def _find(self, argument: str, what: str) -> int:
        if self._process:
            for pid in processes.descendants(self._process.pid):
                if argument in processes.command_line(pid):
                    return pid
        raise LabError(f"pod {self.uid} has no {what}")

    def _make_directories(self) -> None:
        configuration = self.directory / "etc/libvirt"
        made = [configuration, *(self.directory / name for name in ("run", "data", "image", "cache"))]
        for path in (*made, self.socket_path.parent):
            path.mkdir(parents=True, exist_ok=True)
        (configuration / "libvirtd.conf").write_text(_LIBVIRTD_CONF)
        (configuration / "qemu.conf").write_text(_QEMU_CONF)
        for path in (self.directory, self.directory / "etc", *made, self.socket_path.parent):
            os.chown(path, LAUNCHER_USER, LAUNCHER_USER)


def _libvirt_cache() -> Path:
    """What libvirt has learnt about QEMU: seconds of work that later pods and runs are spared."""
    path = image.cache_directory() / "libvirt"
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, LAUNCHER_USER, LAUNCHER_USER)
    return path
