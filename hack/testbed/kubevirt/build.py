"""Builds what the cluster runs, once, into the user's cache: from Go modules, Debian packages and a little C."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from hack.testbed.controlplane.build import GoModule, cached, kubernetes_flags, program, programs, sources
from hack.testbed.controlplane.commands import run
from hack.testbed.controlplane.progress import Progress

SUITE = "trixie"
"""The Debian release of KubeVirt's images: the first whose libvirt and QEMU are not older than KubeVirt's own."""

_HERE = Path(__file__).resolve().parent
_BOOTSTRAP_SECONDS = 1800.0
_COMPILE_SECONDS = 120.0
_KEPT_SECONDS = 3600.0  # longer than nodes take to import an archive

_KUBELET = GoModule(_HERE / "kubelet", "building the kubelet")
_DNS = GoModule(_HERE / "dns", "building CoreDNS")

_COMMANDS = (
    *("virt-operator", "virt-api", "virt-controller", "virt-handler"),
    *("virt-launcher", "virt-launcher-monitor", "virt-chroot", "virt-freezer", "virt-probe", "virt-tail"),
)
_KUBEVIRT = GoModule(
    _HERE / "programs",
    "building KubeVirt",
    others=tuple(f"kubevirt.io/kubevirt/cmd/{name}" for name in _COMMANDS),
    cgo=True,  # virt-launcher is linked with libvirt
)

KUBEVIRT_VERSION = _KUBEVIRT.requirement("kubevirt.io/kubevirt")
"""As in "v1.7.0"."""


def kubelet() -> Path:
    """The kubelet, of the control plane's version."""
    return program(_KUBELET, kubernetes_flags(_KUBELET))


def dns() -> Path:
    """Build CoreDNS, the cluster's DNS server, or find the build of an earlier run."""
    return program(_DNS)


def kubevirt() -> Path:
    """The directory with KubeVirt's programs, and with `manifests`, which prints what installs its operator."""
    return programs(_KUBEVIRT, f"-X kubevirt.io/client-go/version.gitVersion={KUBEVIRT_VERSION}")


def kubevirt_sources() -> Path:
    """KubeVirt's module, with the configuration that it ships beside its programs."""
    return sources(_KUBEVIRT, "kubevirt.io/kubevirt")


def c_programs() -> Path:
    """The directory with the programs that are written in C: pause, container-disk and virtqemud, linked statically."""
    written = {
        "container-disk": kubevirt_sources() / "cmd/container-disk-v2alpha/main.c",
        "pause": sources(_KUBELET, "k8s.io/kubernetes") / "build/pause/linux/pause.c",
        "virtqemud": _HERE / "virtqemud.c",
    }

    def make(result: Path) -> None:
        result.mkdir()
        for name, source in written.items():
            run(["gcc", "-Os", "-static", "-DVERSION=1", "-o", result / name, source], seconds=_COMPILE_SECONDS)

    return cached(f"c-programs-{fingerprint(path.read_bytes() for path in written.values())}", make)


def root_file_system(title: str, packages: Sequence[str], suite: str = SUITE) -> Path:
    """A tar archive of a Debian release's smallest system and some packages."""
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"),
        *('--aptopt=APT::Install-Recommends "false"', "--dpkgopt=path-exclude=/usr/share/man/*"),
        *("--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*"),
        # What the installation logged and cached is of no use in an image.
        *("--customize-hook=rm -rf $1/var/log/* $1/var/cache/*", suite),
    ]

    def make(result: Path) -> None:
        with Progress(f"making {title}'s root file system of Debian {suite}") as progress:
            progress.show("some minutes")
            run([*command, result], seconds=_BOOTSTRAP_SECONDS)

    return cached(f"root-{fingerprint([' '.join(command).encode()])}.tar", make)


def launcher_root() -> Path:
    """The root file system of KubeVirt's images."""
    return root_file_system("KubeVirt", listed(_HERE / "packages-launcher.txt"))


def only(kind: str, mark: str, make: Callable[[Path], None]) -> Path:
    """The archive of a kind by this mark, made now unless it was before.

    Those by other marks go, for each is large, unless they were asked for lately: then another checkout may read them.
    """
    made = cached(f"{kind}-{mark}.tar", make)
    os.utime(made)
    for other in made.parent.glob(f"{kind}-*.tar"):
        with suppress(FileNotFoundError):  # another checkout does the same
            if other.stat().st_mtime < time.time() - _KEPT_SECONDS:
                other.unlink()
    return made


def fingerprint(parts: Iterable[bytes]) -> str:
    """A name for what is made of these parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def listed(path: Path) -> list[str]:
    """The Debian packages in a list file."""
    return [word for line in path.read_text().splitlines() if (word := re.sub("#.*", "", line).strip())]
