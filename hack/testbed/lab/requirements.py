"""Checks that this machine can run the guest lab, and raises an error that names what is missing."""

from __future__ import annotations

import os
import platform
import shutil

from .errors import LabError

TO_RUN = {
    "qemu-system-x86_64": "qemu-system-x86",
    "libvirtd": "libvirt-daemon",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
"""The programs that run guests, each with its Debian package."""

TO_BUILD = {
    "gcc": "gcc",
    "strip": "binutils",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "ldd": "libc-bin",
    "dpkg": "dpkg",
    "apt-get": "apt",
    "apt-cache": "apt",
}
"""The programs that build the guests' image, each with its Debian package."""


def check_programs(programs: dict[str, str]) -> None:
    """Raise LabError unless this is an x86-64 Linux machine that has all ``programs``."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise LabError(f"the guest lab runs on x86-64 Linux, not on {platform.machine()} {platform.system()}")
    missing = {program: package for program, package in programs.items() if shutil.which(program) is None}
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise LabError(f"the guest lab needs {', '.join(missing)}: apt-get install {packages}, or hack/bootstrap.sh")


def check_root() -> None:
    """Raise LabError unless this is root: pods need namespaces and their own user, and nodes need cgroups."""
    if os.geteuid() != 0:
        raise LabError("the guest lab needs root, for cgroups, namespaces and the launchers' own user")
