"""LauncherPod: a virt-launcher pod of the lab, with its own libvirt daemon and one guest."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from .accelerator import kvm_boots
from .errors import DeadlineError, LabError
from .guest_load import GuestLoad
from .guest_spec import PLUGGABLE, GuestSpec
from .image import Image
from .launcher_process import USER, LauncherProcess
from .libvirt_connection import LibvirtConnection
from .proc import command_line, descendants, proportional_bytes, resident_bytes, vcpu_threads
from .unix_sockets import listen

READY_SECONDS = 120.0
_CONNECT_SECONDS = 30.0
_POLL_SECONDS = 0.05
_TROUBLE = ("Kernel panic", "Out of memory", "cannot load")
_TAIL_LINES = 3
RUNTIME = "volumes/kubernetes.io~empty-dir/libvirt-runtime"
"""The path, in a pod's directory, where the kubelet mounts the volume with libvirt's socket."""


@dataclass(slots=True)
class LauncherPod:
    """A launcher pod and its guest; both run from `start` to `stop`.

    Attributes:
        image: The image that the guest boots.
        files: The directory with the pod's logs and its guest's console and disks.
        pods: The directory in which the kubelet would keep its pods; the libvirt socket is in it.
        cgroups: The directories of the node's cgroups.
        uid: The pod's uid.
        load: The load generator in the guest.
    """

    spec: GuestSpec
    image: Image
    files: Path
    pods: Path
    cgroups: Sequence[Path] = ()
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    load: GuestLoad = field(init=False)
    _launcher: LauncherProcess | None = field(default=None, init=False)
    _libvirt: LibvirtConnection | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.load = GuestLoad(self.files / "load.sock")

    @property
    def socket(self) -> Path:
        """The path of the libvirt daemon's socket, the same as on a real node."""
        return self.pods / self.uid / RUNTIME / "virtqemud-sock"

    @property
    def libvirt(self) -> LibvirtConnection:
        """The lab's own connection to the libvirt daemon.

        Raises:
            LabError: The pod is not running.
        """
        if self._libvirt is None:
            raise LabError(f"the pod of {self.spec.name} is not running")
        return self._libvirt

    def start(self) -> None:
        """Start the pod and its guest, and do not wait until the guest is up.

        Raises:
            LabError: The libvirt daemon did not start in time, or libvirt refuses the guest.
        """
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.files.mkdir(parents=True)
        self._launcher = LauncherProcess.start(self.files, self.socket, self.image, self.cgroups)
        try:
            self._libvirt = LibvirtConnection.connect(self.socket, _CONNECT_SECONDS)
            self._make_disks()
            self._libvirt.start(self.spec.domain_xml(kvm=kvm_boots(self.image)))
        except LabError as error:
            log = self._launcher.log_tail()
            self.stop()
            raise LabError(f"{self.spec.name}: {error} ({log})") from error

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        """Wait until the guest is up: until its load generator answers, and its guest agent if its spec has one.

        Raises:
            DeadlineError: The guest was not up in time; the message has the trouble that its console shows.
            LabError: The guest ended.
        """
        deadline = time.monotonic() + seconds
        try:
            self.load.info(seconds=seconds)
            while self.spec.guest_agent and not self.agent_connected():
                if time.monotonic() > deadline:
                    raise DeadlineError(f"its guest agent was not up within {seconds:g} s")
                time.sleep(_POLL_SECONDS)
        except LabError as error:
            raise type(error)(f"{self.spec.name}: {error} (its console: {self._console_summary()})") from error

    def agent_connected(self) -> bool:
        """Whether QEMU's guest agent runs in the guest: KubeVirt's condition AgentConnected."""
        domain = ET.fromstring(self.libvirt.domain_xml(self.spec.domain_name))  # noqa: S314 -- our own daemon's
        channel = domain.find("./devices/channel/target[@name='org.qemu.guest_agent.0']")
        return channel is not None and channel.get("state") == "connected"

    @property
    def qemu_pid(self) -> int:
        """The process id of the guest's QEMU.

        Raises:
            LabError: The guest has no QEMU.
        """
        # Found by the guest's name: libvirt runs other QEMU processes to learn the capabilities.
        return self._find("QEMU", lambda command: f"guest={self.spec.domain_name},debug-threads=on" in command)

    @property
    def daemon_pid(self) -> int:
        """The process id of the pod's libvirt daemon.

        Raises:
            LabError: The pod has no libvirt daemon.
        """
        return self._find("libvirt daemon", lambda command: command[:1] == ["libvirtd"])

    @property
    def running(self) -> bool:
        """Whether the guest's QEMU is alive."""
        try:
            return self.qemu_pid > 0
        except LabError:
            return False

    def resident_bytes(self) -> int:
        """Return the memory that the guest's QEMU has resident, in bytes.

        Raises:
            LabError: The guest has no QEMU.
        """
        try:
            return resident_bytes(self.qemu_pid)
        except OSError as error:
            raise LabError(f"{self.spec.name} has no QEMU any more") from error

    def proportional_bytes(self) -> int:
        """Return QEMU's proportional set size in bytes: a page that KSM has merged counts once for all its sharers."""
        return proportional_bytes(self.qemu_pid)

    def actual_bytes(self) -> int:
        """Return the memory that the balloon leaves the guest, in bytes."""
        return self.libvirt.memory_stats(self.spec.domain_name)["actual"] * 1024

    def set_memory(self, size: int) -> None:
        """Set the size in bytes that the balloon is to leave the guest, without kubeballoon's agent."""
        self.libvirt.set_memory(self.spec.domain_name, size)

    def statistics_period(self) -> int:
        """Return the period, in seconds, of the balloon driver's statistics; 0 if they are off."""
        domain = ET.fromstring(self.libvirt.domain_xml(self.spec.domain_name))  # noqa: S314 -- our own daemon's
        stats = domain.find("./devices/memballoon/stats")
        return 0 if stats is None else int(stats.get("period", 0))

    def set_statistics_period(self, seconds: int) -> None:
        """Set the period, in seconds, of the balloon driver's statistics, without kubeballoon's agent."""
        what = "setting the statistics period"
        self.libvirt.call(self.spec.domain_name, what, lambda domain: domain.setMemoryStatsPeriod(seconds))

    def plug(self, size: int) -> None:
        """Plug ``size`` bytes in addition to the guest's boot memory, as KubeVirt does for a memory hotplug."""
        xml = self.spec.pluggable_xml(size)
        self.libvirt.plug(self.spec.domain_name, xml, PLUGGABLE)

    def online(self) -> int:
        """Return how many processors are online in the guest, as its guest agent reports."""
        return sum(vcpu["online"] for vcpu in self.agent_command("guest-get-vcpus"))

    def vcpu_threads(self) -> dict[str, float]:
        """Return the processor time, in seconds, of each of QEMU's threads that run the guest's processors, by name."""
        return vcpu_threads(self.qemu_pid)

    def agent_command(self, command: str, **arguments: object) -> Any:
        """Send a command to the guest's agent, and return what it returns."""
        return self.libvirt.agent_command(self.spec.domain_name, command, arguments)

    def write_file(self, path: str, content: bytes) -> None:
        """Write a file in the guest, by its guest agent."""
        handle = self.agent_command("guest-file-open", path=path, mode="w")
        self.agent_command("guest-file-write", handle=handle, **{"buf-b64": base64.b64encode(content).decode()})
        self.agent_command("guest-file-close", handle=handle)

    def read_file(self, path: str) -> bytes:
        """Read a short file in the guest, by its guest agent; return nothing if there is no such file."""
        try:
            handle = self.agent_command("guest-file-open", path=path, mode="r")
        except LabError:
            return b""
        content = self.agent_command("guest-file-read", handle=handle)["buf-b64"]
        self.agent_command("guest-file-close", handle=handle)
        return base64.b64decode(content)

    def run(self, script: str) -> int:
        """Start a line of shell in the guest, by its guest agent; return its process id there, and do not wait."""
        return int(self.agent_command("guest-exec", path="/bin/sh", arg=["-c", script])["pid"])

    def reset(self) -> None:
        """Reset the guest, which reboots if its spec has `reboots`; do not wait for that."""
        self.libvirt.call(self.spec.domain_name, "resetting", lambda domain: domain.reset())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the guest inside the context."""
        self.libvirt.call(self.spec.domain_name, "pausing", lambda domain: domain.suspend())
        try:
            yield
        finally:
            self.libvirt.call(self.spec.domain_name, "resuming", lambda domain: domain.resume())

    @contextmanager
    def without_driver(self) -> Iterator[None]:
        """Unbind the guest's balloon driver inside the context."""
        driver = "/sys/bus/virtio/drivers/virtio_balloon"
        self.run(f"basename $(readlink -f {driver}/virtio*) >/run/balloon; cat /run/balloon >{driver}/unbind")
        try:
            yield
        finally:
            self.run(f"cat /run/balloon >{driver}/bind")

    def kill_daemon(self) -> None:
        """Kill the libvirt daemon; the launcher starts it again, and the guest runs on."""
        os.kill(self.daemon_pid, signal.SIGKILL)
        self._reconnect()

    @contextmanager
    def without_socket(self) -> Iterator[None]:
        """End the libvirt daemon, and move its socket away inside the context."""
        aside = self.socket.with_suffix(".aside")
        self.socket.rename(aside)
        os.kill(self.daemon_pid, signal.SIGKILL)
        try:
            yield
        finally:
            aside.rename(self.socket)
            self._reconnect()

    @contextmanager
    def unanswered_socket(self) -> Iterator[None]:
        """End the libvirt daemon inside the context, and put a socket in its place that never answers a connection."""
        with self.without_socket(), listen(self.socket):
            yield

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Stop QEMU (SIGSTOP) inside the context, so that it hangs."""
        with self._stopped(self.qemu_pid):
            yield

    @contextmanager
    def hung_daemon(self) -> Iterator[Callable[[], None]]:
        """Stop the libvirt daemon (SIGSTOP) inside the context, so that it hangs; yield a function that resumes it."""
        pid = self.daemon_pid
        with self._stopped(pid):
            yield lambda: os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End the pod and its guest without a shutdown, and remove its directory, as the kubelet does.

        Raises:
            LabError: The pod's processes do not end.
        """
        launcher, libvirt = self._launcher, self._libvirt
        self._launcher = self._libvirt = None
        self.load.close()
        if launcher is not None:
            launcher.stop()
        if libvirt is not None:
            libvirt.close()
        shutil.rmtree(self.pods / self.uid, ignore_errors=True)

    def _reconnect(self) -> None:
        self.libvirt.close()
        self._libvirt = LibvirtConnection.connect(self.socket, _CONNECT_SECONDS)

    def _find(self, what: str, matches: Callable[[list[str]], bool]) -> int:
        """Return the process id of the pod's process whose command line matches; ``what`` names it in the error."""
        if self._launcher is not None:
            for pid in descendants(self._launcher.process.pid):
                if matches(command_line(pid)):
                    return pid
        raise LabError(f"{self.spec.name} has no {what}")

    def _console_summary(self) -> str:
        """Return the first line on the guest's console that names trouble, or else its last lines."""
        try:
            lines = (self.files / "console.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            lines = []
        trouble = [line for line in lines if any(word in line for word in _TROUBLE)]
        return " | ".join(trouble[:1] or lines[-_TAIL_LINES:]) or "empty"

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
