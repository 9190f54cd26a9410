"""ControlPlane: what tests and demo can do with any control plane, local or named by the user."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from . import build, pki
from . import kubeconfig as kubeconfigs
from .commands import run
from .errors import ControlPlaneError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

Manifest = Path | str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""Objects to apply: the path of a file or directory, the text of a file, one object, or several."""

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
    """A Kubernetes API for development and tests; a context manager, which runs it.

    Attributes:
        directory: Where it writes kubeconfigs and its other files.
        kubeconfig: The kubeconfig of the administrator.
        kubectl_path: The kubectl that it is used with.
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
        """Whether a kube-controller-manager runs; `programs.WITHOUT_CONTROLLERS` says what is missing without one."""

    @abstractmethod
    def check(self) -> None:
        """Raise ControlPlaneError if the control plane does not run or answer any more."""

    @abstractmethod
    def client_certificate(self, user: str, groups: Sequence[str] = ()) -> pki.KeyPair:
        """Issue a new client certificate for a user who is in the groups."""

    def kubectl(
        self,
        *arguments: str | Path,
        stdin: str | None = None,
        kubeconfig: Path | None = None,
        seconds: float = KUBECTL_SECONDS,
    ) -> str:
        """Run kubectl, as the administrator or with another kubeconfig, and return what it prints.

        Raises:
            ControlPlaneError: kubectl failed (the message has its stderr) or missed the deadline of ``seconds``.
        """
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            # kubectl caches the discovered kinds by host and port, and a server of another run may have had this port.
            "KUBECACHEDIR": str(self.directory / "kubectl"),
        }
        return run([self.kubectl_path, *arguments], seconds=seconds, stdin=stdin, environment=environment)

    def apply(self, manifest: Manifest) -> str:
        """Apply objects (server-side, taking over their fields), and return what kubectl prints.

        Raises:
            ControlPlaneError: The API server refused one.
        """
        command = ("apply", "--server-side", "--force-conflicts", f"--field-manager={_FIELD_MANAGER}", "--filename")
        if isinstance(manifest, Path):
            return self.kubectl(*command, manifest)
        return self.kubectl(*command, "-", stdin=manifest_text(manifest))

    def apply_crds(self, manifest: Manifest) -> None:
        """Apply CustomResourceDefinitions, and wait until they are served.

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
        """Install those of KubeVirt's CRDs that are missing, and wait until they are served.

        Raises:
            ControlPlaneError: The CRDs cannot be built or installed.
        """
        present = self.kubectl("get", "crd", "--output=jsonpath={.items[*].metadata.name}").split()
        missing = [name for name in KUBEVIRT_CRDS if name not in present]
        if missing:
            definitions = json.loads(build.kubevirt_crds())["items"]
            self.apply_crds([crd for crd in definitions if crd["metadata"]["name"] in missing])

    def service_account_kubeconfig(self, namespace: str, name: str, *, pod: str | None = None) -> Path:
        """Write a kubeconfig for an existing ServiceAccount, with a token that lasts `TOKEN_LIFETIME`.

        Args:
            namespace: Of the ServiceAccount and of the pod.
            name: Of the ServiceAccount.
            pod: The pod that the token is bound to; it must run as the ServiceAccount. The token then names the pod's
                node, and becomes invalid with the pod.

        Raises:
            ControlPlaneError: There is no such ServiceAccount or pod.
        """
        bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}") if pod else ()
        lifetime = f"--duration={TOKEN_LIFETIME}"
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", lifetime, *bound).strip()
        return self._write_kubeconfig(("serviceaccount", namespace, name, pod or ""), {"token": token})

    def user_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig, with a client certificate, for a user who is in the groups.

        Raises:
            ControlPlaneError: The control plane issues no certificate.
        """
        pair = self.client_certificate(user, groups)
        return self._write_kubeconfig(("user", user, *groups), kubeconfigs.certificate_user(pair))

    def _write_kubeconfig(self, identity: Sequence[str], user: Mapping[str, str]) -> Path:
        view = self.kubectl("config", "view", "--minify", "--flatten", "--raw", "--output=json")
        cluster = json.loads(view)["clusters"][0]["cluster"]
        name = quote("-".join(filter(None, identity)), safe="")
        return kubeconfigs.write(self.directory / f"{name}.kubeconfig", cluster, user)


def manifest_text(manifest: str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> str:
    """Return the text that `kubectl --filename=-` reads: the text itself, or objects in JSON."""
    if isinstance(manifest, str):
        return manifest
    if isinstance(manifest, Mapping):
        return json.dumps(manifest)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifest)})
