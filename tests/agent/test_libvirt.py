"""What libvirt's few codes for failures of a guest agent mean, and what becomes of calls that do not return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import libvirt
import libvirt_qemu
import pytest

from hack.testbed.lab import LauncherPod
from hack.testbed.lab.fakes import FakeGuestControl
from hack.testbed.lab.unix_sockets import listen
from kubeballoon.agent.hypervisor import call_queue
from kubeballoon.agent.hypervisor.call_queue import CallQueue
from kubeballoon.agent.hypervisor.domain_xml import DomainXml, read_domain
from kubeballoon.agent.hypervisor.errors import GoneError, GuestAgentError, HungError, HypervisorError
from kubeballoon.agent.hypervisor.launcher_sockets import Launcher, require_launcher
from kubeballoon.agent.hypervisor.libvirt import (
    DomainHandle,
    LibvirtGuestControl,
    LibvirtHypervisor,
    LibvirtMemoryControl,
    _translate_agent,
)
from kubeballoon.agent.wait_times import DEFAULT_TIMING
from tests.support.waiting import soon

TIMING = DEFAULT_TIMING.libvirt
IMPATIENT = replace(TIMING, connect=0.05)


class FakeError(libvirt.libvirtError):  # type: ignore[misc]  # libvirt ships no types
    """A FakeError is an error of libvirt's that needs no connection."""

    def __init__(self, code: int, message: str) -> None:
        """Have this code and this text."""
        Exception.__init__(self, message)
        self.code = code

    def get_error_code(self) -> int:
        """Return the code."""
        return self.code


FAILED = "guest agent command failed: unable to execute QEMU agent command"  # as libvirt 11.3 says it


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (86, "Guest agent is not responding: QEMU guest agent is not connected", "GuestAgentAbsent"),
        (74, "argument unsupported: QEMU guest agent is not configured", "GuestAgentAbsent"),
        (86, "Guest agent is not responding: Guest agent not available for now", "GuestAgentHung"),
        (1, "internal error: cannot parse json [[[[: parse error", "GuestAgentGarbled"),
        (1, "internal error: malformed return value", "GuestAgentGarbled"),
        (1, "internal error: Parsed JSON reply '[]' isn't an object", "GuestAgentGarbled"),
        (1, "internal error: Unknown JSON reply '{}'", "GuestAgentGarbled"),
        (1, "internal error: failed to convert virJSONValue to yajl data", "GuestAgentGarbled"),
        (
            38,
            "No complete agent response found in 10485760 bytes: Numerical result out of range",
            "GuestAgentGarbled",
        ),
        (1, "internal error: End of file from agent socket", "GuestAgentAbsent"),
        (68, "Timed out during operation: cannot acquire state change lock", "GuestAgentBusy"),
        (
            1,
            "unable to execute QEMU agent command 'guest-exec': The command guest-exec has been disabled",
            "GuestAgentRefused",
        ),
        (
            1,
            "internal error: unable to execute QEMU agent command 'guest-file-open': failed to open file",
            "GuestAgentRefused",
        ),
        (
            86,
            "Guest agent is not responding: guest agent didn't respond to command within '5' seconds",
            "GuestAgentHung",
        ),
        (97, "guest agent replied with wrong id to guest-sync command", "GuestAgentHung"),
        # libvirt from 11.2 on, as 11.3 was seen to answer
        (
            86,
            "Guest agent is not responding: guest agent didn't respond to synchronization within '5' seconds",
            "GuestAgentHung",
        ),
        (
            113,
            f"{FAILED} 'guest-file-open': failed to open file '/run/kubeballoon/status' (mode: 'r'): No such file",
            "GuestAgentRefused",
        ),
        (113, f"{FAILED} 'guest-nothing': The command guest-nothing has not been found", "GuestAgentRefused"),
        (
            113,
            f"{FAILED} 'guest-exec': Failed to execute child process “/bin/nothing” (No such file)",
            "GuestAgentRefused",
        ),
        (
            113,
            "guest agent command failed: unable to execute QEMU agent command 'guest-exec': No such file or directory",
            "GuestAgentRefused",
        ),
        (
            112,
            "guest agent command timed out: guest agent didn't respond to command within '5' seconds",
            "GuestAgentHung",
        ),
    ],
)
def test_a_failure_of_the_agent_has_a_reason_and_ends_no_connection(code: int, message: str, reason: str) -> None:
    error = _translate_agent(FakeError(code, message), 5)
    assert isinstance(error, GuestAgentError)
    assert error.reason == reason


def test_another_failure_than_the_guest_agent_s_is_not_one_of_the_guest_agent() -> None:
    assert isinstance(_translate_agent(FakeError(libvirt.VIR_ERR_NO_DOMAIN, "no domain"), 5), GoneError)


ENABLED = {1: "yes", 10: "yes", 11: "no"}


@pytest.mark.parametrize(
    ("vcpus", "names"),
    [
        ("", ()),
        (
            "<vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/>"
            + "".join(f"<vcpu id='{index}' enabled='{on}' hotpluggable='yes'/>" for index, on in ENABLED.items())
            + "</vcpus>",
            ("vcpu10", "vcpu1"),
        ),
    ],
    ids=["none named", "some"],
)
def test_the_domain_s_xml_says_which_processors_can_be_unplugged(vcpus: str, names: tuple[str, ...]) -> None:
    assert read_domain(f"<domain type='kvm'>{vcpus}</domain>").removable == names


async def test_a_command_waits_out_another_client_s_and_libvirt_itself_hangs_after_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert TIMING.agent_command > TIMING.agent_queue + TIMING.agent_answer
    margin = TIMING.agent_command - TIMING.agent_queue
    timing = replace(TIMING, agent_queue=0.05 - margin)  # so that a command has 50 ms
    over = threading.Event()
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", lambda *_: over.wait())
    calls = CallQueue("agent")
    try:
        with pytest.raises(HungError, match="libvirt did not answer"):
            await LibvirtGuestControl(calls, DomainHandle(None, None), DomainXml(), timing).command(
                "guest-ping", {}, str
            )
    finally:
        over.set()
        calls.end()


async def test_an_answer_of_a_guest_is_read_in_a_thread_for_its_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", lambda *_: "an answer")
    calls = CallQueue("the VM's own")
    control = LibvirtGuestControl(calls, DomainHandle(None, None), DomainXml(), TIMING)
    read = await control.command("guest-ping", {}, lambda answer: (answer, threading.current_thread().name))
    calls.end()
    assert read == ("an answer", "the VM's own")


class SizedDomain:
    """A SizedDomain is a VM of 2 GiB whose balloon leaves it 1 GiB, in the KiB that libvirt counts in."""

    def __init__(self) -> None:
        """Have been asked for nothing."""
        self.requested = 0

    def info(self) -> list[int]:
        """Say that the VM runs, and how much memory it has."""
        return [libvirt.VIR_DOMAIN_RUNNING, 2 << 20]

    def memoryStats(self) -> dict[str, int]:  # noqa: N802 - libvirt's name
        """Give a figure of each kind; the last is a count, and the date is in seconds."""
        sizes = ("actual", "unused", "usable", "available", "disk_caches", "swap_in", "swap_out")
        return {**{name: (number + 1) << 20 for number, name in enumerate(sizes)}, "major_fault": 3, "last_update": 9}

    def setMemoryFlags(self, size: int, _: int) -> None:  # noqa: N802 - libvirt's name
        """Take a request."""
        self.requested = size


async def test_libvirt_s_kib_are_bytes_for_everybody_else_and_a_request_is_in_kib_again() -> None:
    domain, calls = SizedDomain(), CallQueue("a VM's")
    xml, process = DomainXml(balloon=True, most=2 << 20, boot=2 << 20), FakeGuestControl(process_bytes=77)
    control = LibvirtMemoryControl(calls, DomainHandle(None, domain), xml, process, TIMING)
    sample = await control.sample()
    await control.set_memory((1 << 30) + 1)
    calls.end()
    assert (sample.size, sample.plugged, sample.resident) == (2 << 30, 0, 77)
    statistics = sample.statistics
    found = [statistics.actual, statistics.unused, statistics.usable, statistics.available]
    found += [statistics.disk_caches, statistics.swap_in, statistics.swap_out]
    assert found == [each << 30 for each in range(1, 8)]
    assert (statistics.major_faults, statistics.updated) == (3, 9.0)
    assert domain.requested == (1 << 20) + 1, "it is rounded up: the guest keeps what it was promised"


class Daemon(NamedTuple):
    """A daemon that accepts connections and does not answer until ``over`` is set."""

    launcher: Launcher
    over: threading.Event


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(Launcher("pod", tmp_path, "virtqemud-sock"), threading.Event())

    def connect(_: str) -> None:
        daemon.over.wait()
        raise FakeError(libvirt.VIR_ERR_SYSTEM_ERROR, "the connection broke")

    monkeypatch.setattr(libvirt, "open", connect)
    with listen(tmp_path / "virtqemud-sock"):
        yield daemon
        daemon.over.set()


def threads(of: str) -> int:
    return sum(thread.name.endswith(of) for thread in threading.enumerate())


async def test_a_vm_that_hangs_costs_two_threads_however_often_it_is_tried(hung: Daemon) -> None:
    hypervisor = LibvirtHypervisor(IMPATIENT)
    for _ in range(20):
        with pytest.raises(HungError):
            await hypervisor.connect_memory(hung.launcher, "default_stuck")
        with pytest.raises(HungError):
            await hypervisor.connect_guest(hung.launcher, "default_stuck")
    assert threads("default_stuck") == 2


async def test_the_thread_of_a_vm_that_is_gone_ends_when_its_call_returns(hung: Daemon) -> None:
    hypervisor = LibvirtHypervisor(IMPATIENT)
    with pytest.raises(HungError):
        await hypervisor.connect_memory(hung.launcher, "default_gone")
    hypervisor.forget(hung.launcher.pod)
    hung.over.set()
    async with asyncio.timeout(5):
        while threads("default_gone"):  # noqa: ASYNC110 - a thread's end is no event
            await asyncio.sleep(0.01)


async def test_vms_share_threads_but_one_that_hangs_holds_up_no_other() -> None:
    may_return = threading.Event()
    hung, others = CallQueue("hung"), [CallQueue(f"vm-{number}") for number in range(20)]
    with pytest.raises(HungError):
        await hung.call(0.01, may_return.wait)
    used = {await calls.call(5, threading.get_ident) for calls in others}
    assert len(used) < len(others)
    with pytest.raises(HungError, match="has not returned yet"):
        await hung.call(5, threading.get_ident)
    may_return.set()
    async with asyncio.timeout(5):
        while threads("hung"):  # noqa: ASYNC110 - a thread's end is no event
            await asyncio.sleep(0.01)
    assert await hung.call(5, lambda: threading.current_thread().name) == "hung"


async def test_calls_of_one_vm_are_made_one_after_the_other_in_their_order() -> None:
    calls, made = CallQueue("vm"), list[int]()
    for number in range(1000):
        calls.post(partial(made.append, number))
    await calls.call(5, str)
    assert made == list(range(1000))


async def test_a_call_that_fails_with_nobody_waiting_ends_no_other() -> None:
    calls = CallQueue("vm")
    calls.post(lambda: 1 // 0)
    assert await calls.call(5, str) == ""


async def test_threads_that_are_not_needed_any_more_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_queue, "_IDLE_SECONDS", 0.01)
    together = threading.Barrier(5)
    idents = await asyncio.gather(*(CallQueue(f"vm-{number}").call(5, _meet, together) for number in range(5)))
    assert len(set(idents)) == len(idents), "each call had a thread"
    await soon(lambda: not set(idents) & {thread.ident for thread in threading.enumerate()}, 5)


def _meet(others: threading.Barrier) -> int | None:
    others.wait()
    return threading.current_thread().ident


@dataclass
class Freed:
    """Freed tells in which threads libvirt's objects were freed, and decides how the calls for them end.

    Attributes:
        by: the names of the threads, in order.
        found: is set once a domain was looked up.
        may_return: cleared, looking a domain up does not return before it is set.
        failure: what reading a domain's XML raises; None if that succeeds.
    """

    by: list[str] = field(default_factory=list)
    found: threading.Event = field(default_factory=threading.Event)
    may_return: threading.Event = field(default_factory=threading.Event)
    failure: FakeError | None = None

    def __post_init__(self) -> None:
        """Let all calls return, unless the test does not."""
        self.may_return.set()

    async def both(self) -> set[str]:
        """Wait until connection and domain are freed, and return in which threads."""
        await soon(lambda: len(self.by) >= 2, 5)
        return set(self.by)


class FakeDomain:
    """A domain that notes the thread in which it is freed."""

    def __init__(self, freed: Freed) -> None:
        """Note it in ``freed``."""
        self._freed = freed

    def __del__(self) -> None:
        """Note the thread."""
        self._freed.by.append(threading.current_thread().name)

    def XMLDesc(self) -> str:  # noqa: N802 - libvirt's name
        """Return the domain's XML, or fail."""
        if self._freed.failure is not None:
            raise self._freed.failure
        return "<domain type='kvm'><memory>1024</memory></domain>"

    def info(self) -> list[int]:
        """Fail: the VM is gone."""
        raise FakeError(libvirt.VIR_ERR_NO_DOMAIN, "no domain")


class FakeConnection(FakeDomain):
    """A connection that finds such a domain, and notes the thread in which it is freed itself."""

    def lookupByName(self, _: str) -> FakeDomain:  # noqa: N802 - libvirt's name
        """Find a domain, once that may return."""
        self._freed.found.set()
        self._freed.may_return.wait()
        return FakeDomain(self._freed)

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Freed]:
    freed = Freed()
    monkeypatch.setattr(libvirt, "open", lambda _: FakeConnection(freed))
    with listen(tmp_path / "virtqemud-sock"):
        yield freed
        freed.may_return.set()


def launcher(tmp_path: Path) -> Launcher:
    return Launcher("pod", tmp_path, "virtqemud-sock")


async def test_a_closed_connection_is_freed_in_its_own_thread_whatever_still_refers_to_it(
    freed: Freed, tmp_path: Path
) -> None:
    domain = await LibvirtHypervisor().connect_memory(launcher(tmp_path), "vm")
    failures: list[HypervisorError] = []
    try:
        await domain.sample()
    except GoneError as error:
        failures.append(error)  # with its frames, as a logger or a debugger may keep it
    domain.close()
    assert await freed.both() == {"libvirt vm"}
    assert failures


async def test_a_connection_without_a_domain_is_freed_in_its_own_thread(freed: Freed, tmp_path: Path) -> None:
    freed.failure = FakeError(libvirt.VIR_ERR_NO_DOMAIN, "no domain")
    with pytest.raises(GoneError) as raised:
        await LibvirtHypervisor().connect_memory(launcher(tmp_path), "vm")
    assert await freed.both() == {"libvirt vm"}
    assert raised.value.__cause__ is freed.failure


async def test_what_an_error_came_from_refers_to_nothing_either(freed: Freed) -> None:
    def look(connection: FakeConnection, domain: FakeDomain) -> None:
        raise FakeError(libvirt.VIR_ERR_NO_DOMAIN, f"no {domain} at {connection}")

    def fail() -> None:
        try:
            look(FakeConnection(freed), FakeDomain(freed))
        except FakeError as error:
            raise GoneError("it is gone") from error

    calls = CallQueue("its own")
    with pytest.raises(GoneError) as raised:
        await calls.call(5, fail)
    assert await freed.both() == {"its own"}
    assert raised.value.__cause__ is not None
    calls.end()


@pytest.mark.parametrize("given_up", ["in time", "by its worker"])
async def test_a_result_that_comes_late_is_freed_in_its_own_thread(freed: Freed, tmp_path: Path, given_up: str) -> None:
    freed.may_return.clear()
    hypervisor = LibvirtHypervisor(IMPATIENT if given_up == "in time" else TIMING)
    if given_up == "in time":
        with pytest.raises(HungError):
            await hypervisor.connect_memory(launcher(tmp_path), "vm")
    else:
        connecting = asyncio.create_task(hypervisor.connect_memory(launcher(tmp_path), "vm"))
        await asyncio.to_thread(freed.found.wait)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
    freed.may_return.set()
    assert await freed.both() == {"libvirt vm"}


async def test_a_result_that_comes_just_as_its_caller_gives_up_is_freed_in_the_thread(freed: Freed) -> None:
    calls = CallQueue("its own")
    calling = asyncio.create_task(calls.call(5, lambda: (FakeConnection(freed), FakeDomain(freed))))
    await asyncio.sleep(0)  # the call is on its way
    returned = threading.Event()
    calls.post(returned.set)
    returned.wait()  # and has returned, before the loop could hear of it
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert await freed.both() == {"its own"}
    calls.end()


@contextmanager
def hung_for_ten_seconds(pod: LauncherPod) -> Iterator[threading.Event]:
    """Let the daemon hang until the event loop goes on, or for ten seconds: then the event that is yielded is set."""
    rescued = threading.Event()
    with pod.hung_daemon() as wake:

        def come() -> None:
            rescued.set()
            wake()

        rescue = threading.Timer(10, come)
        rescue.start()
        try:
            yield rescued
        finally:
            rescue.cancel()


@pytest.mark.guest
async def test_a_daemon_that_hangs_again_and_again_never_holds_up_the_loop(
    lab_guest: LauncherPod,
) -> None:
    of, name = require_launcher(lab_guest.pods, [lab_guest.uid]), lab_guest.spec.domain_name
    hypervisor = LibvirtHypervisor(replace(TIMING, connect=1.0, call=1.0))
    with hung_for_ten_seconds(lab_guest) as rescued:
        with pytest.raises(HungError):
            await hypervisor.connect_memory(of, name)
        assert not rescued.is_set()
    domain = await connected(hypervisor, of, name)  # the late connection has come, and is nobody's
    with hung_for_ten_seconds(lab_guest) as rescued:
        with pytest.raises(HungError):
            await domain.sample()
        domain.close()
        del domain
        await asyncio.sleep(0)
        assert not rescued.is_set()
    again = await connected(hypervisor, of, name)
    assert (await again.sample()).running
    again.close()
    hypervisor.forget(of.pod)


async def connected(hypervisor: LibvirtHypervisor, of: Launcher, name: str) -> Any:
    """Connect to the VM once the late calls of its thread have returned."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await hypervisor.connect_memory(of, name)
            except HungError:
                await asyncio.sleep(0.05)
