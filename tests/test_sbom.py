"""An image's list of what it consists of is complete, or the build fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hack.sbom import find_faults


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a root file system with a Debian package and a Python package."""
    debian = tmp_path / "var/lib/dpkg/status.d/libssl3"
    python = tmp_path / "opt/kubeballoon/lib/python3.13/site-packages/python_dateutil-4.0.0.dist-info/METADATA"
    for path, text in (
        (debian, "Package: libssl3\nVersion: 3.0.22-1\nDescription: libraries\n"),
        (python, "Metadata-Version: 2.4\nName: python-dateutil\nVersion: 4.0.0\n\nVersion: 9 is in the text only\n"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


def sbom(**packages: str) -> dict[str, Any]:
    return {"packages": [{"name": name, "versionInfo": version} for name, version in packages.items()]}


def test_a_list_with_all_packages_and_their_versions_passes(root: Path) -> None:
    assert list(find_faults(root, sbom(libssl3="3.0.22-1", python_dateutil="4.0.0", python="3.13.5"))) == []


@pytest.mark.parametrize("other", [{}, {"python_dateutil": "3.9"}])
def test_a_package_that_is_missing_or_has_another_version_is_named(root: Path, other: dict[str, str]) -> None:
    (fault,) = find_faults(root, sbom(libssl3="3.0.22-1", **other))
    assert fault == "python-dateutil 4.0.0 is in the image, but not in the list"


def test_a_shell_or_a_package_manager_is_a_fault(root: Path) -> None:
    faults = list(find_faults(root, sbom(libssl3="3.0.22-1", python_dateutil="4.0.0", dash="0.5", apt="2.6")))
    assert faults == ["apt should not be in the image", "dash should not be in the image"]


def test_a_directory_without_packages_is_no_image(tmp_path: Path) -> None:
    (fault,) = find_faults(tmp_path, sbom())
    assert "has no packages" in fault
