"""The hypervisor that is libvirt. The only module that talks to it.

libvirt's calls block, some of them for ever when a QEMU or a daemon hangs, and cannot be cancelled. So every VM has a
thread of its own for them: a call that does not return costs that one thread, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu

from kubeballoon.agent.hypervisor.interface import (
    AgentError,
    DomainSample,
    GoneError,
    HungError,
    HypervisorError,
    PluggedProcessors,
)
from kubeballoon.agent.hypervisor.launchers import Launcher, uris
from kubeballoon.api.reasons import AgentReason
from kubeballoon.core.memory.demand import GuestStatistics

_log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

DEADLINE = 5.0  # seconds; a call takes milliseconds
CONNECT_DEADLINE = 10.0
AGENT_SECONDS = 5  # a guest's agent has to answer; libvirt gives up then
AGENT_QUEUE = 30.0  # seconds for which libvirt lets a command wait for another client's, and then says so
AGENT_DEADLINE = AGENT_QUEUE + AGENT_SECONDS + 5.0  # seconds; after these it is libvirt itself that hangs
_KIB = 1024
_CHANNEL = "/guest"  # no pod's uid has a slash
_ABSENT = (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, libvirt.VIR_ERR_CONFIG_UNSUPPORTED)
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

libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised as well; once is enough


class CallThread:
    """A thread that makes one VM's calls, one after the other; a daemon, so that a hung call delays no exit.

    What a call returns, or has in its hands as it fails, is let go of here where nobody waits for it any more: to free
    a connection is a call to its daemon, for which the event loop must not wait.
    """

    def __init__(self, name: str) -> None:
        """Start it."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._hung: asyncio.Future[None] | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def call(self, deadline: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the thread.

        Raises:
            HungError: it did not return within ``deadline`` seconds, or an earlier call still has not.
        """
        if self._hung is not None and not self._hung.done():
            raise HungError("an earlier call to libvirt has not returned yet")
        loop = asyncio.get_running_loop()
        returned: asyncio.Future[None] = loop.create_future()
        result: deque[R] = deque()

        def run() -> None:
            try:
                result.append(function(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - carried over to whoever awaits
                traceback.clear_frames(error.__traceback__)
                _settle(loop, partial(_fail, returned, error))
            else:
                _settle(loop, partial(_succeed, returned))

        self._calls.put(run)
        try:
            async with asyncio.timeout(deadline):
                await asyncio.shield(returned)
            return result.pop()
        except TimeoutError as error:
            self._hung = returned
            raise HungError(f"libvirt did not answer within {deadline:.0f}s") from error
        finally:
            if not returned.done():
                returned.add_done_callback(_overlook)
            if not returned.done() or result:
                self._calls.put(result.clear)

    def post(self, function: Callable[[], object]) -> None:
        """Have a function called in its turn, and do not wait for it."""
        self._calls.put(partial(_quietly, function))

    def end(self) -> None:
        """End the thread when its calls are through."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _settle(loop: asyncio.AbstractEventLoop, settle: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        _log.debug("a call returned after the end of the event loop")


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _overlook(future: asyncio.Future[None]) -> None:
    """An error that comes late is nobody's any more."""
    _ = future.cancelled() or future.exception()


def _quietly(function: Callable[[], object]) -> None:
    try:
        function()
    except libvirt.libvirtError as error:
        _log.debug("%s", error)


class LibvirtHypervisor:
    """Connects to the daemons of launcher pods, with one thread a pod however often it has to."""

    def __init__(self) -> None:
        """Know no pod yet."""
        self._threads: dict[str, CallThread] = {}

    async def connect(self, launcher: Launcher, domain: str) -> LibvirtMemoryControl:
        """See ``Hypervisor.connect``."""
        thread = self._thread(launcher.pod, f"libvirt {domain}")
        handle, xml = await _reach(thread, launcher, domain)
        return LibvirtMemoryControl(thread, handle, _layout(xml))

    async def open(self, launcher: Launcher, domain: str) -> LibvirtGuestControl:
        """See ``Hypervisor.open``."""
        thread = self._thread(f"{launcher.pod}{_CHANNEL}", f"guest {domain}")
        handle, xml = await _reach(thread, launcher, domain)
        return LibvirtGuestControl(thread, handle, xml)

    def forget(self, pod: str) -> None:
        """See ``Hypervisor.forget``."""
        for key in (pod, f"{pod}{_CHANNEL}"):
            thread = self._threads.pop(key, None)
            if thread is not None:
                thread.end()

    def _thread(self, key: str, name: str) -> CallThread:
        thread = self._threads.get(key)
        if thread is None:
            thread = self._threads[key] = CallThread(name)
        return thread


class DomainHandle:
    """libvirt's own objects for one VM: used, and let go of, in the thread of its calls alone."""

    def __init__(self, connection: Any, domain: Any) -> None:
        """Take over what was opened in that thread."""
        self._connection = connection
        self._domain = domain

    def use(self, function: Callable[[Any], R]) -> R:
        """Call a function with the domain."""
        return function(self._domain)

    def release(self) -> None:
        """Close the connection: it stays open for as long as there is a domain of it."""
        connection = self._connection
        self._connection = self._domain = None
        connection.close()


class _Connected:
    """One VM, connected: calls are made in one thread, each with a deadline."""

    def __init__(self, thread: CallThread, handle: DomainHandle) -> None:
        """Take over what was opened in ``thread``."""
        self._thread = thread
        self._handle = handle

    def close(self) -> None:
        """See ``Domain.close``."""
        self._thread.post(self._handle.release)

    async def _call(self, function: Callable[[Any], R]) -> R:
        """Call a function with the domain, in its thread."""
        try:
            return await self._thread.call(DEADLINE, self._handle.use, function)
        except libvirt.libvirtError as error:
            raise _translate(error) from error


class LibvirtMemoryControl(_Connected):
    """See ``Domain``."""

    def __init__(self, thread: CallThread, handle: DomainHandle, layout: _Layout) -> None:
        """Take over what was opened in ``thread``."""
        super().__init__(thread, handle)
        self._layout = layout

    async def sample(self) -> DomainSample:
        """See ``Domain.sample``."""
        state, stats, layout = await self._call(partial(_look, layout=self._layout))
        self._layout = layout
        return DomainSample(
            size=(layout.boot + layout.plugged) * _KIB,
            resident=stats.get("rss", 0) * _KIB,
            running=state == libvirt.VIR_DOMAIN_RUNNING,
            balloon=layout.balloon,
            statistics=_statistics(stats, layout),
        )

    async def set_memory(self, size: int) -> None:
        """See ``Domain.set_memory``; libvirt counts in KiB, so up to 1023 bytes are left with the guest.

        The balloon takes only from what the guest was booted with, so what is plugged in beyond is not asked for.
        """
        of_boot = min(self._layout.boot, -(-size // _KIB) - self._layout.plugged)
        await self._call(lambda domain: domain.setMemoryFlags(max(0, of_boot), libvirt.VIR_DOMAIN_AFFECT_LIVE))

    async def set_statistics_period(self, seconds: int) -> None:
        """See ``Domain.set_statistics_period``; without a balloon nothing reports."""
        if not self._layout.balloon:
            return
        await self._call(lambda domain: domain.setMemoryStatsPeriod(seconds, libvirt.VIR_DOMAIN_AFFECT_LIVE))


class LibvirtGuestControl(_Connected):
    """See ``Channel``."""

    def __init__(self, thread: CallThread, handle: DomainHandle, xml: ET.Element) -> None:
        """Take over what was opened in ``thread``."""
        super().__init__(thread, handle)
        self.emulated = xml.get("type") == "qemu"

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """See ``Channel.command``."""
        ask = partial(_ask_agent, command=_command(name, arguments))
        try:
            answer = await self._thread.call(AGENT_DEADLINE, self._handle.use, ask)
        except libvirt.libvirtError as error:
            raise _translate_agent(error) from error
        return json.loads(answer)["return"]

    async def plugged(self) -> PluggedProcessors:
        """See ``Channel.plugged``."""
        return await self._call(_plugged)

    async def unplug(self, name: str) -> None:
        """See ``Channel.unplug``.

        By QEMU's own command: libvirt's call holds all other calls for the VM up until the guest has followed, or for
        five seconds. libvirt learns from QEMU's event either way.
        """
        await self._call(partial(_monitor, name="device_del", arguments={"id": name}))

    async def plug(self, count: int) -> None:
        """See ``Channel.plug``."""
        await self._call(lambda domain: domain.setVcpusFlags(count, libvirt.VIR_DOMAIN_AFFECT_LIVE))


async def _reach(thread: CallThread, launcher: Launcher, name: str) -> tuple[DomainHandle, ET.Element]:
    """The VM, and what it is made of."""
    try:
        handle, xml = await thread.call(CONNECT_DEADLINE, _connect, launcher, name)
    except libvirt.libvirtError as error:
        raise _translate(error) from error
    except OSError as error:
        raise GoneError(f"the socket of pod {launcher.pod} is gone: {error.strerror}") from error
    return handle, _parse(xml)


def _connect(launcher: Launcher, name: str) -> tuple[DomainHandle, str]:
    """The VM and its XML: connect as to a daemon without root, then as to one with: each refuses the other's form."""
    directory = os.open(launcher.socket.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        session, system = uris(launcher, directory)
        try:
            connection = libvirt.open(session)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_INTERNAL_ERROR:
                raise
            connection = libvirt.open(system)
    finally:
        os.close(directory)
    domain = connection.lookupByName(name)
    return DomainHandle(connection, domain), domain.XMLDesc()


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a domain's memory is made of, KiB.

    Attributes:
        most: what libvirt calls its memory: boot memory and virtio-mem devices, however little of those is plugged in.
        boot: what the guest was booted with.
        plugged: what the guest has of its virtio-mem devices now.
        resizable: whether it has any.
    """

    balloon: bool
    most: int
    boot: int
    plugged: int
    resizable: bool


def _parse(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314 - libvirt's own XML


def _layout(tree: ET.Element) -> _Layout:
    balloon = tree.find("./devices/memballoon")
    devices = tree.findall("./devices/memory[@model='virtio-mem']")
    most = int(tree.findtext("./memory", "0"))
    return _Layout(
        balloon=balloon is not None and balloon.get("model") != "none",
        most=most,
        boot=most - sum(int(device.findtext("./target/size", "0")) for device in devices),
        plugged=sum(int(device.findtext("./target/current", "0")) for device in devices),
        resizable=bool(devices),
    )


def _look(domain: Any, layout: _Layout) -> tuple[int, dict[str, int], _Layout]:
    """The domain's state and statistics, and its layout, read anew where it can have changed."""
    state, most, *_ = domain.info()
    if layout.resizable or most != layout.most:
        layout = _layout(_parse(domain.XMLDesc()))
    return state, domain.memoryStats(), layout


def _plugged(domain: Any) -> PluggedProcessors:
    """The domain's processors."""
    _, _, _, _, nanoseconds = domain.info()
    counted = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return PluggedProcessors(counted, _removable(_parse(domain.XMLDesc())), nanoseconds / 1e9)


def _removable(tree: ET.Element) -> tuple[str, ...]:
    """The names of the processors that can be unplugged, as libvirt gives them, the last one first.

    From libvirt's account, not QEMU's: to ask QEMU itself marks the domain as tampered with for as long as it runs.
    """
    found = tree.findall("./vcpus/vcpu[@enabled='yes'][@hotpluggable='yes']")
    return tuple(f"vcpu{index}" for index in sorted((int(each.get("id", "0")) for each in found), reverse=True))


def _ask_agent(domain: Any, command: str) -> str:
    """What the guest's agent answers to a command, both as JSON."""
    answer: str = libvirt_qemu.qemuAgentCommand(domain, command, AGENT_SECONDS, 0)
    return answer


def _monitor(domain: Any, name: str, arguments: Mapping[str, Any]) -> None:
    """Have QEMU carry out a command of its own."""
    answer: dict[str, Any] = json.loads(libvirt_qemu.qemuMonitorCommand(domain, _command(name, arguments), 0))
    if "error" in answer:
        raise HypervisorError(f"QEMU: {answer['error'].get('desc', name)}")


def _command(name: str, arguments: Mapping[str, Any]) -> str:
    """A command as QEMU and its guest's agent take it."""
    return json.dumps({"execute": name, "arguments": dict(arguments)} if arguments else {"execute": name})


def _statistics(stats: dict[str, int], layout: _Layout) -> GuestStatistics:
    """The memory statistics libvirt gives, in KiB, as the core takes them; a guest without balloon holds all it has."""

    def size(key: str) -> int | None:
        return stats[key] * _KIB if key in stats else None

    return GuestStatistics(
        actual=(stats.get("actual", layout.boot) + layout.plugged) * _KIB,
        updated=float(stats.get("last_update", 0)),
        usable=size("usable"),
        unused=size("unused"),
        available=size("available"),
        disk_caches=size("disk_caches"),
        swap_in=size("swap_in"),
        swap_out=size("swap_out"),
        major_faults=stats.get("major_fault"),
    )


def _translate(error: libvirt.libvirtError) -> HypervisorError:
    message = " ".join(str(error).split())
    kind = GoneError if error.get_error_code() in _GONE else HypervisorError
    return kind(f"libvirt: {message}")


def _translate_agent(error: libvirt.libvirtError) -> HypervisorError:
    """What a failed command of the guest's agent means; libvirt has few codes for it."""
    code, message = error.get_error_code(), " ".join(str(error).split())
    if code in _ABSENT or (code == libvirt.VIR_ERR_AGENT_UNRESPONSIVE and "not connected" in message):
        return AgentError(AgentReason.GUEST_AGENT_ABSENT, "its guest runs no QEMU guest agent")
    if code == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
        return AgentError(AgentReason.GUEST_AGENT_HUNG, f"its guest agent did not answer within {AGENT_SECONDS}s")
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return AgentError(AgentReason.GUEST_AGENT_BUSY, "its guest agent is busy with another client")
    if code == libvirt.VIR_ERR_INTERNAL_ERROR and "unable to execute QEMU agent command" in message:
        return AgentError(AgentReason.GUEST_AGENT_REFUSED, f"its guest agent refused: {message.rpartition(': ')[2]}")
    return _translate(error)
