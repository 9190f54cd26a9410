"""What a release checks: its version, that nothing was released as it before, and that its chart names its images."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

import kubeballoon
from hack.release import ROOT, ReleaseError, check_absent, main, pin_images, version_of

IMAGE = "ghcr.io/kubeballoon/agent:1.2.3"
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def registry(said: str, status: int) -> list[str]:
    """Return a command that answers like a registry's client."""
    return ["sh", "-c", f"echo {shlex.quote(said)} >&2; exit {status}"]


@pytest.mark.parametrize(
    "said",
    [
        f"ERROR: {IMAGE}: not found",
        f"ERROR: failed to do request: {IMAGE}: manifest unknown: manifest unknown",
        'Error: failed to perform "FetchReference" on source: ghcr.io/kubeballoon/charts/kubeballoon:1.2.3: not found',
        "release not found",
    ],
)
def test_what_a_registry_does_not_know_may_be_released(said: str) -> None:
    check_absent(IMAGE, registry(said, 1))


def test_what_exists_is_not_released_again() -> None:
    with pytest.raises(ReleaseError, match=f"^{IMAGE} exists, and no release is written over$"):
        check_absent(IMAGE, registry("", 0))


@pytest.mark.parametrize(
    "said",
    [
        "ERROR: unexpected status from HEAD request to https://ghcr.io/v2/kubeballoon/agent/manifests/1.2.3: 503",
        "denied: denied",
        "dial tcp: lookup ghcr.io on 127.0.0.53:53: server misbehaving",
        "sh: docker: not found anywhere",
        "",
    ],
)
def test_a_registry_that_cannot_be_asked_is_no_registry_without_it(said: str) -> None:
    with pytest.raises(ReleaseError, match="is not known"):
        check_absent(IMAGE, registry(said, 1))


def test_a_client_that_is_missing_or_hangs_is_no_answer() -> None:
    with pytest.raises(ReleaseError, match="is not known"):
        check_absent(IMAGE, ["/no/such/client"])
    with pytest.raises(ReleaseError, match="timed out"):
        check_absent(IMAGE, ["sleep", "600"], seconds=0.1)


def repository(directory: Path, version: str) -> Path:
    """Copy what a release looks at, with another version of the package."""
    chart = directory / "charts/kubeballoon"
    chart.mkdir(parents=True)
    (directory / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    for name in ("Chart.yaml", "values.yaml"):
        (chart / name).write_text((ROOT / "charts/kubeballoon" / name).read_text())
    return directory


def test_a_tag_releases_the_version_that_package_and_chart_have(tmp_path: Path) -> None:
    assert version_of(f"v{kubeballoon.__version__}") == kubeballoon.__version__
    with pytest.raises(ReleaseError, match=r"pyproject\.toml is 9\.9\.9$"):
        version_of(f"v{kubeballoon.__version__}", repository(tmp_path, "9.9.9"))
    with pytest.raises(ReleaseError, match=r"the chart's version is .*, the chart's appVersion is "):
        version_of("v9.9.9", tmp_path)
    with pytest.raises(ReleaseError, match="is no tag of a release"):
        version_of("v1.2.3-rc1")


def test_the_chart_of_a_release_names_its_images_by_digest(tmp_path: Path) -> None:
    root = repository(tmp_path, "1.2.3")
    pin_images(dict.fromkeys(("controller", "agent"), DIGEST), root)
    values = yaml.safe_load((root / "charts/kubeballoon/values.yaml").read_text())
    for part in ("controller", "agent"):
        assert values[part]["image"] == {"repository": part, "digest": DIGEST}
    with pytest.raises(ReleaseError, match="has 0 times"):
        pin_images({"agent": DIGEST}, root)
    with pytest.raises(ReleaseError, match="the digest of agent is ''"):
        pin_images({"agent": ""}, root)


def test_a_refusal_is_one_line_that_the_workflow_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["absent", IMAGE, "true"]) == 1
    assert capsys.readouterr().err == f"::error::{IMAGE} exists, and no release is written over\n"
    assert main(["absent", IMAGE, *registry("release not found", 1)]) == 0
    assert main(["version", f"v{kubeballoon.__version__}"]) == 0
    assert capsys.readouterr().out == f"{kubeballoon.__version__}\n"
    assert main(["absent", IMAGE]) == 2
