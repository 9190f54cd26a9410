"""One node: a kubelet and a containerd in mount and pid namespaces of their own."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.controlplane.commands import run

from . import build, cgroups, control, network, processes
from .control import Control
from .kubevirt import PAUSE

MEMORY_BYTES = 4 << 30
"""What the pods of a node may use together."""

_MEMORY = Path("/proc/meminfo")
_SCRIPT = Path(__file__).with_name("node.sh")
_PLUGINS = "/usr/lib/cni"  # Debian's
_START_SECONDS = 60.0
_IMPORT_SECONDS = 600.0
_POLL_SECONDS = 0.2

_CONTAINERD = f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # A root without CAP_SYS_RESOURCE cannot make containers harder to kill than itself.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_PLUGINS}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A node that is there, or is being made; numbers start with 1."""

    number: int
    directory: Path

    @property
    def name(self) -> str:
        """Its name in Kubernetes, and that of its pods' cgroup."""
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        """Its address in the cluster's network namespace."""
        return network.NODE_ADDRESSES[self.number - 1]

    def write(self, plane: Control) -> None:
        """Write what its programs read; they find it in /etc/node."""
        etc = self.directory / "etc"
        etc.mkdir(parents=True)
        (etc / "name").write_text(self.name)
        (etc / "address").write_text(self.address)
        (etc / "resolv.conf").write_text("")  # nothing outside of the cluster is asked
        (etc / "containerd.toml").write_text(_CONTAINERD)
        (etc / "cni.conflist").write_text(json.dumps(network.plugin_configuration(self.number)))
        (etc / "kubelet.json").write_text(json.dumps(self._kubelet_configuration()))
        (etc / "ca.crt").write_bytes(plane.authority.pair.certificate)
        control.write_pair(
            etc / "kubelet", plane.authority.server(f"system:node:{self.name}", (self.name, self.address))
        )
        plane.kubeconfig(etc / "kubeconfig", f"system:node:{self.name}", "system:nodes")

    def start(self, namespace: Path, roots: list[Path], *, kvm: bool) -> None:
        """Start it in the cluster's network namespace."""
        cgroups.create(self.name, roots)
        own = cgroups.create(f"{self.name}-system", roots)
        command = processes.namespace(_SCRIPT, self.directory, build.kubelet(), str(int(kvm)))
        log = self.directory / "node.log"
        pid = processes.start([*network.inside(namespace), *command], log, own)
        (self.directory / "pid").write_text(str(pid))

    def import_images(self, *archives: Path) -> None:
        """Give its containerd the images of archives.

        Raises:
            ControlPlaneError: It does not run, or refuses them.
        """
        socket = self._root() / "run/containerd/containerd.sock"
        deadline = time.monotonic() + _START_SECONDS
        while not socket.exists():
            if time.monotonic() > deadline:
                raise ControlPlaneError(
                    f"{self.name}'s containerd does not start", self.directory / "logs/containerd.log"
                )
            time.sleep(_POLL_SECONDS)
        # It is in no cgroup of the cluster: whoever ends this program must not leave it behind.
        client = ("setpriv", "--pdeathsig=KILL", "--", "ctr", "--address", socket, "--namespace", "k8s.io")
        for archive in archives:
            run([*client, "images", "import", "--digests", archive], seconds=_IMPORT_SECONDS)

    def _root(self) -> Path:
        """The node's root directory, as seen from outside."""
        deadline = time.monotonic() + _START_SECONDS
        while (child := self._first_process()) is None:
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"{self.name} does not start", self.directory / "node.log")
            time.sleep(_POLL_SECONDS)
        return Path(f"/proc/{child}/root")

    def _first_process(self) -> int | None:
        try:
            return processes.first_child(int((self.directory / "pid").read_text()))
        except OSError as error:
            raise ControlPlaneError(f"{self.name} has ended", self.directory / "node.log") from error

    def _kubelet_configuration(self) -> dict[str, Any]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": "/etc/node/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": "/etc/node/kubelet.crt",
            "tlsPrivateKeyFile": "/etc/node/kubelet.key",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.NAME}/{self.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [network.DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": "/etc/node/resolv.conf",
            # The machine's disk and memory are not the node's alone.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
            # It forgets an eviction soon: until then it takes no more pods of low priority.
            "evictionPressureTransitionPeriod": "10s",
            # Pods share this much of the machine, by a cgroup of their own.
            "systemReserved": {"memory": str(max(0, _machine_bytes() - MEMORY_BYTES))},
            "enforceNodeAllocatable": ["pods"],
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "10s",
        }


def _machine_bytes() -> int:
    """The memory of this machine, as a kubelet on it sees it."""
    (line,) = (line for line in _MEMORY.read_text().splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) << 10
