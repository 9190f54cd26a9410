"""Builds the image that lab guests boot, once, into the user's cache: Debian's cloud kernel and a small initramfs.

The guest's Debian packages are downloaded and unpacked, never installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .requirements import TO_BUILD, check_programs

KERNEL_PACKAGE = "linux-image-cloud-amd64"  # an empty package, which depends on the package of the newest kernel
GUEST_AGENT_PACKAGE = "qemu-guest-agent"
PYTHON_PACKAGES = ("python3-minimal", "libpython3-stdlib")
"""The packages of Debian's Python, for guests that need one."""
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_balloon",
    "virtio_mem",
)
"""The guest's drivers, in the order in which they must be loaded."""

COMMAND_SECONDS = 300.0

_HERE = Path(__file__).resolve().parent
_INIT = _HERE / "init"
_PROGRAMS = (_HERE / "memload.c", _HERE / "lying_agent.c")
_OS_RELEASE = Path("/etc/os-release")

Say = Callable[[str], None]
"""A function that shows one line of progress."""


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel and an initramfs that boot a lab guest."""

    directory: Path

    @property
    def kernel(self) -> Path:
        """The path of the kernel."""
        return self.directory / "vmlinuz"

    @property
    def initramfs(self) -> Path:
        """The path of the initramfs, which is the guest's whole file system."""
        return self.directory / "initramfs"


def say_on_stderr(line: str) -> None:
    """Print one line of progress on stderr."""
    print(f"lab: {line}", file=sys.stderr, flush=True)


def cache_directory() -> Path:
    """Return the directory that keeps images: kubeballoon/lab, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kubeballoon" / "lab"


def build(extra_packages: Sequence[str] = (), say: Say = say_on_stderr) -> Image:
    """Return the image, built now unless it was built before from the same inputs.

    Args:
        extra_packages: Debian packages to unpack into the initramfs too. Of their dependencies, Python's packages are
            added, and the shared libraries of their programs; nothing else is.
        say: Is called with each line of progress; not at all if the image exists.

    Raises:
        LabError: A tool is missing, a package cannot be downloaded, or a step failed.
    """
    image = Image(cache_directory() / _fingerprint(extra_packages))
    if image.directory.exists():
        return image
    check_programs(TO_BUILD)
    image.directory.parent.mkdir(parents=True, exist_ok=True)
    lock = image.directory.with_suffix(".lock")
    with _locked(lock, say), tempfile.TemporaryDirectory(dir=image.directory.parent, prefix="build-") as scratch:
        if not image.directory.exists():
            made = _build(Path(scratch), extra_packages, say)
            made.directory.rename(image.directory)
            say(f"built {image.directory}")
    return image


def _fingerprint(extra_packages: Sequence[str]) -> str:
    """Return a hash that names the result of a build: of this folder's sources, the distribution and the packages.

    The packages' versions are left out, so that an existing image is found without a network.
    """
    digest = hashlib.sha256("\0".join(("x86-64", *sorted(extra_packages))).encode())
    for path in (Path(__file__), _INIT, *_PROGRAMS, _OS_RELEASE):
        digest.update(b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another build of the guest image")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(scratch: Path, extra_packages: Sequence[str], say: Say) -> Image:
    image = Image(scratch / "image")
    image.directory.mkdir()
    root = _empty_root(scratch / "root")

    kernel_package = _newest_kernel()
    packages = (GUEST_AGENT_PACKAGE, *_with_python(extra_packages))
    say(f"downloading {kernel_package}, {', '.join(packages)}")
    kernel = _unpack(kernel_package, scratch)
    for package in packages:
        shutil.copytree(_unpack(package, scratch), root, symlinks=True, dirs_exist_ok=True)

    say("compiling the guest's programs")
    for source in _PROGRAMS:
        _run("gcc", "-O2", "-static", "-o", root / "bin" / source.stem, source)

    say("packing the initramfs")
    shutil.copy(_find_program("busybox"), root / "bin/busybox")
    shutil.copy(_INIT, root / "init")
    (root / "init").chmod(0o755)
    _add_modules(kernel, root)
    _add_libraries(root)
    _pack(root, image.initramfs)
    (found,) = kernel.glob("boot/vmlinuz-*")
    shutil.copy(found, image.kernel)
    return image


def _empty_root(root: Path) -> Path:
    """Create an empty file system with Debian's layout: /bin, /sbin and /lib are links into /usr."""
    for directory in ("dev", "proc", "sys", "run", "tmp", "etc", "var", "modules"):
        (root / directory).mkdir(parents=True)
    for directory in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / directory).mkdir(parents=True)
        (root / directory).symlink_to(f"usr/{directory}")
    (root / "var/run").symlink_to("/run")
    return root


def _newest_kernel() -> str:
    """Return the name of the kernel's own package, on which `KERNEL_PACKAGE` depends."""
    depends = _run("apt-cache", "depends", "--important", KERNEL_PACKAGE, hint="run apt-get update")
    found = re.search(r"Depends: (linux-image-\S+)", depends)
    if found is None:
        raise LabError(f"Debian's {KERNEL_PACKAGE} names no kernel; this is not Debian, or run apt-get update")
    return found[1]


def _with_python(packages: Sequence[str]) -> list[str]:
    """Return the packages, and those of Python that they depend on, whose names contain Python's version."""
    if not packages:
        return []
    listed = _run("apt-cache", "depends", "--recurse", "--important", *packages, hint="run apt-get update")
    python = re.findall(r"^(?:lib)?python3\S*", listed, re.MULTILINE)
    return sorted({*packages, *(name for name in python if ":" not in name)})


def _unpack(package: str, scratch: Path) -> Path:
    """Download a package, which apt verifies, and unpack it into a directory of its own."""
    downloads = scratch / f"{package}.download"
    downloads.mkdir()
    _run("apt-get", "download", "--quiet", package, directory=downloads, hint="run apt-get update")
    (archive,) = downloads.glob("*.deb")
    unpacked = scratch / f"{package}.unpacked"
    _run("dpkg", "--extract", archive, unpacked)
    return unpacked


def _add_modules(kernel: Path, root: Path) -> None:
    built_in = {Path(line).stem for file in kernel.rglob("modules.builtin") for line in file.read_text().split()}
    modules = [name for name in MODULES if name not in built_in]
    for name in modules:
        found = next(kernel.rglob(f"{name}.ko*"), None)
        if found is None:
            raise LabError(f"{KERNEL_PACKAGE} has no module {name}")
        content = found.read_bytes()
        module = root / "modules" / f"{name}.ko"
        module.write_bytes(lzma.decompress(content) if found.suffix == ".xz" else content)
        _run("strip", "--strip-debug", module)
    (root / "modules/order").write_text("".join(f"{name}\n" for name in modules))


def _add_libraries(root: Path) -> None:
    """Copy the shared libraries of all programs in the initramfs from this machine."""
    for program in [path for directory in ("bin", "sbin") for path in (root / "usr" / directory).iterdir()]:
        listed = subprocess.run(["ldd", program], check=False, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        for library in re.findall(r"(/\S+) \(0x", listed.stdout):  # none for static programs and for scripts
            target = root / library[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)


def _pack(root: Path, initramfs: Path) -> None:
    # Not compressed: all guests map the same file, and an emulated processor would take seconds to unpack it.
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with initramfs.open("wb") as output:
        packed = subprocess.run(
            ["cpio", "--create", "--format=newc", "--quiet", "--owner=+0:+0"],
            check=False,
            cwd=root,
            input=names.encode(),
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=COMMAND_SECONDS,
        )
    if packed.returncode:
        raise LabError(f"cpio failed: {packed.stderr.decode(errors='replace').strip()}")


def _find_program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise LabError(f"{name} is missing")
    return Path(found)


def _run(*command: str | Path, directory: Path | None = None, hint: str = "") -> str:
    """Run a tool, and return what it printed. `hint` is added to the error if it fails."""
    try:
        ended = subprocess.run(
            command, check=False, cwd=directory, capture_output=True, text=True, timeout=COMMAND_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command[0]} did not end within {COMMAND_SECONDS:g} s") from error
    if ended.returncode:
        shown = " ".join(map(str, command))
        reason = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        raise LabError(f"{shown}: {reason}{f' ({hint})' if hint else ''}")
    return ended.stdout
