"""This module reads from the kernel what it knows of a VM's QEMU process on this node."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from itertools import islice
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_VCPU = re.compile(r"CPU (\d+)/(KVM|TCG)")  # how QEMU names a processor's thread
_START_TIME = 19  # the index of "starttime" among the fields of /proc/PID/stat that follow the process's name
_CPU_TIMES = slice(11, 13)  # the indices of "utime", in which a guest's time is, and "stime", from the same field on
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")  # as the kubelet names its cgroups
_KSM = Path("/sys/kernel/mm/ksm/run")
# A process may say that its command line is anywhere in its memory, and as long: prctl(PR_SET_MM) needs no privilege.
_LONGEST_COMMAND = 64 << 10  # bytes; libvirt names the VM in the first two hundred
_MOST_THREADS = 8192  # that are looked at; the first are QEMU's own, and a VM has a few more than processors


class QemuProcess:
    """A QemuProcess is the QEMU of one VM.

    Every figure is None while the process cannot be seen, as from a pod without the host's pid namespace.
    """

    def __init__(self, domain: str, pods: Collection[str] = (), proc: Path = _PROC) -> None:
        """Look for the QEMU of libvirt's ``domain`` in one of the ``pods``, by uid.

        A VM that was started anew has the name of the one before it, whose pod may still be ending.
        """
        self.pods = pods
        self._name_argument = f"guest={domain},".encode()  # how libvirt names a VM on QEMU's command line
        self._proc = proc
        self._found: tuple[int, str] | None = None  # the process's number, and when it was started

    @property
    def pid(self) -> int | None:
        """The process's number; it is searched for again when the process has ended."""
        if self._found is None or self._start_time(self._found[0]) != self._found[1]:
            pid = next((pid for pid in self._pids() if self._is_vm(pid)), None)
            self._found = None if pid is None else (pid, self._start_time(pid))
        return None if self._found is None else self._found[0]

    def vcpus(self) -> frozenset[int] | None:
        """Read the indices of the VM's processors that have a thread."""
        pid = self.pid
        if pid is None:
            return None
        names = [_read_line(task / "comm") for task in _tasks(self._proc / str(pid))]
        if not names:  # it ended meanwhile
            return None
        return frozenset(int(match[1]) for match in map(_VCPU.fullmatch, names) if match is not None)

    def started_vcpus(self) -> frozenset[int] | None:
        """Read the indices of the VM's processors whose thread has run for a moment.

        A processor that was plugged in runs only once the guest's kernel has started it, for which it needs much longer
        than the kernel's smallest count of time.
        """
        pid, indices = self.pid, self.vcpus()
        if pid is None or indices is None:
            return None
        stats = [(_read_line(task / "comm"), _cpu_ticks(task)) for task in _tasks(self._proc / str(pid))]
        idle = {int(match[1]) for name, ticks in stats if not ticks and (match := _VCPU.fullmatch(name)) is not None}
        return indices - idle

    def resident(self) -> int | None:
        """Read how much of the node's memory the process holds, in bytes, merged pages included."""
        pid = self.pid
        return None if pid is None else self._resident(pid)

    def resident_if_found(self) -> int | None:
        """Read what a process that was found before holds, in bytes; no search for it, which may block, is made."""
        found = self._found
        if found is None or self._start_time(found[0]) != found[1]:
            return None
        return self._resident(found[0])

    def _resident(self, pid: int) -> int | None:
        fields = _read_line(self._proc / str(pid) / "statm").split()
        return int(fields[1]) * _PAGE if fields else None

    def merged(self) -> int | None:
        """Read how many bytes KSM merged with other pages: they count as resident, and yet are free again."""
        pid = self.pid
        if pid is None:
            return None
        try:
            return int((self._proc / str(pid) / "ksm_merging_pages").read_text()) * _PAGE
        except OSError:  # a kernel before 5.19
            return None

    def _pids(self) -> list[int]:
        return [int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit()]

    def _start_time(self, pid: int) -> str:
        """Read when a process was started, in the kernel's count; unlike a command line that can always be read."""
        fields = _read_line(self._proc / str(pid) / "stat").rpartition(")")[2].split()
        return fields[_START_TIME] if fields else ""

    def _is_vm(self, pid: int) -> bool:
        # To read the command line of a process that hangs in its own memory may hang too: only what calls itself QEMU,
        # and runs in one of the VM's own pods, is asked.
        if not _read_line(self._proc / str(pid) / "comm").startswith("qemu") or not self._is_in_pods(pid):
            return False
        try:
            with (self._proc / str(pid) / "cmdline").open("rb") as file:
                command = file.read(_LONGEST_COMMAND)
        except OSError:
            return False
        return any(argument.startswith(self._name_argument) for argument in command.split(b"\0"))

    def _is_in_pods(self, pid: int) -> bool:
        """Whether a process runs in one of the pods; one outside of the kubelet's cgroups is assumed to."""
        found = _POD.findall(_read_line(self._proc / str(pid) / "cgroup"))
        return not found or any(pod.replace("_", "-") in self.pods for pod in found)


def ksm_runs(switch: Path = _KSM) -> bool:
    """Whether the node's kernel merges pages with the same contents."""
    return _read_line(switch) == "1"


def _tasks(process: Path) -> list[Path]:
    """List the directories of a process's first threads; none where it has ended."""
    try:
        with os.scandir(process / "task") as entries:
            return [Path(entry) for entry in islice(entries, _MOST_THREADS)]
    except OSError:
        return []


def _cpu_ticks(task: Path) -> int:
    """Read how long a thread has run, in the kernel's ticks of a hundredth of a second."""
    fields = _read_line(task / "stat").rpartition(")")[2].split()
    return sum(map(int, fields[_CPU_TIMES])) if fields else 0


def _read_line(path: Path) -> str:
    """Read a file's text without surrounding space; empty where the file is gone."""
    try:
        return path.read_text(errors="replace").strip()  # any process may give itself a name of any bytes
    except OSError:
        return ""
