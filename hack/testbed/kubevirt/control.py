"""The cluster's control plane: certificates, kubeconfigs, and the processes."""

from __future__ import annotations

from pathlib import Path

from hack.testbed.controlplane import build as control_plane
from hack.testbed.controlplane import kubeconfig as kubeconfigs
from hack.testbed.controlplane import pki

from . import build, network, processes

_SCRIPT = Path(__file__).with_name("control.sh")
_INSIDE = f"https://{network.NODE_ADDRESSES[0]}:{network.API_PORT}"
_NAMES = (
    *("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
    *("kubernetes.default.svc.cluster.local", network.LOOPBACK, network.API_SERVICE, *network.NODE_ADDRESSES),
)
_COREFILE = f"""\
.:53 {{
    bind {network.DNS_SERVICE}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig admin.kubeconfig
    }}
}}
"""


class Control:
    """The control plane of a cluster that is being made.

    Attributes:
        directory: Where its files are.
        authority: Signs the certificates of everything in the cluster.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.authority = pki.Authority.create("kubeballoon-cluster")

    def write(self, outside: Path, port: int) -> None:
        """Write what the control plane reads, and the administrator's kubeconfig for use outside of the cluster."""
        proxies = pki.Authority.create("kubeballoon-cluster-proxy")
        pairs = {
            "ca": self.authority.pair,
            "server": self.authority.server("kube-apiserver", _NAMES),
            "kubelet-client": self.authority.client("kube-apiserver-kubelet-client", ("system:masters",)),
            "proxy-ca": proxies.pair,
            "proxy": proxies.client("front-proxy-client"),
        }
        for name, pair in pairs.items():
            write_pair(self.directory / name, pair)
        write_secret(self.directory / "tokens.key", pki.signing_key())
        (self.directory / "Corefile").write_text(_COREFILE)
        for user in ("controller-manager", "scheduler"):
            self.kubeconfig(self.directory / f"{user}.kubeconfig", f"system:kube-{user}")
        self.kubeconfig(self.directory / "admin.kubeconfig", "kubeballoon-admin", "system:masters")
        forwarded = f"https://{network.LOOPBACK}:{port}"
        self.kubeconfig(outside, "kubeballoon-admin", "system:masters", server=forwarded)

    def kubeconfig(self, path: Path, user: str, *groups: str, server: str = _INSIDE) -> None:
        """Write the kubeconfig of a user, who has a new certificate."""
        authority = kubeconfigs.encoded(self.authority.pair.certificate)
        cluster = {"server": server, "certificate-authority-data": authority}
        kubeconfigs.write(path, cluster, kubeconfigs.certificate_user(self.authority.client(user, groups)))

    def start(self, namespace: Path, cgroups: list[Path]) -> None:
        """Start the control plane in the cluster's network namespace."""
        command = processes.namespace(_SCRIPT, self.directory, control_plane.control_plane(), build.dns())
        processes.start([*network.inside(namespace), *command], self.directory / "control.log", cgroups)


def write_pair(path: Path, pair: pki.KeyPair) -> None:
    """Write a certificate and its key beside each other, as NAME.crt and NAME.key."""
    path.with_suffix(".crt").write_bytes(pair.certificate)
    write_secret(path.with_suffix(".key"), pair.key)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file for its owner's eyes only."""
    path.touch(mode=0o600)
    path.write_bytes(content)
