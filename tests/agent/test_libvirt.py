"""What failures of a guest's agent mean, by the few words libvirt has for them; and calls that do not return."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import libvirt
import libvirt_qemu
import pytest

from kubeballoon.agent import libvirt as module
from kubeballoon.agent.hypervisor import AgentError, GoneError, HungError
from kubeballoon.agent.launchers import Launcher
from kubeballoon.agent.libvirt import (
    CallThread,
    LibvirtChannel,
    LibvirtHypervisor,
    _parse,
    _removable,
    _translate_agent,
)


class FakeError(libvirt.libvirtError):  # type: ignore[misc]  # libvirt ships no types
    """An error as libvirt's own, without a connection that it is of."""

    def __init__(self, code: int, message: str) -> None:
        """Have this code and this text."""
        Exception.__init__(self, message)
        self.code = code

    def get_error_code(self) -> int:
        """The code."""
        return self.code


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (86, "Guest agent is not responding: QEMU guest agent is not connected", "GuestAgentAbsent"),
        (74, "argument unsupported: QEMU guest agent is not configured", "GuestAgentAbsent"),
        (86, "Guest agent is not responding: Guest agent not available for now", "GuestAgentHung"),
        (68, "Timed out during operation: cannot acquire state change lock", "GuestAgentBusy"),
        (
            1,
            "unable to execute QEMU agent command 'guest-exec': The command guest-exec has been disabled",
            "GuestAgentRefused",
        ),
    ],
)
def test_a_failure_of_the_agent_has_a_reason_and_ends_no_connection(code: int, message: str, reason: str) -> None:
    error = _translate_agent(FakeError(code, message))
    assert isinstance(error, AgentError)
    assert error.reason == reason


def test_what_is_no_failure_of_the_agent_is_none() -> None:
    assert isinstance(_translate_agent(FakeError(libvirt.VIR_ERR_NO_DOMAIN, "no domain")), GoneError)


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
    ids=["none told", "some"],
)
def test_what_can_be_unplugged_is_told_by_the_domain_s_xml(vcpus: str, names: tuple[str, ...]) -> None:
    assert _removable(_parse(f"<domain type='kvm'>{vcpus}</domain>")) == names


async def test_a_command_waits_out_another_client_s_and_libvirt_itself_hangs_after_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert module.AGENT_DEADLINE > module.AGENT_QUEUE + module.AGENT_SECONDS
    monkeypatch.setattr(module, "AGENT_DEADLINE", 0.05)
    over = threading.Event()
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", lambda *_: over.wait())
    thread = CallThread("agent")
    try:
        with pytest.raises(HungError, match="libvirt did not answer"):
            await LibvirtChannel(thread, None, None, _parse("<domain type='kvm'/>")).command("guest-ping", {})
    finally:
        over.set()
        thread.end()


class Daemon(NamedTuple):
    """A daemon that takes a connection and says nothing until it is ``over``."""

    launcher: Launcher
    over: threading.Event


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(Launcher("pod", tmp_path / "virtqemud-sock"), threading.Event())

    def connect(_: str) -> None:
        daemon.over.wait()
        raise FakeError(libvirt.VIR_ERR_SYSTEM_ERROR, "the connection broke")

    monkeypatch.setattr(libvirt, "open", connect)
    monkeypatch.setattr(module, "CONNECT_DEADLINE", 0.05)
    yield daemon
    daemon.over.set()


def threads(of: str) -> int:
    return sum(thread.name.endswith(of) for thread in threading.enumerate())


async def test_a_vm_that_hangs_costs_two_threads_however_often_it_is_tried(hung: Daemon) -> None:
    hypervisor = LibvirtHypervisor()
    for _ in range(20):
        with pytest.raises(HungError):
            await hypervisor.connect(hung.launcher, "default_stuck")
        with pytest.raises(HungError):
            await hypervisor.open(hung.launcher, "default_stuck")
    assert threads("default_stuck") == 2


async def test_the_thread_of_a_vm_that_is_gone_ends_when_its_call_returns(hung: Daemon) -> None:
    hypervisor = LibvirtHypervisor()
    with pytest.raises(HungError):
        await hypervisor.connect(hung.launcher, "default_gone")
    hypervisor.forget(hung.launcher.pod)
    hung.over.set()
    async with asyncio.timeout(5):
        while threads("default_gone"):  # noqa: ASYNC110 - a thread's end is no event
            await asyncio.sleep(0.01)
