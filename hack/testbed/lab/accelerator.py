"""kvm_boots(): whether guests can use KVM, or QEMU must emulate them (TCG).

Some machines have a /dev/kvm that can be opened but boots no guest, so a guest is booted to find out.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

from .guest_spec import KERNEL_OPTIONS
from .image import Image, cache_directory, say_on_stderr
from .launcher_process import USER

VARIABLE = "KUBEBALLOON_LAB_KVM"
"""The environment variable that answers, as 0 or 1, instead of a probe."""

_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROBE_SECONDS = 5.0  # under KVM a guest is up within 2
_UP = b"lab: guest is up"


def kvm_boots(image: Image) -> bool:
    """Whether guests can use KVM. A guest is booted to find out, once for each boot of this machine."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE] == "1"
    if not _DEVICE.exists():
        return False
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "kvm").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        boot_id = _BOOT_ID.read_text().strip()
        known_boot, _, answer = file.read().strip().partition(" ")
        if known_boot != boot_id:
            answer = "yes" if _boots(image) else "no"
            say_on_stderr(f"guests use {'KVM' if answer == 'yes' else 'TCG: KVM does not boot a guest here'}")
            file.truncate(0)
            file.write(f"{boot_id} {answer}\n")
    return answer == "yes"


def _boots(image: Image) -> bool:
    """Whether a guest under KVM, run by a launcher's user, writes on its console that it is up."""
    # QEMU gets open files instead of paths: the image may be in a directory that only root can enter.
    with image.kernel.open("rb") as kernel, image.initramfs.open("rb") as initramfs:
        command = [
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={_DEVICE.stat().st_gid}"),
            *("qemu-system-x86_64", "-machine", "q35,accel=kvm", "-m", "256", "-nodefaults", "-display", "none"),
            *("-no-reboot", "-serial", "stdio", "-append", f"{KERNEL_OPTIONS} lab.probe=1"),
            *("-kernel", f"/proc/self/fd/{kernel.fileno()}", "-initrd", f"/proc/self/fd/{initramfs.fileno()}"),
        ]
        try:
            ended = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(kernel.fileno(), initramfs.fileno()),
                timeout=_PROBE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return False
    return _UP in ended.stdout
