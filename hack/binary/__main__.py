"""`python -m hack.binary` makes build/binary/kubectl-balloon-OS-ARCH.tar.gz for the platform that it runs on.

It is a folder and not one file: one file unpacks itself at each call, which takes longer than the call.
"""

from __future__ import annotations

import gzip
import os
import platform
import shutil
import sys
import tarfile
from pathlib import Path

import PyInstaller.__main__

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build/binary"
_NAME = "kubectl-balloon"
_IMPORTED_BY_NAME = ("kubeballoon.cli", "kubernetes.aio", "jsonpath", "rich")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
# What the plugin's libraries use if it is there, as in a developer's environment: no command of the plugin needs it.
_UNUSED = (
    *("kopf", "libvirt", "matplotlib", "prometheus_client"),  # other parts of kubeballoon
    *("cryptography", "hypothesis", "mypy", "numpy.f2py", "numpy.testing", "PIL", "pytest", "setuptools", "tkinter"),
)


def archive_name() -> str:
    """Return the name of this platform's archive, in the words of Go and krew."""
    return f"{_NAME}-{platform.system().lower()}-{_ARCHITECTURES[platform.machine()]}.tar.gz"


def build() -> Path:
    """Make the folder and its archive; return the archive."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    work = OUTPUT / "work"
    PyInstaller.__main__.run(
        [
            str(Path(__file__).with_name("kubectl_balloon.py")),
            f"--name={_NAME}",
            "--onedir",
            "--noconfirm",
            "--log-level=ERROR",
            f"--distpath={OUTPUT}",
            f"--workpath={work}",
            f"--specpath={work}",
            f"--paths={ROOT / 'operator'}",
            *(f"--collect-submodules={package}" for package in _IMPORTED_BY_NAME),
            *(f"--exclude-module={module}" for module in _UNUSED),
        ]
    )
    shutil.rmtree(work)
    shutil.copy(ROOT / "LICENSE", OUTPUT / _NAME)
    return _archive(OUTPUT / _NAME, OUTPUT / archive_name())


def _archive(folder: Path, path: Path) -> Path:
    """Pack a folder; the time and the owners in the archive do not depend on who packs it, and when."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = epoch
        return entry

    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for file in sorted(folder.rglob("*")):
            archive.add(file, f"{folder.name}/{file.relative_to(folder)}", recursive=False, filter=plain)
    return path


def main() -> int:
    """Make the archive and say where it is."""
    archive = build()
    print(f"{archive.relative_to(ROOT)}: {archive.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
