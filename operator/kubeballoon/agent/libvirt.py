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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar
from xml.etree import ElementTree as ET

import libvirt
import libvirt_qemu

from kubeballoon.agent.hypervisor import AgentError, GoneError, HungError, HypervisorError, Plugged, Sample
from kubeballoon.agent.launchers import Launcher, uris
from kubeballoon.core.demand import GuestStatistics

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
    """A thread that makes one VM's calls, one after the other; a daemon, so that a hung call delays no exit."""

    def __init__(self, name: str) -> None:
        """Start it."""
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._hung: asyncio.Future[Any] | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def call(self, deadline: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the thread.

        Raises:
            HungError: it did not return within ``deadline`` seconds, or an earlier call still has not.
        """
        if self._hung is not None and not self._hung.done():
            raise HungError("an earlier call to libvirt has not returned yet")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def run() -> None:
            try:
                result = function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - carried over to whoever awaits
                _settle(loop, partial(_fail, future, error))
            else:
                _settle(loop, partial(_succeed, future, result))

        self._calls.put(run)
        try:
            async with asyncio.timeout(deadline):
                return await asyncio.shield(future)
        except TimeoutError as error:
            self._hung = future
            future.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # late errors: nobody's any more
            raise HungError(f"libvirt did not answer within {deadline:.0f}s") from error

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


def _succeed(future: asyncio.Future[R], result: R) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[R], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


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

    async def connect(self, launcher: Launcher, domain: str) -> LibvirtDomain:
        """See ``Hypervisor.connect``."""
        thread = self._thread(launcher.pod, f"libvirt {domain}")
        connection, found, xml = await _reach(thread, launcher, domain)
        return LibvirtDomain(thread, connection, found, _layout(xml))

    async def open(self, launcher: Launcher, domain: str) -> LibvirtChannel:
        """See ``Hypervisor.open``."""
        thread = self._thread(f"{launcher.pod}{_CHANNEL}", f"guest {domain}")
        connection, found, xml = await _reach(thread, launcher, domain)
        return LibvirtChannel(thread, connection, found, xml)

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


class _Connected:
    """One VM, connected: calls are made in one thread, each with a deadline."""

    def __init__(self, thread: CallThread, connection: Any, domain: Any) -> None:
        """Take over a connection that was made in ``thread``."""
        self._thread = thread
        self._connection = connection
        self._domain = domain

    def close(self) -> None:
        """See ``Domain.close``."""
        self._thread.post(self._connection.close)

    async def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await self._thread.call(DEADLINE, function, *args, **kwargs)
        except libvirt.libvirtError as error:
            raise _translate(error) from error


class LibvirtDomain(_Connected):
    """See ``Domain``."""

    def __init__(self, thread: CallThread, connection: Any, domain: Any, layout: _Layout) -> None:
        """Take over a connection that was made in ``thread``."""
        super().__init__(thread, connection, domain)
        self._layout = layout

    async def sample(self) -> Sample:
        """See ``Domain.sample``."""
        state, stats, layout = await self._call(_look, self._domain, self._layout)
        self._layout = layout
        return Sample(
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
        await self._call(self._domain.setMemoryFlags, max(0, of_boot), libvirt.VIR_DOMAIN_AFFECT_LIVE)

    async def set_statistics_period(self, seconds: int) -> None:
        """See ``Domain.set_statistics_period``; without a balloon nothing reports."""
        if not self._layout.balloon:
            return
        await self._call(self._domain.setMemoryStatsPeriod, seconds, libvirt.VIR_DOMAIN_AFFECT_LIVE)


class LibvirtChannel(_Connected):
    """See ``Channel``."""

    def __init__(self, thread: CallThread, connection: Any, domain: Any, xml: ET.Element) -> None:
        """Take over a connection that was made in ``thread``."""
        super().__init__(thread, connection, domain)
        self.emulated = xml.get("type") == "qemu"

    async def command(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """See ``Channel.command``."""
        ask = partial(libvirt_qemu.qemuAgentCommand, self._domain, _command(name, arguments), AGENT_SECONDS, 0)
        try:
            answer = await self._thread.call(AGENT_DEADLINE, ask)
        except libvirt.libvirtError as error:
            raise _translate_agent(error) from error
        return json.loads(answer)["return"]

    async def plugged(self) -> Plugged:
        """See ``Channel.plugged``."""
        return await self._call(_plugged, self._domain)

    async def unplug(self, name: str) -> None:
        """See ``Channel.unplug``.

        By QEMU's own command: libvirt's call holds all other calls for the VM up until the guest has followed, or for
        five seconds. libvirt learns from QEMU's event either way.
        """
        await self._call(_monitor, self._domain, "device_del", {"id": name})

    async def plug(self, count: int) -> None:
        """See ``Channel.plug``."""
        await self._call(self._domain.setVcpusFlags, count, libvirt.VIR_DOMAIN_AFFECT_LIVE)


async def _reach(thread: CallThread, launcher: Launcher, name: str) -> tuple[Any, Any, ET.Element]:
    """A connection, the domain, and what it is made of."""
    try:
        connection, domain = await thread.call(CONNECT_DEADLINE, _connect, launcher, name)
        xml = await thread.call(DEADLINE, domain.XMLDesc)
    except libvirt.libvirtError as error:
        raise _translate(error) from error
    except OSError as error:
        raise GoneError(f"the socket of pod {launcher.pod} is gone: {error.strerror}") from error
    return connection, domain, _parse(xml)


def _connect(launcher: Launcher, name: str) -> tuple[Any, Any]:
    """Connect as to a daemon without root, then as to one with: each refuses the other's form."""
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
    return connection, connection.lookupByName(name)


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


def _plugged(domain: Any) -> Plugged:
    """The domain's processors."""
    _, _, _, _, nanoseconds = domain.info()
    counted = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return Plugged(counted, _removable(_parse(domain.XMLDesc())), nanoseconds / 1e9)


def _removable(tree: ET.Element) -> tuple[str, ...]:
    """The names of the processors that can be unplugged, as libvirt gives them, the last one first.

    From libvirt's account, not QEMU's: to ask QEMU itself marks the domain as tampered with for as long as it runs.
    """
    found = tree.findall("./vcpus/vcpu[@enabled='yes'][@hotpluggable='yes']")
    return tuple(f"vcpu{index}" for index in sorted((int(each.get("id", "0")) for each in found), reverse=True))


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
        return AgentError("GuestAgentAbsent", "its guest runs no QEMU guest agent")
    if code == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
        return AgentError("GuestAgentHung", f"its guest agent did not answer within {AGENT_SECONDS}s")
    if code == libvirt.VIR_ERR_OPERATION_TIMEOUT:
        return AgentError("GuestAgentBusy", "its guest agent is busy with another client")
    if code == libvirt.VIR_ERR_INTERNAL_ERROR and "unable to execute QEMU agent command" in message:
        return AgentError("GuestAgentRefused", f"its guest agent refused: {message.rpartition(': ')[2]}")
    return _translate(error)
