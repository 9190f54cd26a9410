"""`python -m hack.binary.krew VERSION ARCHIVE...` prints the plugin's manifest for krew, for these archives."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import yaml

_RELEASES = "https://github.com/kubeballoon/kubeballoon/releases/download"
_ARCHIVE = re.compile(r"kubectl-balloon-(linux|darwin)-(amd64|arm64)[.]tar[.]gz")


def manifest(version: str, archives: list[Path]) -> dict[str, Any]:
    """Make the manifest of a release.

    Args:
        version: the release's version, such as 0.1.0.
        archives: the archives of all platforms, by the names that `python -m hack.binary` gives them.

    Raises:
        ValueError: an archive has another name.
    """
    return {
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "balloon"},
        "spec": {
            "version": f"v{version}",
            "homepage": "https://github.com/kubeballoon/kubeballoon",
            "shortDescription": "Show and explain the memory of KubeVirt VMs",
            "description": (
                "Shows how kubeballoon divides memory and processors among KubeVirt VMs, explains\n"
                "why a VM has what it has, says what a policy would change before it is applied,\n"
                "and gives everything back where an administrator wants it.\n"
            ),
            "caveats": (
                "The cluster needs kubeballoon's controller and agents:\n"
                "https://github.com/kubeballoon/kubeballoon#install\n"
            ),
            "platforms": [_platform(version, archive) for archive in sorted(archives)],
        },
    }


def _platform(version: str, archive: Path) -> dict[str, Any]:
    found = _ARCHIVE.fullmatch(archive.name)
    if found is None:
        raise ValueError(f"{archive.name} is not named kubectl-balloon-OS-ARCH.tar.gz")
    return {
        "selector": {"matchLabels": {"os": found[1], "arch": found[2]}},
        "uri": f"{_RELEASES}/v{version}/{archive.name}",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "files": [{"from": "kubectl-balloon/*", "to": "."}],
        "bin": "kubectl-balloon",
    }


def main() -> int:
    """Print the manifest; the exit status is 2 if an archive is not one."""
    parser = argparse.ArgumentParser(prog="python -m hack.binary.krew", description=__doc__)
    parser.add_argument("version")
    parser.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    options = parser.parse_args()
    try:
        made = manifest(options.version, options.archives)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    yaml.safe_dump(made, sys.stdout, sort_keys=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
