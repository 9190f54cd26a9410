"""LocalControlPlane: the real etcd, kube-apiserver and kube-controller-manager as processes on loopback."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Self

from . import kubeconfig as kubeconfigs
from . import pki
from .control_plane import ControlPlane
from .daemon import Daemon
from .errors import ControlPlaneError
from .programs import WITHOUT_CONTROLLERS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from .programs import Programs

READY_SECONDS = 120.0
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_REQUEST_SECONDS = 5.0

_LOOPBACK = "127.0.0.1"
_SERVICE_RANGE = "10.96.0.0/16"
_ETCD_SOCKET = "unix://etcd.sock"  # relative: an absolute path may exceed the 107 bytes of a socket's


class LocalControlPlane(ControlPlane):
    """A control plane of local processes that run inside the context, with ports and certificates of their own.

    There is no kubelet: nothing runs the pods, and the only nodes are those that the caller creates.
    """

    def __init__(self, programs: Programs, directory: Path | None = None, *, scheduling: bool = False) -> None:
        """Remember the settings; the processes start when the context is entered.

        Args:
            programs: The executables to run.
            directory: Where data, logs and kubeconfigs are written: new or empty, and kept at the end. None: a
                temporary directory, which is kept only if an error refers to a log in it.
            scheduling: Whether a kube-scheduler runs, which assigns pods to nodes.
        """
        self._programs = programs
        self._given_directory = directory
        self._scheduling = scheduling
        self._daemons: list[Daemon] = []
        self.kubectl_path = programs.kubectl

    def __enter__(self) -> Self:
        self.directory = self._make_directory()
        self._authority = pki.Authority.create("kubeballoon-development")
        self._admin = self._authority.client("kubeballoon-admin", ("system:masters",))
        try:
            self._start()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close(error)

    @property
    def has_controllers(self) -> bool:
        """Whether the programs include a kube-controller-manager."""
        return self._programs.kube_controller_manager is not None

    def check(self) -> None:
        """Raise ControlPlaneError if one of the processes has ended."""
        for daemon in self._daemons:
            daemon.check()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Stop the API server (SIGSTOP) inside the context, so that it hangs."""
        server = self._api_server()
        server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.send_signal(signal.SIGCONT)

    @contextmanager
    def without_etcd(self) -> Iterator[None]:
        """Kill etcd, and start it anew on the same data after the context."""
        (place,) = (place for place, daemon in enumerate(self._daemons) if daemon.name == self._programs.etcd.name)
        self._daemons[place].stop(0)
        try:
            yield
        finally:
            self._daemons[place] = Daemon.start(self._programs.etcd, _ETCD_FLAGS, self.directory)
            self._await("the API server", self._api_server_is_ready)

    @property
    def api_server_pid(self) -> int:
        """The number of the API server's process."""
        return self._api_server().pid

    def _api_server(self) -> subprocess.Popen[bytes]:
        (server,) = (daemon.process for daemon in self._daemons if daemon.name == self._programs.kube_apiserver.name)
        return server

    def client_certificate(self, user: str, groups: Sequence[str] = ()) -> pki.KeyPair:
        """Issue a client certificate, signed by the control plane's own authority."""
        return self._authority.client(user, groups)

    def _make_directory(self) -> Path:
        if self._given_directory is None:
            return Path(tempfile.mkdtemp(prefix="kubeballoon-"))
        directory = self._given_directory.absolute()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            occupied = any(directory.iterdir())
        except OSError as error:
            raise ControlPlaneError(f"not usable as a directory: {error}") from error
        if occupied:
            raise ControlPlaneError(f"{directory} is not empty")
        return directory

    def _start(self) -> None:
        self._write_keys()
        self._tls = ssl.create_default_context(cafile=self.directory / "ca.crt")
        self._tls.load_cert_chain(self.directory / "admin.crt", self.directory / "admin.key")
        self._daemons.append(Daemon.start(self._programs.etcd, _ETCD_FLAGS, self.directory))
        # This socket is bound but never listens. It keeps the port from other processes until the API server, which
        # shares it (SO_REUSEPORT), has bound it too.
        with socket.socket() as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((_LOOPBACK, 0))
            self._port = holder.getsockname()[1]
            self._start_api_server()
        if self._programs.kube_controller_manager is None:
            print(f"note: {WITHOUT_CONTROLLERS}", file=sys.stderr)
        else:
            self._start_controllers(self._programs.kube_controller_manager)
        if self._scheduling:
            self._start_scheduler(self._programs.kube_scheduler)

    def _write_keys(self) -> None:
        """Write the keys and certificates that the API server and the controllers read in their working directory."""
        pairs = {
            "ca": self._authority.pair,
            "server": self._authority.server("kube-apiserver", (_LOOPBACK, "localhost", "kubernetes.default.svc")),
            "admin": self._admin,
        }
        for name, pair in pairs.items():
            (self.directory / f"{name}.crt").write_bytes(pair.certificate)
            _write_secret(self.directory / f"{name}.key", pair.key)
        _write_secret(self.directory / "tokens.key", pki.signing_key())

    def _start_api_server(self) -> None:
        self.kubeconfig = self._write_admin_kubeconfig()
        # This admission plugin insists on a default ServiceAccount, and only the controllers create one.
        without = () if self.has_controllers else ("--disable-admission-plugins=ServiceAccount",)
        flags = (f"--secure-port={self._port}", *_API_SERVER_FLAGS, *without)
        self._daemons.append(Daemon.start(self._programs.kube_apiserver, flags, self.directory))
        self._await("the API server", self._api_server_is_ready)

    def _write_admin_kubeconfig(self) -> Path:
        authority = kubeconfigs.encoded(self._authority.pair.certificate)
        cluster = {"server": f"https://{_LOOPBACK}:{self._port}", "certificate-authority-data": authority}
        user = kubeconfigs.certificate_user(self._admin)
        return kubeconfigs.write(self.directory / "admin.kubeconfig", cluster, user)

    def _start_controllers(self, program: Path) -> None:
        self._daemons.append(Daemon.start(program, _CONTROLLER_FLAGS, self.directory))
        # The API server refuses pods until the ServiceAccount exists, and its existence shows that controllers run.
        self._await("the controllers", self._default_service_account_exists)

    def _start_scheduler(self, program: Path | None) -> None:
        if program is None:
            raise ControlPlaneError("no kube-scheduler, which is needed to give pods nodes")
        self._daemons.append(Daemon.start(program, _SCHEDULER_FLAGS, self.directory))

    def _await(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"{what} not ready within {READY_SECONDS:g} s", self._daemons[-1].log)
            time.sleep(_POLL_SECONDS)

    def _api_server_is_ready(self) -> bool:
        return self._answers("/readyz")

    def _default_service_account_exists(self) -> bool:
        return self._answers("/api/v1/namespaces/default/serviceaccounts/default")

    def _answers(self, path: str) -> bool:
        """Whether a GET as the administrator succeeds."""
        connection = HTTPSConnection(_LOOPBACK, self._port, timeout=_REQUEST_SECONDS, context=self._tls)
        try:
            with closing(connection):
                connection.request("GET", path)
                return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False

    def _close(self, error: BaseException | None) -> None:
        """Stop the daemons in reverse order of their start, so that each outlives those that depend on it."""
        deadline = time.monotonic() + STOP_SECONDS
        while self._daemons:
            self._daemons.pop().stop(max(0.0, deadline - time.monotonic()))
        log_matters = isinstance(error, ControlPlaneError) and error.log is not None
        if self._given_directory is None and not log_matters:
            shutil.rmtree(self.directory, ignore_errors=True)


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


_ETCD_FLAGS = (
    "--data-dir=etcd",
    f"--listen-client-urls={_ETCD_SOCKET}",
    "--advertise-client-urls=http://localhost:2379",  # etcd insists on a host and port; nobody connects to it
    "--listen-peer-urls=unix://peer.sock",
    "--unsafe-no-fsync",  # the data is deleted at the end
    "--log-level=warn",
)
_API_SERVER_FLAGS = (
    f"--bind-address={_LOOPBACK}",
    "--permit-port-sharing",
    f"--etcd-servers={_ETCD_SOCKET}",
    "--tls-cert-file=server.crt",
    "--tls-private-key-file=server.key",
    "--client-ca-file=ca.crt",
    "--authorization-mode=RBAC",
    "--service-account-issuer=https://kubernetes.default.svc",
    "--service-account-key-file=tokens.key",
    "--service-account-signing-key-file=tokens.key",
    f"--service-cluster-ip-range={_SERVICE_RANGE}",
    "--endpoint-reconciler-type=none",  # an endpoint on loopback would be of no use to pods
    "--allow-privileged",
)
_CONTROLLER_FLAGS = (
    "--kubeconfig=admin.kubeconfig",
    "--leader-elect=false",
    "--secure-port=0",
    # No kubelet renews a node's Lease, so these two controllers would declare every node dead and evict its pods.
    "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller",
    "--service-account-private-key-file=tokens.key",
    "--root-ca-file=ca.crt",
    "--cluster-signing-cert-file=ca.crt",
    "--cluster-signing-key-file=ca.key",
    f"--service-cluster-ip-range={_SERVICE_RANGE}",
)
_SCHEDULER_FLAGS = ("--kubeconfig=admin.kubeconfig", "--leader-elect=false", "--secure-port=0")
