"""NamedControlPlane: a cluster that the user names by its kubeconfig."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from . import kubeconfig as kubeconfigs
from . import pki
from .control_plane import KUBECTL_SECONDS, ControlPlane, manifest_text
from .errors import ControlPlaneError
from .programs import Programs

if TYPE_CHECKING:
    from types import TracebackType


class NamedControlPlane(ControlPlane):
    """A cluster that the user names. Nothing in it is deleted, and an installed KubeVirt is not changed."""

    def __init__(self, kubeconfig: Path) -> None:
        """Check that the kubeconfig exists; entering the context checks that the cluster answers.

        Raises:
            ControlPlaneError: There is no such file.
        """
        if not kubeconfig.is_file():
            raise ControlPlaneError(f"no such kubeconfig: {kubeconfig}")
        self.kubeconfig = kubeconfig.absolute()

    def __enter__(self) -> Self:
        on_path = shutil.which("kubectl")
        self.kubectl_path = Path(on_path) if on_path else Programs.find().kubectl
        self._scratch = tempfile.TemporaryDirectory(prefix="kubeballoon-")
        self.directory = Path(self._scratch.name)
        try:
            self.check()
        except BaseException:
            self._scratch.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scratch.cleanup()

    @property
    def has_controllers(self) -> bool:
        """True: a named cluster is assumed to be complete."""
        return True

    def check(self) -> None:
        """Raise ControlPlaneError if the cluster does not answer."""
        self.kubectl("get", "--raw=/readyz")

    def client_certificate(self, user: str, groups: Sequence[str] = ()) -> pki.KeyPair:
        """Have the cluster sign a client certificate; the administrator must be allowed to approve the request.

        Raises:
            ControlPlaneError: The request was refused, or nothing signed it in time.
        """
        request, key = pki.signing_request(user, groups)
        name = self.kubectl(
            "create", "--filename=-", "--output=name", stdin=manifest_text(_signing_request(request))
        ).strip()
        self.kubectl("certificate", "approve", name)
        field = "jsonpath={.status.certificate}"
        self.kubectl("wait", name, f"--for={field}", f"--timeout={KUBECTL_SECONDS:g}s")
        return pki.KeyPair(base64.b64decode(self.kubectl("get", name, f"--output={field}")), key)


def _signing_request(request: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "kubeballoon-"},
        "spec": {
            "request": kubeconfigs.encoded(request),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
            "expirationSeconds": 86400,
        },
    }
