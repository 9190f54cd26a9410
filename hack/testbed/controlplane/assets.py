"""Where the control plane's programs come from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from . import build
from .errors import ControlPlaneError

DIRECTORY_VARIABLE = "KUBEBUILDER_ASSETS"
"""envtest's: a directory with etcd, kube-apiserver, kubectl, and perhaps the controller manager and the scheduler."""

REQUIRED = ("etcd", "kube-apiserver", "kubectl")

WITHOUT_CONTROLLERS = (
    "no kube-controller-manager: nothing is deleted with its owner, namespaces never finish deleting, Deployments, "
    "DaemonSets and Jobs make no pods, namespaces get no default ServiceAccount, signing requests are not signed"
)


@dataclass(frozen=True, slots=True)
class Assets:
    """The programs of a control plane.

    Attributes:
        kube_controller_manager: None where there is none; `WITHOUT_CONTROLLERS` says what is then missing.
        kube_scheduler: None where there is none: no pod is then given a node.
    """

    etcd: Path
    kube_apiserver: Path
    kubectl: Path
    kube_controller_manager: Path | None
    kube_scheduler: Path | None

    @classmethod
    def find(cls) -> Self:
        """The programs in `DIRECTORY_VARIABLE` if that is set, else those built before, else built now.

        Raises:
            ControlPlaneError: The directory lacks a program, or the build failed.
        """
        named = os.environ.get(DIRECTORY_VARIABLE)
        if named:
            return cls.in_directory(Path(named).absolute())
        return cls.in_directory(build.control_plane())

    @classmethod
    def in_directory(cls, directory: Path) -> Self:
        """The programs in one directory.

        Raises:
            ControlPlaneError: One that is necessary is not there.
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
