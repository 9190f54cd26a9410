"""Programs: the executables of a control plane, and where they are found."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import build
from .errors import ControlPlaneError

DIRECTORY_VARIABLE = "KUBEBUILDER_ASSETS"
"""The environment variable, the same as envtest's, that names a directory with the executables.

etcd, kube-apiserver and kubectl must be there; kube-controller-manager and kube-scheduler may be.
"""

REQUIRED = ("etcd", "kube-apiserver", "kubectl")

WITHOUT_CONTROLLERS = (
    "no kube-controller-manager: nothing is deleted with its owner, namespaces never finish deleting, Deployments, "
    "DaemonSets and Jobs make no pods, namespaces get no default ServiceAccount, signing requests are not signed"
)


@dataclass(frozen=True, slots=True)
class Programs:
    """The paths of a control plane's executables.

    Attributes:
        kube_controller_manager: None if there is none; `WITHOUT_CONTROLLERS` says what is then missing.
        kube_scheduler: None if there is none; pods are then not assigned to nodes.
    """

    etcd: Path
    kube_apiserver: Path
    kubectl: Path
    kube_controller_manager: Path | None
    kube_scheduler: Path | None

    @classmethod
    def find(cls) -> Self:
        """Return the programs in the directory that `DIRECTORY_VARIABLE` names, else those built into the cache.

        Raises:
            ControlPlaneError: The directory lacks a required program, or the build failed.
        """
        named = os.environ.get(DIRECTORY_VARIABLE)
        if named:
            return cls.in_directory(Path(named).absolute())
        return cls.in_directory(build.control_plane())

    @classmethod
    def in_directory(cls, directory: Path) -> Self:
        """Return the programs in a directory.

        Raises:
            ControlPlaneError: The directory lacks a required program.
        """
        found = {name: directory / name for name in build.PROGRAMS if os.access(directory / name, os.X_OK)}
        missing = [name for name in REQUIRED if name not in found]
        if missing:
            raise ControlPlaneError(f"no {' and no '.join(missing)} in {directory}")
        return cls(
            etcd=found["etcd"],
            kube_apiserver=found["kube-apiserver"],
            kubectl=found["kubectl"],
            kube_controller_manager=found.get("kube-controller-manager"),
            kube_scheduler=found.get("kube-scheduler"),
        )
