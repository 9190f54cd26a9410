"""What every control plane offers, and the one that the user names."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from . import build, pki
from . import kubeconfig as kubeconfigs
from .assets import Assets
from .commands import run
from .errors import ControlPlaneError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

Manifest = Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A file or directory, the text of one, an object, or several."""

KUBEVIRT_CRDS = (
    "kubevirts.kubevirt.io",
    "virtualmachines.kubevirt.io",
    "virtualmachineinstances.kubevirt.io",
    "virtualmachineinstancemigrations.kubevirt.io",
    "virtualmachineinstancereplicasets.kubevirt.io",
    "virtualmachinepools.pool.kubevirt.io",
)
KUBECTL_SECONDS = 60.0
TOKEN_LIFETIME = "24h"  # noqa: S105  a duration
_POLL_SECONDS = 0.1
_FIELD_MANAGER = "kubeballoon-hack"


class ControlPlane(ABC):
    """A Kubernetes API to develop and test against; a context manager.

    Attributes:
        directory: Where the kubeconfigs go, and whatever else it writes.
        kubeconfig: The administrator's.
        kubectl_path: The kubectl it is driven with.
    """

    directory: Path
    kubeconfig: Path
    kubectl_path: Path

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    @property
    @abstractmethod
    def has_controllers(self) -> bool:
        """Whether a kube-controller-manager runs; see `assets.WITHOUT_CONTROLLERS`."""

    @abstractmethod
    def check(self) -> None:
        """Raises ControlPlaneError if a part of it has ended."""

    @abstractmethod
    def client_certificate(self, user: str, groups: Sequence[str] = ()) -> pki.KeyPair:
        """A new certificate, for client authentication, of a user in groups."""

    def kubectl(
        self,
        *arguments: str | Path,
        stdin: str | None = None,
        kubeconfig: Path | None = None,
        seconds: float = KUBECTL_SECONDS,
    ) -> str:
        """Runs kubectl, as the administrator or with another kubeconfig, and returns what it prints.

        Raises:
            ControlPlaneError: It failed, and this is what it wrote to stderr; or it missed the deadline.
        """
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            # What is discovered is kept by host and port, and another run's server may have had the same port.
            "KUBECACHEDIR": str(self.directory / "kubectl"),
        }
        return run([self.kubectl_path, *arguments], seconds=seconds, stdin=stdin, environment=environment)

    def apply(self, manifest: Manifest) -> str:
        """Applies objects (server-side, taking over their fields) and returns what kubectl prints.

        Raises:
            ControlPlaneError: The API server refused one.
        """
        command = ("apply", "--server-side", "--force-conflicts", f"--field-manager={_FIELD_MANAGER}", "--filename")
        if isinstance(manifest, Path):
            return self.kubectl(*command, manifest)
        return self.kubectl(*command, "-", stdin=_text(manifest))

    def apply_crds(self, manifest: Manifest) -> None:
        """Applies CustomResourceDefinitions and waits until they are served.

        Raises:
            ControlPlaneError: The API server refused one, or does not serve it in time.
        """
        applied = [line.split()[0].partition("/") for line in self.apply(manifest).splitlines()]
        names = [name for resource, _, name in applied if resource.startswith("customresourcedefinition.")]
        deadline = time.monotonic() + KUBECTL_SECONDS
        # Not `kubectl wait`: it gives up on an object whose conditions are still null.
        while waiting := self._not_established(names):
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"not served within {KUBECTL_SECONDS:g} s: {', '.join(waiting)}")
            time.sleep(_POLL_SECONDS)

    def _not_established(self, names: Sequence[str]) -> list[str]:
        definitions = json.loads(self.kubectl("get", "crd", "--output=json"))["items"]
        established = {
            definition["metadata"]["name"]
            for definition in definitions
            for condition in definition.get("status", {}).get("conditions") or ()
            if (condition["type"], condition["status"]) == ("Established", "True")
        }
        return [name for name in names if name not in established]

    def install_kubevirt_crds(self) -> None:
        """Installs those of KubeVirt's CRDs that are not there yet, and waits until they are served.

        Raises:
            ControlPlaneError: They could not be built or installed.
        """
        present = self.kubectl("get", "crd", "--output=jsonpath={.items[*].metadata.name}").split()
        missing = [name for name in KUBEVIRT_CRDS if name not in present]
        if missing:
            definitions = json.loads(build.kubevirt_crds().read_text())["items"]
            self.apply_crds([crd for crd in definitions if crd["metadata"]["name"] in missing])

    def service_account_kubeconfig(self, namespace: str, name: str, *, pod: str | None = None) -> Path:
        """A kubeconfig of a ServiceAccount that exists, with a token that lasts `TOKEN_LIFETIME`.

        Args:
            namespace: The ServiceAccount's, and the pod's.
            name: The ServiceAccount's.
            pod: Binds the token to this pod, which must run as the ServiceAccount; the token then carries the name of
                the pod's node, and ends with the pod.

        Raises:
            ControlPlaneError: There is no such ServiceAccount or pod.
        """
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}") if pod else ()
        lifetime = f"--duration={TOKEN_LIFETIME}"
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", lifetime, *bound).strip()
        return self._write_kubeconfig(("serviceaccount", namespace, name, pod or ""), {"token": token})

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig of a user in groups, with a client certificate.

        Raises:
            ControlPlaneError: No certificate could be got.
        """
        pair = self.client_certificate(user, groups)
        return self._write_kubeconfig(("user", user, *groups), kubeconfigs.certificate_user(pair))

    def _write_kubeconfig(self, identity: Sequence[str], user: Mapping[str, str]) -> Path:
        view = self.kubectl("config", "view", "--minify", "--flatten", "--raw", "--output=json")
        cluster = json.loads(view)["clusters"][0]["cluster"]
        name = quote("-".join(filter(None, identity)), safe="")
        return kubeconfigs.write(self.directory / f"{name}.kubeconfig", cluster, user)


class NamedControlPlane(ControlPlane):
    """A cluster that the user named. Nothing in it is deleted, and KubeVirt, if it is there, is left as it is."""

    def __init__(self, kubeconfig: Path) -> None:
        """Checks that the kubeconfig is there; whether it works shows when entered.

        Raises:
            ControlPlaneError: There is no such file.
        """
        if not kubeconfig.is_file():
            raise ControlPlaneError(f"no such kubeconfig: {kubeconfig}")
        self.kubeconfig = kubeconfig.absolute()

    def __enter__(self) -> Self:
        on_path = shutil.which("kubectl")
        self.kubectl_path = Path(on_path) if on_path else Assets.find().kubectl
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
        """True: without them it would hardly be called a cluster."""
        return True

    def check(self) -> None:
        """Raises ControlPlaneError if the cluster does not answer."""
        self.kubectl("get", "--raw=/readyz")

    def client_certificate(self, user: str, groups: Sequence[str] = ()) -> pki.KeyPair:
        """A certificate that the cluster signs itself; needs the right to approve it.

        Raises:
            ControlPlaneError: The request was refused, or nothing signed it.
        """
        request, key = pki.signing_request(user, groups)
        name = self.kubectl("create", "--filename=-", "--output=name", stdin=_text(_signing_request(request))).strip()
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


def _text(manifest: str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> str:
    if isinstance(manifest, str):
        return manifest
    if isinstance(manifest, Mapping):
        return json.dumps(manifest)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifest)})
