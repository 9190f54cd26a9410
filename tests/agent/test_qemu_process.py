"""What the agent reads of a VM's process, from files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubeballoon.agent.hypervisor import qemu_process
from kubeballoon.agent.hypervisor.qemu_process import QemuProcess

PAGE = os.sysconf("SC_PAGE_SIZE")


def process(proc: Path, pid: int, *command: str, started: int = 500, pages: int = 10) -> None:
    directory = proc / str(pid)
    directory.mkdir(exist_ok=True)
    (directory / "cmdline").write_bytes(b"\0".join(argument.encode() for argument in command))
    (directory / "comm").write_text(f"{command[0]}\n")
    (directory / "stat").write_text(f"{pid} (a (b) c) S {' '.join(['1'] * 18)} {started} 0 0\n")
    (directory / "statm").write_text(f"{pages * 4} {pages} 1 1 0 1 0\n")


def test_a_vm_s_process_is_found_by_its_name_and_its_memory_is_read(tmp_path: Path) -> None:
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on", pages=3)
    process(tmp_path, 8, "qemu", "-name", "guest=shop_cart2,debug-threads=on", pages=5)
    assert (QemuProcess("shop_cart", proc=tmp_path).pid, QemuProcess("shop_cart", proc=tmp_path).resident()) == (
        7,
        3 * PAGE,
    )
    assert QemuProcess("shop_cart2", proc=tmp_path).resident() == 5 * PAGE


def test_the_memory_of_a_process_that_was_found_is_read_without_another_search(tmp_path: Path) -> None:
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on", pages=3)
    qemu = QemuProcess("shop_cart", proc=tmp_path)
    assert qemu.resident_if_found() is None, "it was not looked for yet"
    assert (qemu.pid, qemu.resident_if_found()) == (7, 3 * PAGE)
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on", started=900, pages=4)
    assert qemu.resident_if_found() is None, "another process has its number"


def test_a_process_that_cannot_be_seen_has_no_figures(tmp_path: Path) -> None:
    qemu = QemuProcess("shop_cart", proc=tmp_path)
    assert (qemu.pid, qemu.resident(), qemu.vcpus(), qemu.merged()) == (None, None, None, None)


def test_another_process_of_its_number_is_not_taken_for_it(tmp_path: Path) -> None:
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on")
    qemu = QemuProcess("shop_cart", proc=tmp_path)
    found = [qemu.pid]
    (tmp_path / "7/cmdline").write_bytes(b"")  # it is still the same, whether that can be read or not
    found.append(qemu.pid)
    process(tmp_path, 7, "sleep", "10", started=900)
    assert [*found, qemu.pid] == [7, 7, None]
    process(tmp_path, 9, "qemu", "-name", "guest=shop_cart,debug-threads=on", started=901, pages=2)
    assert qemu.resident() == 2 * PAGE


def test_the_command_line_of_a_process_in_another_pod_is_not_even_read(tmp_path: Path) -> None:
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on")
    (tmp_path / "7/cgroup").write_text("0::/kubepods/pod11111111-2222-3333-4444-555555555555/x\n")
    (tmp_path / "7/cmdline").unlink()
    os.mkfifo(tmp_path / "7/cmdline")  # to read it hangs
    assert QemuProcess("shop_cart", ["aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"], proc=tmp_path).pid is None


def test_a_process_whose_name_is_no_text_hides_no_vm_from_the_agent(tmp_path: Path) -> None:
    for pid in (6, 8):  # one of them is looked at before QEMU, in whatever order the directory is read
        process(tmp_path, pid, "other")
        (tmp_path / str(pid) / "comm").write_bytes(b"\xff\xfe)(\n")
        (tmp_path / str(pid) / "cgroup").write_bytes(b"0::/\xff\n")
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on", pages=3)
    assert QemuProcess("shop_cart", proc=tmp_path).resident() == 3 * PAGE


def test_of_an_endless_command_line_only_the_beginning_is_read(tmp_path: Path) -> None:
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on")
    (tmp_path / "7/cmdline").unlink()
    (tmp_path / "7/cmdline").symlink_to("/dev/zero")  # to read all of it would never end
    assert QemuProcess("shop_cart", proc=tmp_path).pid is None


def test_of_a_process_with_more_threads_than_any_qemu_only_the_first_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu_process, "_MOST_THREADS", 3)
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on")
    for index in range(5):
        task = tmp_path / "7/task" / str(100 + index)
        task.mkdir(parents=True)
        (task / "comm").write_text(f"CPU {index}/KVM\n")
    assert len(QemuProcess("shop_cart", proc=tmp_path).vcpus() or ()) == 3


def test_the_process_in_the_vm_s_own_pod_is_found_while_the_one_before_it_ends(tmp_path: Path) -> None:
    old, new = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    for pid, pod in ((7, old), (8, new)):
        process(tmp_path, pid, "qemu", "-name", "guest=shop_cart,debug-threads=on", pages=pid)
        scope = (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod.replace('-', '_')}.slice/cri-x.scope"
        )
        (tmp_path / str(pid) / "cgroup").write_text(f"0::/../..{scope}\n")
    qemu = QemuProcess("shop_cart", [new], proc=tmp_path)
    assert (qemu.pid, qemu.resident()) == (8, 8 * PAGE)
    assert QemuProcess("shop_cart", [], proc=tmp_path).pid is None


def test_a_processor_whose_thread_has_not_run_has_not_been_started(tmp_path: Path) -> None:
    process(tmp_path, 7, "qemu", "-name", "guest=shop_cart,debug-threads=on")
    for index, (user, system) in enumerate([(250, 3), (0, 1), (0, 0)]):
        task = tmp_path / "7/task" / str(100 + index)
        task.mkdir(parents=True)
        (task / "comm").write_text(f"CPU {index}/KVM\n")
        (task / "stat").write_text(f"{100 + index} (CPU {index}/KVM) S {' '.join(['1'] * 10)} {user} {system} 0 0\n")
    qemu = QemuProcess("shop_cart", proc=tmp_path)
    assert (qemu.vcpus(), qemu.started_vcpus()) == (frozenset({0, 1, 2}), frozenset({0, 1}))
    assert QemuProcess("other", proc=tmp_path).started_vcpus() is None
