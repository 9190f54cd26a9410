"""A real Kubernetes API for development and tests, without a container engine.

`open_control_plane` gives one; `python -m hack.testbed.controlplane --help` is the same from a terminal.
"""

from __future__ import annotations

import os
from pathlib import Path

from .assets import Assets
from .errors import ControlPlaneError
from .plane import ControlPlane, Manifest, NamedControlPlane
from .server import LocalControlPlane

__all__ = [
    "KUBECONFIG_VARIABLE",
    "ControlPlane",
    "ControlPlaneError",
    "LocalControlPlane",
    "Manifest",
    "NamedControlPlane",
    "open_control_plane",
]

KUBECONFIG_VARIABLE = "KUBEBALLOON_KUBECONFIG"
"""Names a cluster to use instead of one of local processes. KUBECONFIG does not: this must be asked for.

Tests and demo make up VMIs, so of KubeVirt it may have the CRDs only: virt-api refuses such VMIs.
"""


def open_control_plane(kubeconfig: Path | None = None, directory: Path | None = None) -> ControlPlane:
    """The control plane to use, not yet entered: a named cluster, else local processes.

    Args:
        kubeconfig: Names a cluster; without it, `KUBECONFIG_VARIABLE` does.
        directory: Where local processes keep their files; see `LocalControlPlane`.

    Raises:
        ControlPlaneError: What was named is not there, or the programs could not be built.
    """
    named = kubeconfig or os.environ.get(KUBECONFIG_VARIABLE)
    if named:
        return NamedControlPlane(Path(named))
    return LocalControlPlane(Assets.find(), directory)
