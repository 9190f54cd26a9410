"""What guests, launcher pods and tenants write is taken in as one printable line of a bounded length."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import libvirt
import libvirt_qemu
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.testbed.lab import GuestSpec, vmi_object
from kubeballoon.agent.foreign_text import LONGEST_LINE, one_line
from kubeballoon.agent.hypervisor.errors import HypervisorError
from kubeballoon.agent.hypervisor.libvirt import _run_qemu_command, _translate, _translate_agent
from kubeballoon.agent.vm.vmi import read_instance
from tests.agent.test_libvirt import FakeError

TITLE = "\x1b]0;mine\x07"
TURNED = "\u202e"
HIDDEN = f"{TITLE}a\r\n {TURNED}b\x9b2J\ud800"
SHOWN = "]0;minea b2J"


@given(st.text(st.characters()))
def test_a_foreign_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= LONGEST_LINE


def test_what_can_be_read_of_a_foreign_text_is_kept() -> None:
    assert one_line("no such file:\n  /etc/\u00fcmlaut") == "no such file: /etc/\u00fcmlaut"
    assert one_line(HIDDEN) == SHOWN
    assert one_line("x" * 1000, 10) == "x" * 10


@pytest.mark.parametrize(
    ("translate", "code", "before", "after"),
    [
        (_translate, libvirt.VIR_ERR_NO_DOMAIN, "", "libvirt: "),
        (
            partial(_translate_agent, seconds=5),
            113,
            "unable to execute QEMU agent command 'x': ",
            "its guest agent refused: ",
        ),
    ],
    ids=["libvirt", "guest agent"],
)
def test_an_error_from_a_launcher_or_a_guest_steers_no_terminal(
    translate: Callable[[FakeError], HypervisorError], code: int, before: str, after: str
) -> None:
    assert str(translate(FakeError(code, before + HIDDEN))) == after + SHOWN
    assert len(str(translate(FakeError(code, before + "x" * 4_000_000)))) < 2 * LONGEST_LINE


def test_an_error_from_qemu_steers_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", lambda *_: '{"error": {"desc": "a\\u001b[2Jb"}}')
    with pytest.raises(HypervisorError, match=r"^QEMU: a\[2Jb$"):
        _run_qemu_command(None, "device_del", {})


@pytest.mark.parametrize("answer", ["[" * 60000, "x" * 100000, '{"error": 5}'], ids=["deep", "long", "no error"])
def test_an_answer_of_qemu_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", lambda *_: answer)
    with pytest.raises(HypervisorError, match=r"^QEMU's answer to device_del makes no sense$"):
        _run_qemu_command(None, "device_del", {})


def test_annotations_for_people_steer_no_terminal() -> None:
    keys = ("policy", "reason", "processor-policy", "processor-reason", "memory-target")
    annotations = {f"kubeballoon.io/{key}": HIDDEN for key in keys}
    made = vmi_object(GuestSpec(name="vm"), "pod", "here", annotations=annotations)
    made["metadata"]["uid"] = "vm"
    instance = read_instance(made, "here")
    assert instance is not None
    assert instance.policy == instance.explanation == SHOWN
    assert instance.processors.policy == instance.processors.explanation == SHOWN
    assert instance.fault is not None
    assert instance.fault.isprintable()
