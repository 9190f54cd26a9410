"""One virt-launcher pod of the lab: a libvirt daemon of its own, and the guest it runs."""

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
from .hypervisor import Hypervisor
from .image import Image
from .launcher import USER, Launcher
from .load import GuestLoad
from .processes import command_line, descendants, proportional_bytes, resident_bytes, vcpu_threads
from .sockets import listen
from .spec import PLUGGABLE, GuestSpec

READY_SECONDS = 120.0
_CONNECT_SECONDS = 30.0
_POLL_SECONDS = 0.05
_TROUBLE = ("Kernel panic", "Out of memory", "cannot load")
_TAIL_LINES = 3
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
        """Waits until the guest is up: its load generator answers, and its guest agent if it is to have one.

        Raises:
            DeadlineError: It was not in time; the text has what matters of its console.
            LabError: It ended instead.
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
        domain = ET.fromstring(self.hypervisor.domain_xml(self.spec.domain_name))  # noqa: S314 -- our own daemon's
        channel = domain.find("./devices/channel/target[@name='org.qemu.guest_agent.0']")
        return channel is not None and channel.get("state") == "connected"

    @property
    def qemu_pid(self) -> int:
        """The guest's QEMU on this machine.

        Raises:
            LabError: There is none.
        """
        # By its whole name: while libvirt asks QEMU what it can do, there are others.
        return self._find("QEMU", lambda command: f"guest={self.spec.domain_name},debug-threads=on" in command)

    @property
    def daemon_pid(self) -> int:
        """The pod's libvirt daemon on this machine.

        Raises:
            LabError: There is none.
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
        """What QEMU holds of this machine's memory.

        Raises:
            LabError: There is no QEMU.
        """
        try:
            return resident_bytes(self.qemu_pid)
        except OSError as error:
            raise LabError(f"{self.spec.name} has no QEMU any more") from error

    def proportional_bytes(self) -> int:
        """The same, with pages that KSM has merged counted once for all that share them."""
        return proportional_bytes(self.qemu_pid)

    def actual_bytes(self) -> int:
        """What the balloon leaves the guest."""
        return self.hypervisor.memory_stats(self.spec.domain_name)["actual"] * 1024

    def set_memory(self, size: int) -> None:
        """Asks the guest for all but `size` bytes, past any agent."""
        self.hypervisor.set_memory(self.spec.domain_name, size)

    def statistics_period(self) -> int:
        """Every how many seconds the guest's driver is asked for statistics; 0: never."""
        domain = ET.fromstring(self.hypervisor.domain_xml(self.spec.domain_name))  # noqa: S314 -- our own daemon's
        stats = domain.find("./devices/memballoon/stats")
        return 0 if stats is None else int(stats.get("period", 0))

    def set_statistics_period(self, seconds: int) -> None:
        """Has them asked for so often, past any agent."""
        call = "setting the statistics period"
        self.hypervisor.ask(self.spec.domain_name, call, lambda domain: domain.setMemoryStatsPeriod(seconds))

    def plug(self, size: int) -> None:
        """Has the guest grow to its memory and so many bytes more, as KubeVirt does for a memory hotplug."""
        xml = self.spec.pluggable_xml(size)
        self.hypervisor.plug(self.spec.domain_name, xml, PLUGGABLE)

    def online(self) -> int:
        """How many processors the guest uses, by its own account."""
        return sum(vcpu["online"] for vcpu in self.agent_command("guest-get-vcpus"))

    def vcpu_threads(self) -> dict[str, float]:
        """QEMU's threads for processors by name, with the seconds each has run."""
        return vcpu_threads(self.qemu_pid)

    def agent_command(self, command: str, **arguments: object) -> Any:
        """What the guest's agent returns for one of its commands."""
        return self.hypervisor.agent_command(self.spec.domain_name, command, arguments)

    def write_file(self, path: str, content: bytes) -> None:
        """Writes a file in the guest, by its agent."""
        handle = self.agent_command("guest-file-open", path=path, mode="w")
        self.agent_command("guest-file-write", handle=handle, **{"buf-b64": base64.b64encode(content).decode()})
        self.agent_command("guest-file-close", handle=handle)

    def read_file(self, path: str) -> bytes:
        """A short file of the guest, read by its agent; nothing while there is none."""
        try:
            handle = self.agent_command("guest-file-open", path=path, mode="r")
        except LabError:
            return b""
        content = self.agent_command("guest-file-read", handle=handle)["buf-b64"]
        self.agent_command("guest-file-close", handle=handle)
        return base64.b64decode(content)

    def run(self, script: str) -> int:
        """Has the guest's agent run a line of shell, and does not wait for its end; its process id in the guest."""
        return int(self.agent_command("guest-exec", path="/bin/sh", arg=["-c", script])["pid"])

    def reset(self) -> None:
        """Resets the guest, which boots anew if its spec lets it; does not wait for that."""
        self.hypervisor.ask(self.spec.domain_name, "resetting", lambda domain: domain.reset())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The guest is paused meanwhile."""
        self.hypervisor.ask(self.spec.domain_name, "pausing", lambda domain: domain.suspend())
        try:
            yield
        finally:
            self.hypervisor.ask(self.spec.domain_name, "resuming", lambda domain: domain.resume())

    @contextmanager
    def without_driver(self) -> Iterator[None]:
        """The guest's kernel lets go of the balloon meanwhile."""
        driver = "/sys/bus/virtio/drivers/virtio_balloon"
        self.run(f"basename $(readlink -f {driver}/virtio*) >/run/balloon; cat /run/balloon >{driver}/unbind")
        try:
            yield
        finally:
            self.run(f"cat /run/balloon >{driver}/bind")

    def kill_daemon(self) -> None:
        """Kills the libvirt daemon; the launcher starts it again, and the guest does not notice."""
        os.kill(self.daemon_pid, signal.SIGKILL)
        self._reconnect()

    @contextmanager
    def without_socket(self) -> Iterator[None]:
        """The libvirt daemon ends, and its socket is not where it was meanwhile."""
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
        """The libvirt daemon ends, and where its socket was connections are opened meanwhile, but never answered."""
        with self.without_socket(), listen(self.socket):
            yield

    @contextmanager
    def hung(self) -> Iterator[None]:
        """QEMU does not run meanwhile, as if it hung."""
        with self._stopped(self.qemu_pid):
            yield

    @contextmanager
    def hung_daemon(self) -> Iterator[Callable[[], None]]:
        """The libvirt daemon does not run meanwhile, as if it hung; or only until what is given is called."""
        pid = self.daemon_pid
        with self._stopped(pid):
            yield lambda: os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends the pod and its guest at once, and takes its directory away, as the kubelet does.

        Raises:
            LabError: Its processes do not end.
        """
        launcher, hypervisor = self._launcher, self._hypervisor
        self._launcher = self._hypervisor = None
        self.load.close()
        if launcher is not None:
            launcher.stop()
        if hypervisor is not None:
            hypervisor.close()
        shutil.rmtree(self.pods / self.uid, ignore_errors=True)

    def _reconnect(self) -> None:
        self.hypervisor.close()
        self._hypervisor = Hypervisor.connect(self.socket, _CONNECT_SECONDS)

    def _find(self, what: str, matches: Callable[[list[str]], bool]) -> int:
        """The pod's process whose command line matches."""
        if self._launcher is not None:
            for pid in descendants(self._launcher.process.pid):
                if matches(command_line(pid)):
                    return pid
        raise LabError(f"{self.spec.name} has no {what}")

    def _console_summary(self) -> str:
        """The first line of trouble on the guest's console, or else its end."""
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
