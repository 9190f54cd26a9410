"""The checks of a release: its version, that nothing was released as it before, and that its chart names its images.

usage: python -m hack.release version TAG
       python -m hack.release absent NAME COMMAND ...
       python -m hack.release pin PART=DIGEST ...

`version` prints the version of a tag such as v1.2.3, if package and chart have it. `absent` runs a command that looks
NAME up in a registry, and succeeds only if the answer is that there is no such thing. A registry that cannot be asked
may have it: that is a failure as well. `pin` writes the digests of images into the chart's values.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_TAG = re.compile(r"v(\d+\.\d+\.\d+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ABSENT = re.compile(r": not found$|^release not found$|manifest unknown|name unknown", re.IGNORECASE)
"""What docker, helm and gh say of something that does not exist."""
_SECONDS = 120.0


class ReleaseError(Exception):
    """A ReleaseError says in one line why there is no release."""


def version_of(tag: str, root: Path = ROOT) -> str:
    """Find the version that a tag releases.

    Args:
        tag: the tag, such as v1.2.3.
        root: the directory of pyproject.toml and of charts.

    Raises:
        ReleaseError: it is no tag of a version, or package or chart have another version.
    """
    found = _TAG.fullmatch(tag)
    if found is None:
        raise ReleaseError(f"{tag} is no tag of a release, which is like v1.2.3")
    chart = (root / "charts/kubeballoon/Chart.yaml").read_text()
    versions = {"pyproject.toml": tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]}
    for field in ("version", "appVersion"):
        versions[f"the chart's {field}"] = "".join(re.findall(rf"^{field}: (.*)$", chart, re.MULTILINE))
    others = [f"{where} is {version}" for where, version in versions.items() if version != found[1]]
    if others:
        raise ReleaseError(f"{tag} is not what would be released: {', '.join(others)}")
    return found[1]


def check_absent(name: str, command: Sequence[str], seconds: float = _SECONDS) -> None:
    """Check that something does not exist yet.

    Args:
        name: what is looked up, for messages.
        command: the command that looks it up; it succeeds if the thing exists.
        seconds: the command's deadline.

    Raises:
        ReleaseError: it exists, or it is not known whether it does.
    """
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReleaseError(f"whether {name} exists is not known: {error}") from error
    if asked.returncode == 0:
        raise ReleaseError(f"{name} exists, and no release is written over")
    said = " ".join(asked.stderr.split())
    if not _ABSENT.search(said):
        raise ReleaseError(f"whether {name} exists is not known: {said[-500:] or f'exit status {asked.returncode}'}")


def pin_images(digests: Mapping[str, str], root: Path = ROOT) -> None:
    """Write the digests of images into the chart's values.

    Args:
        digests: the digests, by the images' repositories, such as controller.
        root: the directory of charts.

    Raises:
        ReleaseError: one is no digest, or the values do not have one empty digest of that repository.
    """
    path = root / "charts/kubeballoon/values.yaml"
    values = path.read_text()
    for part, digest in digests.items():
        unpinned = f'{{repository: {part}, digest: ""}}'
        if _DIGEST.fullmatch(digest) is None:
            raise ReleaseError(f"the digest of {part} is {digest!r}")
        if values.count(unpinned) != 1:
            raise ReleaseError(
                f"values.yaml has {values.count(unpinned)} times {unpinned}, which must stand there once"
            )
        values = values.replace(unpinned, f'{{repository: {part}, digest: "{digest}"}}')
    path.write_text(values)


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; return the exit status."""
    try:
        match arguments:
            case ["version", tag]:
                print(version_of(tag))
            case ["absent", name, *command] if command:
                check_absent(name, command)
            case ["pin", *parts] if parts and all("=" in part for part in parts):
                pin_images({name: digest for name, _, digest in (part.partition("=") for part in parts)})
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ReleaseError as error:
        print(f"::error::{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
