"""What demo and tests would have to build otherwise is shipped, and lint tells when it is stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from hack import generate_testbed
from hack.testbed import chart
from hack.testbed.controlplane import build


@pytest.fixture(autouse=True)
def _nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))


def test_what_is_shipped_was_made_from_this_checkout() -> None:
    assert list(generate_testbed.stale()) == []


def test_a_rendering_of_another_chart_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "chart.yaml"
    other.write_text("# charts/kubeballoon 0123456789abcdef, rendered by `make generate`; do not edit.\n")
    monkeypatch.setattr(chart, "SHIPPED", other)
    assert list(generate_testbed.stale()) == [other]


def test_crds_that_the_generator_prints_otherwise_are_stale() -> None:
    built = build.cache_directory() / build.KUBEVIRT_CRDS_ENTRY
    built.parent.mkdir()
    built.write_text(build.kubevirt_crds())
    assert list(generate_testbed.stale()) == []
    built.write_text("{}")
    assert list(generate_testbed.stale()) == [build.shipped_kubevirt_crds()]
