"""Tools, such as helm and promtool, that tests and demo need: from PATH if new enough, else built from Go modules.

Each tool has its own go.mod with locked dependencies here, so that builds are the same everywhere.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.controlplane.build import (
    GoModule,
    cache_directory,
    generated,
    parse_version,
    program,
    program_entry,
    sources,
)
from hack.testbed.controlplane.commands import run

_HERE = Path(__file__).resolve().parent
_ASK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that is on PATH, or can be built.

    Attributes:
        module: The Go module that builds it.
        oldest: The oldest version on PATH that will do.
        version_arguments: The arguments that make it print its version.
        link_flags: The linker flags that its own Makefile would set.
    """

    name: str
    module: GoModule
    oldest: tuple[int, ...]
    version_arguments: tuple[str, ...] = ("--version",)
    link_flags: str = ""

    def path(self) -> Path:
        """Return the path of the program, which is built if it is not on PATH and was not built before.

        Raises:
            ControlPlaneError: The program is not on PATH, and cannot be built.
        """
        return self._on_path() or program(self.module, self.link_flags)

    def is_at_hand(self) -> bool:
        """Whether the program is on PATH or was built before."""
        return self._on_path() is not None or (cache_directory() / program_entry(self.module)).exists()

    def _on_path(self) -> Path | None:
        found = shutil.which(self.name)
        return Path(found) if found and self._is_new_enough(found) else None

    def _is_new_enough(self, found: str) -> bool:
        try:
            return self.oldest <= parse_version(run([found, *self.version_arguments], seconds=_ASK_SECONDS))
        except ControlPlaneError:
            return False


def _helm_flags(module: GoModule) -> str:
    """Return the linker flags of helm's own Makefile: without them, it assumes Kubernetes 1.20 if it has no cluster."""
    _, minor, _ = module.requirement("k8s.io/client-go").split(".")
    kubernetes = {"k8sVersionMajor": "1", "k8sVersionMinor": minor}
    stamps = {"internal/version.version": module.requirement("helm.sh/helm/v3")} | {
        f"pkg/{package}.{name}": value for package in ("chartutil", "lint/rules") for name, value in kubernetes.items()
    }
    return " ".join(f"-X helm.sh/helm/v3/{name}={value}" for name, value in stamps.items())


_HELM = GoModule(_HERE / "helm", "building helm", "helm.sh/helm/v3/cmd/helm")

HELM = Tool("helm", _HELM, (3, 18), ("version", "--template={{.Version}}"), _helm_flags(_HELM))
"""helm renders and installs the chart."""

KWOK = Tool("kwok", GoModule(_HERE / "kwok", "building kwok", "sigs.k8s.io/kwok/cmd/kwok"), (0, 7))
"""kwok stands in for kubelets: it reports nodes ready and pods running."""

PROMTOOL = Tool(
    "promtool",
    # remove_all_sd leaves out service discovery for clouds: most of the code, and no rule needs it.
    GoModule(
        _HERE / "promtool",
        "building promtool",
        "github.com/prometheus/prometheus/cmd/promtool",
        ("remove_all_sd",),
    ),
    (3, 0),
)
"""promtool checks and tests the alerting rules."""

TOOLS = (HELM, KWOK, PROMTOOL)
"""The tools that the tests need."""

PROMETHEUS = Tool(
    "prometheus",
    GoModule(
        _HERE / "prometheus",
        "building Prometheus",
        "github.com/prometheus/prometheus/cmd/prometheus",
        ("remove_all_sd",),
    ),
    (3, 0),
)
"""Prometheus scrapes the data for `make dashboard`. It is built without its user interface."""

ACTIONLINT = Tool(
    "actionlint",
    GoModule(_HERE / "actionlint", "building actionlint", "github.com/rhysd/actionlint/cmd/actionlint"),
    (1, 7),
)
"""actionlint checks the workflows of GitHub Actions."""

KREW = Tool(
    "validate-krew-manifest",
    GoModule(_HERE / "krew", "building krew's check of manifests", "sigs.k8s.io/krew/cmd/validate-krew-manifest"),
    (0, 4),
)
"""krew's own check of a plugin's manifest."""

_MONITORING = GoModule(_HERE / "monitoring", "fetching the Prometheus operator's CRDs")
_OPERATOR = "github.com/prometheus-operator/prometheus-operator"


def monitoring_crds() -> list[Path]:
    """Return the files with the Prometheus operator's CRDs of PodMonitor and PrometheusRule.

    Raises:
        ControlPlaneError: The CRDs cannot be fetched.
    """
    directory = sources(_MONITORING, _OPERATOR) / "example/prometheus-operator-crd"
    return [directory / f"monitoring.coreos.com_{plural}.yaml" for plural in ("podmonitors", "prometheusrules")]


_FLUX = GoModule(_HERE / "flux", "generating Flux's CRDs")
_FLUX_KINDS = ("github.com/fluxcd/kustomize-controller/api/v1", "github.com/fluxcd/source-controller/api/v1")


def flux_crds() -> list[Path]:
    """Return the files with the CRDs of Flux's sources and Kustomization, generated from its API as Flux does.

    Raises:
        ControlPlaneError: The CRDs cannot be generated.
    """
    paths = (f"paths={package}" for package in _FLUX_KINDS)
    return sorted(generated(_FLUX, "controller-gen", "crd", *paths, "output:crd:dir={}").glob("*.yaml"))
