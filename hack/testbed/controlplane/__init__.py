"""A real Kubernetes API for development and tests, without a container engine.

Code calls `open_control_plane`; a terminal runs `python -m hack.testbed.controlplane --help`.
"""

from __future__ import annotations

import os
from pathlib import Path

from .control_plane import ControlPlane, Manifest
from .errors import ControlPlaneError
from .existing_cluster import NamedControlPlane
from .local import LocalControlPlane
from .programs import Programs

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
"""The environment variable that names a cluster to use instead of local processes.

KUBECONFIG is not read: nobody should run tests on his own cluster by accident. Of KubeVirt, the cluster may have the
CRDs only: tests and demo create VMIs without a VM behind them, and virt-api refuses those.
"""


def open_control_plane(kubeconfig: Path | None = None, directory: Path | None = None) -> ControlPlane:
    """Return the control plane to use, not yet entered: the cluster that is named, else local processes.

    Args:
        kubeconfig: Of the cluster to use; None: the one that `KUBECONFIG_VARIABLE` names, if it is set.
        directory: Where local processes keep data, logs and kubeconfigs: new or empty; None: a temporary directory.

    Raises:
        ControlPlaneError: The kubeconfig or a program is missing, or the programs cannot be built.
    """
    named = kubeconfig or os.environ.get(KUBECONFIG_VARIABLE)
    if named:
        return NamedControlPlane(Path(named))
    return LocalControlPlane(Programs.find(), directory)
