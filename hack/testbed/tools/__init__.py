"""Programs that the chart's tests, and the demo, need: from PATH if new enough, else built from Go modules, once.

Each has its own locked go.mod here, so that what is built is the same everywhere.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.controlplane.build import GoModule, generated, parse_version, program, sources
from hack.testbed.controlplane.commands import run

_HERE = Path(__file__).resolve().parent
_ASK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Tool:
    """One program.

    Attributes:
        oldest: The oldest version that will do, where one is on PATH.
        ask: The arguments that make it tell its version.
        link_flags: What its own build would set.
    """

    name: str
    module: GoModule
    oldest: tuple[int, ...]
    ask: tuple[str, ...] = ("--version",)
    link_flags: str = ""

    def path(self) -> Path:
        """Where it is, once it is there.

        Raises:
            ControlPlaneError: It is not on PATH, and cannot be built.
        """
        found = shutil.which(self.name)
        if found and self._is_new_enough(found):
            return Path(found)
        return program(self.module, self.link_flags)

    def _is_new_enough(self, found: str) -> bool:
        try:
            return self.oldest <= parse_version(run([found, *self.ask], seconds=_ASK_SECONDS))
        except ControlPlaneError:
            return False


def _helm_flags(module: GoModule) -> str:
    """As its Makefile sets them: without these it takes Kubernetes for 1.20 where there is no cluster to ask."""
    _, minor, _ = module.requirement("k8s.io/client-go").split(".")
    kubernetes = {"k8sVersionMajor": "1", "k8sVersionMinor": minor}
    stamps = {"internal/version.version": module.requirement("helm.sh/helm/v3")} | {
        f"pkg/{package}.{name}": value for package in ("chartutil", "lint/rules") for name, value in kubernetes.items()
    }
    return " ".join(f"-X helm.sh/helm/v3/{name}={value}" for name, value in stamps.items())


_HELM = GoModule(_HERE / "helm", "building helm", "helm.sh/helm/v3/cmd/helm")

HELM = Tool("helm", _HELM, (3, 18), ("version", "--template={{.Version}}"), _helm_flags(_HELM))
"""Renders and installs the chart."""

KWOK = Tool("kwok", GoModule(_HERE / "kwok", "building kwok", "sigs.k8s.io/kwok/cmd/kwok"), (0, 7))
"""Stands in for kubelets: its nodes are ready, and its pods run."""

PROMTOOL = Tool(
    "promtool",
    # Without the clouds' service discoveries, most of its code, which no rule needs.
    GoModule(
        _HERE / "promtool",
        "building promtool",
        "github.com/prometheus/prometheus/cmd/promtool",
        ("remove_all_sd",),
    ),
    (3, 0),
)
"""Checks and tests alerting rules."""

TOOLS = (HELM, KWOK, PROMTOOL)
"""What the tests need."""

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
"""Scrapes what the picture of the dashboard is drawn from; without a user interface of its own."""

ACTIONLINT = Tool(
    "actionlint",
    GoModule(_HERE / "actionlint", "building actionlint", "github.com/rhysd/actionlint/cmd/actionlint"),
    (1, 7),
)
"""Checks the workflows."""

_MONITORING = GoModule(_HERE / "monitoring", "fetching the Prometheus operator's CRDs")
_OPERATOR = "github.com/prometheus-operator/prometheus-operator"


def monitoring_crds() -> list[Path]:
    """The files with the Prometheus operator's CRDs of PodMonitor and PrometheusRule.

    Raises:
        ControlPlaneError: They cannot be fetched.
    """
    directory = sources(_MONITORING, _OPERATOR) / "example/prometheus-operator-crd"
    return [directory / f"monitoring.coreos.com_{plural}.yaml" for plural in ("podmonitors", "prometheusrules")]


_FLUX = GoModule(_HERE / "flux", "generating Flux's CRDs")
_FLUX_KINDS = ("github.com/fluxcd/kustomize-controller/api/v1", "github.com/fluxcd/source-controller/api/v1")


def flux_crds() -> list[Path]:
    """The files with the CRDs of Flux's sources and Kustomization, generated from its API modules as its makers do.

    Raises:
        ControlPlaneError: They cannot be generated.
    """
    paths = (f"paths={package}" for package in _FLUX_KINDS)
    return sorted(generated(_FLUX, "controller-gen", "crd", *paths, "output:crd:dir={}").glob("*.yaml"))
