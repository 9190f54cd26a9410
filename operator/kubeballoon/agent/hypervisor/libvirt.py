"""This module reaches VMs through libvirt; no other module talks to it.

libvirt's calls block, some of them for ever when a QEMU or a daemon hangs, and cannot be cancelled. So every VM has
queues of its own for them, and each queue a thread while it makes a call: one that does not return occupies its one
thread, and nothing else waits for it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import libvirt
import libvirt_qemu
from pydantic import BaseModel, TypeAdapter

from kubeballoon.agent.foreign_text import one_line, parse_json
from kubeballoon.agent.hypervisor.call_queue import CallQueue
from kubeballoon.agent.hypervisor.domain_xml import LARGEST_KIB, DomainXml, read_domain
from kubeballoon.agent.hypervisor.errors import GarbledError, GoneError, GuestAgentError, HypervisorError
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher, connect_to
from kubeballoon.agent.hypervisor.protocols import DomainSample, PluggedProcessors, VMProcess
from kubeballoon.agent.hypervisor.qemu_process import QemuProcess
from kubeballoon.agent.hypervisor.relay import Relay
from kubeballoon.agent.wait_times import DEFAULT_TIMING, LibvirtTiming
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.memory.demand import GuestStatistics

R = TypeVar("R")

_KIB = 1024
_SESSION = "qemu+unix:///session?socket={}"
_SYSTEM = "qemu+unix:///system?socket={}"
_XML_INTERVAL = 1.0  # seconds between two readings of a domain's XML for its memory: to parse it takes time
_PROCESS_INTERVAL = 5.0  # seconds until a process that was not seen is looked for again, among all of the node's
_AMOUNTS = ("actual", "usable", "unused", "available", "disk_caches")  # libvirt's names of memory that a guest has
_LONGEST_MONITOR_ANSWER = 64 << 10  # characters
_GUEST_QUEUE = "/guest"  # follows a pod's uid in the key of the second queue; no uid has a slash
# libvirt tells time-outs and refusals of the guest agent by these from 11.2 on (virterror.h); the Python binding that
# this is compiled against may be older and have no names for them.
_AGENT_COMMAND_TIMEOUT = 112
_AGENT_COMMAND_FAILED = 113
_NO_AGENT = (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, libvirt.VIR_ERR_CONFIG_UNSUPPORTED)
# libvirt's texts for what comes from a guest agent and is no answer, and for a guest agent that closed its port.
_NO_ANSWER = (
    "cannot parse json",
    "malformed",
    "No complete agent response",
    "JSON reply",
    "reply object",
    "failed to convert virJSONValue",  # of an answer that is nested more deeply than libvirt can pass on
)
_PORT_CLOSED = ("End of file from agent socket", "Unable to read from agent", "Unable to write to agent")
_GONE = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_OPERATION_INVALID,
        libvirt.VIR_ERR_SYSTEM_ERROR,
        libvirt.VIR_ERR_INTERNAL_ERROR,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_INVALID_CONN,
    }
)
"""Errors after which a new connection is made: the VM has ended, or its daemon has, or the connection broke."""


class _MonitorError(BaseModel):
    desc: str = ""


class _MonitorAnswer(BaseModel):
    """A _MonitorAnswer is what is read of an answer of QEMU's monitor."""

    error: _MonitorError | None = None


_MONITOR_ANSWER = TypeAdapter(_MonitorAnswer)

# libvirt also prints every error; they are raised as exceptions as well, and logged once.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


class LibvirtHypervisor:
    """A LibvirtHypervisor connects to the libvirt daemons of launcher pods.

    Each pod has two queues of calls, however often it is connected to: one for memory, one for guest agent and
    processors.
    """

    def __init__(self, timing: LibvirtTiming = DEFAULT_TIMING.libvirt) -> None:
        """Make calls with the deadlines of ``timing``."""
        self._timing = timing
        self._queues: dict[str, CallQueue] = {}

    async def connect_memory(self, launcher: Launcher, domain: str) -> LibvirtMemoryControl:
        """Connect to the VM ``domain`` at the daemon of ``launcher``, for its memory.

        Raises:
            HypervisorError: the daemon cannot be reached, did not answer in time, or knows no such VM.
        """
        calls = self._queue(launcher.pod, f"libvirt {domain}")
        handle, xml = await _reach(calls, launcher, domain, self._timing.connect)
        return LibvirtMemoryControl(calls, handle, xml, QemuProcess(domain, (launcher.pod,)), self._timing)

    async def connect_guest(self, launcher: Launcher, domain: str) -> LibvirtGuestControl:
        """Connect to the VM ``domain`` at the daemon of ``launcher``, for its guest agent and processors.

        Raises:
            HypervisorError: the daemon cannot be reached, did not answer in time, or knows no such VM.
        """
        calls = self._queue(f"{launcher.pod}{_GUEST_QUEUE}", f"guest {domain}")
        handle, xml = await _reach(calls, launcher, domain, self._timing.connect)
        return LibvirtGuestControl(calls, handle, xml, self._timing)

    def forget(self, pod: str) -> None:
        """End the calls for a pod that is gone, by its uid; its connections end at once."""
        for key in (pod, f"{pod}{_GUEST_QUEUE}"):
            calls = self._queues.pop(key, None)
            if calls is not None:
                calls.end()

    def _queue(self, key: str, name: str) -> CallQueue:
        calls = self._queues.get(key)
        if calls is None:
            calls = self._queues[key] = CallQueue(name)
        return calls


class DomainHandle:
    """A DomainHandle holds libvirt's own objects for one VM, for use by calls of the VM's queue alone."""

    def __init__(self, connection: Any, domain: Any, relay: Relay | None = None) -> None:
        """Own a virConnect and its virDomain, both opened by such a call, and the relay that they use."""
        self._connection = connection
        self._domain = domain
        self._relay = relay

    @property
    def fault(self) -> str | None:
        """What the daemon did wrong, so that the connection was ended; None if nothing."""
        return None if self._relay is None else self._relay.fault

    def use(self, function: Callable[[Any], R]) -> R:
        """Call a function with libvirt's domain object."""
        return function(self._domain)

    def close(self) -> None:
        """Drop the domain and close the connection, which stays open for as long as one of its domains exists."""
        connection = self._connection
        self._connection = self._domain = None
        try:
            connection.close()
        finally:
            if self._relay is not None:
                self._relay.close()


class _Connection:
    """A _Connection is one to a VM, whose calls are made one after the other, each with a deadline."""

    def __init__(self, calls: CallQueue, handle: DomainHandle, timing: LibvirtTiming) -> None:
        """Make calls in ``calls``, where ``handle`` was opened, with the deadlines of ``timing``."""
        self._calls = calls
        self._handle = handle
        self._timing = timing

    def close(self) -> None:
        """Close the connection, without waiting for that."""
        self._calls.post(self._handle.close)

    async def _call(self, function: Callable[[Any], R]) -> R:
        """Call a function with libvirt's domain object, in a thread of the queue's."""
        try:
            return await self._calls.call(self._timing.call, self._handle.use, function)
        except libvirt.libvirtError as error:
            raise _translate(error, self._handle.fault) from error


class LibvirtMemoryControl(_Connection):
    """A LibvirtMemoryControl is a connection to a VM's libvirt daemon for the VM's memory."""

    def __init__(
        self, calls: CallQueue, handle: DomainHandle, xml: DomainXml, process: VMProcess, timing: LibvirtTiming
    ) -> None:
        """Make calls in ``calls``, where ``handle`` was opened; ``xml`` is the domain's, ``process`` its QEMU."""
        super().__init__(calls, handle, timing)
        self._process = process
        self._process_due = 0.0  # when a process that was not seen is looked for again, monotonic seconds
        self._xml = xml
        self._xml_due = 0.0  # when the XML may be read again, monotonic seconds

    async def sample(self) -> DomainSample:
        """Read the VM's memory and state.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        state, stats, resident = await self._call(self._read_memory)
        bounded = {name: min(figure, LARGEST_KIB) for name, figure in stats.items()}
        size = self._xml.boot + self._xml.plugged
        return DomainSample(
            size=size * _KIB,
            resident=resident,
            running=state == libvirt.VIR_DOMAIN_RUNNING,
            balloon=self._xml.balloon,
            statistics=_statistics(bounded, self._xml),
            plugged=self._xml.plugged * _KIB,
            claimed=max(size, *_claims(stats)) * _KIB,
        )

    def _read_memory(self, domain: Any) -> tuple[int, dict[str, int], int | None]:
        """Read a domain's state and statistics, what its process holds, and its XML where that can have changed."""
        state, most, *_ = domain.info()
        may_have_changed = self._xml.resizable or min(most, LARGEST_KIB) != self._xml.most
        if may_have_changed and time.monotonic() >= self._xml_due:
            self._xml = read_domain(domain.XMLDesc())
            self._xml_due = time.monotonic() + _XML_INTERVAL
        return state, domain.memoryStats(), self._resident()

    def _resident(self) -> int | None:
        """Read what the domain's process holds, bytes; what libvirt says of that is the launcher's word alone."""
        if time.monotonic() < self._process_due:
            return None
        resident = self._process.resident()
        if resident is None:
            self._process_due = time.monotonic() + _PROCESS_INTERVAL
        return resident

    async def set_memory(self, size: int) -> None:
        """Ask the guest's driver to leave the guest ``size`` bytes.

        libvirt counts in KiB, so the guest keeps up to 1023 bytes more. The balloon only takes memory that the guest
        was booted with, so memory that was plugged in later is not requested from it.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        boot_part = min(self._xml.boot, -(-size // _KIB) - self._xml.plugged)
        await self._call(lambda domain: domain.setMemoryFlags(max(0, boot_part), libvirt.VIR_DOMAIN_AFFECT_LIVE))

    async def set_statistics_period(self, seconds: int) -> None:
        """Have the guest report its statistics every ``seconds`` seconds; without a balloon it has nothing to report.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        if not self._xml.balloon:
            return
        await self._call(lambda domain: domain.setMemoryStatsPeriod(seconds, libvirt.VIR_DOMAIN_AFFECT_LIVE))


class LibvirtGuestControl(_Connection):
    """A LibvirtGuestControl is a connection to a VM's libvirt daemon for the VM's guest agent and processors.

    Attributes:
        emulated: whether QEMU runs the guest without KVM.
    """

    def __init__(self, calls: CallQueue, handle: DomainHandle, xml: DomainXml, timing: LibvirtTiming) -> None:
        """Make calls in ``calls``, where ``handle`` was opened; ``xml`` is the domain's."""
        super().__init__(calls, handle, timing)
        self.emulated = xml.emulated

    async def command(self, name: str, arguments: Mapping[str, Any], read: Callable[[str], R]) -> R:
        """Have the guest agent carry a command out, and return what ``read`` makes of its answer.

        ``read`` is called in a thread for the VM's calls: an answer can be long.

        Raises:
            GuestAgentError: the guest agent is absent, does not answer in time, or refuses, or ``read`` does.
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        seconds = self._timing.agent_answer
        command = _command(name, arguments)

        def ask(domain: Any) -> R:
            return read(libvirt_qemu.qemuAgentCommand(domain, command, seconds, 0))

        try:
            return await self._calls.call(self._timing.agent_command, self._handle.use, ask)
        except libvirt.libvirtError as error:
            if self._handle.fault is not None:  # the daemon's own fault, or only its guest's: that cannot be told
                message = f"the answer to {name} cannot be read: {self._handle.fault}"
                raise GuestAgentError(AgentReason.GUEST_AGENT_GARBLED, message) from error
            raise _translate_agent(error, seconds) from error

    async def plugged(self) -> PluggedProcessors:
        """Read the VM's processors.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        return await self._call(_read_processors)

    async def unplug(self, name: str) -> None:
        """Ask the guest's kernel, through ACPI, to give a processor up.

        This uses QEMU's own command. libvirt's call would hold all other calls for the VM up until the guest has
        followed, or for five seconds. libvirt learns from QEMU's event either way.

        Raises:
            HypervisorError: QEMU refuses, or the VM cannot be reached, or did not answer in time.
        """
        await self._call(partial(_run_qemu_command, name="device_del", arguments={"id": name}))

    async def plug(self, count: int) -> None:
        """Plug processors in until the VM has ``count``.

        Raises:
            HypervisorError: the VM cannot be reached, or did not answer in time.
        """
        await self._call(lambda domain: domain.setVcpusFlags(count, libvirt.VIR_DOMAIN_AFFECT_LIVE))


async def _reach(calls: CallQueue, launcher: Launcher, name: str, deadline: float) -> tuple[DomainHandle, DomainXml]:
    """Connect to a VM's daemon and find the VM; return it with what its XML says."""
    try:
        return await calls.call(deadline, _connect, calls, launcher, name, deadline)
    except libvirt.libvirtError as error:
        raise _translate(error) from error
    except OSError as error:
        raise GoneError(f"the socket of pod {launcher.pod} is gone: {error.strerror or error}") from error


def _connect(calls: CallQueue, launcher: Launcher, name: str, deadline: float) -> tuple[DomainHandle, DomainXml]:
    """Connect as to a daemon without root, else as to one with root, for each refuses the other's form of URI."""
    try:
        connection, relay = _open(_SESSION, calls, launcher, deadline)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INTERNAL_ERROR:
            raise
        connection, relay = _open(_SYSTEM, calls, launcher, deadline)
    with _closed_on_failure(relay):
        domain = connection.lookupByName(name)
        return DomainHandle(connection, domain, relay), read_domain(domain.XMLDesc())


def _open(uri: str, calls: CallQueue, launcher: Launcher, deadline: float) -> tuple[Any, Relay]:
    """Open a connection to a launcher's daemon through a relay, and return both."""
    relay = Relay(connect_to(launcher, deadline))
    calls.keep(relay)
    with _closed_on_failure(relay):
        return libvirt.open(uri.format(relay.address)), relay


@contextlib.contextmanager
def _closed_on_failure(relay: Relay) -> Iterator[None]:
    """Close a relay when the context fails; where the daemon was at fault, that is what is raised."""
    try:
        yield
    except BaseException as error:
        relay.close()
        if relay.fault is not None and isinstance(error, libvirt.libvirtError):
            raise GarbledError(relay.fault) from error
        raise


def _read_processors(domain: Any) -> PluggedProcessors:
    """Read a domain's processors."""
    _, _, _, _, nanoseconds = domain.info()
    count = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return PluggedProcessors(max(0, count), read_domain(domain.XMLDesc()).removable, nanoseconds / 1e9)


def _run_qemu_command(domain: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Have QEMU carry out a command of its monitor.

    Raises:
        HypervisorError: QEMU refuses.
    """
    text = libvirt_qemu.qemuMonitorCommand(domain, _command(name, arguments), 0)
    with contextlib.suppress(ValueError):
        answer = parse_json(text, _MONITOR_ANSWER, _LONGEST_MONITOR_ANSWER)
        if answer.error is not None:
            raise HypervisorError(f"QEMU: {one_line(answer.error.desc) or name}")
        return
    raise GarbledError(f"QEMU's answer to {name} makes no sense")


def _command(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a command in the JSON form that QEMU and its guest agent share."""
    return json.dumps({"execute": name, "arguments": dict(arguments)} if arguments else {"execute": name})


def _statistics(stats: dict[str, int], xml: DomainXml) -> GuestStatistics:
    """Translate libvirt's memory statistics, which are in KiB; a guest without a balloon has all of its memory."""

    def size(key: str) -> int | None:
        return stats[key] * _KIB if key in stats else None

    return GuestStatistics(
        actual=(stats.get("actual", xml.boot) + xml.plugged) * _KIB,
        updated=min(float(stats.get("last_update", 0)), time.time()),
        usable=size("usable"),
        unused=size("unused"),
        available=size("available"),
        disk_caches=size("disk_caches"),
        swap_in=size("swap_in"),
        swap_out=size("swap_out"),
        major_faults=stats.get("major_fault"),
    )


def _claims(stats: dict[str, int]) -> Iterator[int]:
    """List how much memory a guest has or uses by each of its statistics, KiB, and counters that no guest reaches."""
    yield 0
    for name, figure in stats.items():
        if name in _AMOUNTS or figure > LARGEST_KIB:
            yield figure


def _translate(error: libvirt.libvirtError, fault: str | None = None) -> HypervisorError:
    """Make libvirt's error one of the agent's, with its text in one line; ``fault`` is why the connection was ended."""
    if fault is not None:
        return GarbledError(fault)
    message = one_line(str(error))
    kind = GoneError if error.get_error_code() in _GONE else HypervisorError
    return kind(f"libvirt: {message}")


def _translate_agent(error: libvirt.libvirtError, seconds: int) -> HypervisorError:
    """Find out what a failed command of the guest agent means; libvirt has few codes for that, so its texts count."""
    code, message = error.get_error_code(), one_line(str(error))
    if code in _NO_AGENT or (code == libvirt.VIR_ERR_AGENT_UNRESPONSIVE and "not connected" in message):
        return GuestAgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest runs no QEMU guest agent")
    if code in (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED, _AGENT_COMMAND_TIMEOUT):
        return GuestAgentError(AgentReason.GUEST_AGENT_HUNG, f"its guest agent did not answer within {seconds}s")
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return GuestAgentError(AgentReason.GUEST_AGENT_BUSY, "its guest agent is busy with another client")
    refused = code == libvirt.VIR_ERR_INTERNAL_ERROR and "unable to execute QEMU agent command" in message
    if refused or code == _AGENT_COMMAND_FAILED:
        refusal = message.rpartition(": ")[2]
        return GuestAgentError(AgentReason.GUEST_AGENT_REFUSED, f"its guest agent refused: {refusal}")
    if code in (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_SYSTEM_ERROR):
        if any(text in message for text in _NO_ANSWER):
            return GuestAgentError(
                AgentReason.GUEST_AGENT_GARBLED, "its guest agent's answer makes no sense to libvirt"
            )
        if any(text in message for text in _PORT_CLOSED):
            return GuestAgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest agent has closed its port")
    return _translate(error)
