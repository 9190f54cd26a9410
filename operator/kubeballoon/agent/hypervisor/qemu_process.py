"""What this node's kernel tells of a VM's QEMU process."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

_PROC = Path("/proc")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_VCPU = re.compile(r"CPU (\d+)/(KVM|TCG)")
_STARTED = 19  # of the fields of /proc/PID/stat after the name
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})")  # as the kubelet names its cgroups
_KSM = Path("/sys/kernel/mm/ksm/run")


class QemuProcess:
    """One VM's QEMU; all is None while the process cannot be seen, as from a pod without the host's pid namespace."""

    def __init__(self, domain: str, pods: Collection[str] = (), proc: Path = _PROC) -> None:
        """Look for the QEMU of libvirt's ``domain`` in one of the ``pods``, by uid.

        A VM that was started anew has the name of the one before it, whose pod may still be ending.
        """
        self.pods = pods
        self._mark = f"guest={domain},".encode()
        self._proc = proc
        self._found: tuple[int, str] | None = None  # its number, and when it was started

    @property
    def pid(self) -> int | None:
        """Its number, found again when it has ended."""
        if self._found is None or self._started(self._found[0]) != self._found[1]:
            pid = next((pid for pid in self._pids() if self._is(pid)), None)
            self._found = None if pid is None else (pid, self._started(pid))
        return None if self._found is None else self._found[0]

    def vcpus(self) -> frozenset[int] | None:
        """The indices of the processors that have a thread."""
        pid = self.pid
        if pid is None:
            return None
        try:
            names = [_text(task / "comm") for task in (self._proc / str(pid) / "task").iterdir()]
        except OSError:  # it ended meanwhile
            return None
        return frozenset(int(match[1]) for match in map(_VCPU.fullmatch, names) if match is not None)

    def resident(self) -> int | None:
        """Bytes of the node's memory that it holds, merged pages included."""
        pid = self.pid
        fields = [] if pid is None else _text(self._proc / str(pid) / "statm").split()
        return int(fields[1]) * _PAGE if fields else None

    def merged(self) -> int | None:
        """Bytes of its memory that KSM has merged with other pages: resident, and yet the node's again."""
        pid = self.pid
        if pid is None:
            return None
        try:
            return int((self._proc / str(pid) / "ksm_merging_pages").read_text()) * _PAGE
        except OSError:  # a kernel before 5.19
            return None

    def _pids(self) -> list[int]:
        return [int(entry.name) for entry in self._proc.iterdir() if entry.name.isdigit()]

    def _started(self, pid: int) -> str:
        """When a process was started, in the kernel's own count; unlike its command line that can always be read."""
        fields = _text(self._proc / str(pid) / "stat").rpartition(")")[2].split()
        return fields[_STARTED] if fields else ""

    def _is(self, pid: int) -> bool:
        # To read the command line of a process that hangs in its own memory may hang too: only QEMUs are asked.
        if not _text(self._proc / str(pid) / "comm").startswith("qemu"):
            return False
        try:
            command = (self._proc / str(pid) / "cmdline").read_bytes()
        except OSError:
            return False
        return any(argument.startswith(self._mark) for argument in command.split(b"\0")) and self._is_ours(pid)

    def _is_ours(self, pid: int) -> bool:
        """Whether it runs in one of the pods; outside of the kubelet's cgroups that is not told, and not asked."""
        named = _POD.findall(_text(self._proc / str(pid) / "cgroup"))
        return not named or any(pod.replace("_", "-") in self.pods for pod in named)


def ksm_runs(switch: Path = _KSM) -> bool:
    """Whether the kernel merges pages that are alike."""
    return _text(switch) == "1"


def _text(path: Path) -> str:
    """A file's line; nothing where it is gone."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
