"""The GitOps examples are valid objects of Flux's kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hack.testbed.controlplane import ControlPlane, ControlPlaneError
from hack.testbed.tools import flux_crds

pytestmark = pytest.mark.cluster

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/flux/kustomization.yaml"


@pytest.fixture(scope="module")
def flux(cluster: ControlPlane) -> ControlPlane:
    """The cluster with Flux's CRDs and its namespace."""
    cluster.apply_crds([yaml.safe_load(path.read_text()) for path in flux_crds()])
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flux-system"}})
    return cluster


def created(flux: ControlPlane, text: str) -> list[str]:
    command = ("create", "--dry-run=server", "--validate=strict", "--output=name", "--filename=-")
    return flux.kubectl(*command, stdin=text).splitlines()


def test_flux_accepts_its_example(flux: ControlPlane) -> None:
    assert created(flux, EXAMPLE.read_text()) == [
        "gitrepository.source.toolkit.fluxcd.io/cluster",
        "kustomization.kustomize.toolkit.fluxcd.io/memory-policies",
    ]


def test_flux_would_refuse_a_mistake_in_it(flux: ControlPlane) -> None:
    wrong = EXAMPLE.read_text().replace("interval: 10m", "interval: often")
    with pytest.raises(ControlPlaneError, match=r"spec\.interval"):
        created(flux, wrong)
