"""What a machine must have to run the cluster, and one clear line when it does not, before minutes are spent."""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.controlplane.build import cache_directory

from . import cgroups

MEMORY_BYTES = 6 << 30  # the control plane 1 GiB, KubeVirt and the nodes 2 GiB, kubeballoon, four small VMs
DISK_BYTES = 6 << 30  # the images, once for each node: 4.3 GB
BUILD_BYTES = 12 << 30  # sources, Go's own cache, programs, root file systems
REBUILD_BYTES = 2 << 30  # where all of that is there, but for what changed since
KERNEL = (5, 8)  # the first with all that KubeVirt's programs use of cgroup v2

_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "gcc": "gcc",
}
_PLUGIN = Path("/usr/lib/cni/bridge")
_FILE_SYSTEMS = Path("/proc/filesystems")
MEMINFO = Path("/proc/meminfo")
_TUN = Path("/dev/net/tun")


def check(directory: Path) -> None:
    """Check all of it; the cluster's files go into `directory`, which need not exist.

    Raises:
        ControlPlaneError: Says what is missing, all of it, each in a line.
    """
    problems = [*_platform_problems(), *_program_problems(), *_room_problems(directory)]
    if problems:
        raise ControlPlaneError("\n".join(problems))


def check_root() -> None:
    """Raise ControlPlaneError unless this is root."""
    if os.geteuid() != 0:
        raise ControlPlaneError("the cluster needs root, for namespaces, mounts and cgroups")


def check_name() -> None:
    """Raise ControlPlaneError unless the cluster's name is one word, as a directory and a cgroup have it."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,39}", cgroups.NAME):
        raise ControlPlaneError(f"{cgroups.NAME_VARIABLE} is no name of small letters and digits: {cgroups.NAME}")


def _platform_problems() -> list[str]:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return [f"the cluster runs on x86-64 Linux, not on {platform.machine()} {platform.system()}"]
    problems = []
    version = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if version < KERNEL:
        problems.append(
            f"the kernel is {platform.release()}, and {'.'.join(map(str, KERNEL))} is the oldest that will do"
        )
    if "overlay" not in _FILE_SYSTEMS.read_text().split():
        problems.append("the kernel has no overlay file system: modprobe overlay")
    if not _TUN.exists():
        problems.append(f"there is no {_TUN}, which KubeVirt gives to VMs: modprobe tun")
    roots = cgroups.hierarchies()
    if not roots:
        problems.append("no cgroups are mounted at /sys/fs/cgroup")
    elif missing := cgroups.missing_controllers(roots):
        problems.append(f"the kernel's cgroups lack {', '.join(sorted(missing))}")
    return problems


def _program_problems() -> list[str]:
    missing = {program: package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if not _PLUGIN.exists():
        missing[str(_PLUGIN)] = "containernetworking-plugins"
    packages = " ".join(sorted(set(missing.values())))
    return [f"the cluster needs {', '.join(missing)}: apt-get install {packages}"] if missing else []


def _room_problems(directory: Path) -> list[str]:
    problems = []
    fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) << 10
    if available < MEMORY_BYTES:
        problems.append(f"{available >> 20} MiB of memory are free, and the cluster takes {MEMORY_BYTES >> 20}")
    cache = cache_directory()
    built = any(cache.glob("kubevirt-images-*.tar"))
    wanted: dict[int, tuple[Path, int]] = {}
    for path, needed in ((directory, DISK_BYTES), (cache, REBUILD_BYTES if built else BUILD_BYTES)):
        there = next(each for each in (path, *path.parents) if each.exists())
        disk = there.stat().st_dev
        wanted[disk] = (there, needed + (wanted[disk][1] if disk in wanted else 0))
    for there, needed in wanted.values():
        free = shutil.disk_usage(there).free
        if free < needed:
            problems.append(f"{free >> 20} MiB are free in {there}, and the cluster takes {needed >> 20}")
    return problems
