"""ClusterStage: the KubeVirt cluster of `make cluster`, with two VMs on one of its nodes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from hack.demo.record import Memory
from hack.demo.stage import Say
from hack.testbed.chart import NAMESPACE as SYSTEM
from hack.testbed.controlplane import ControlPlane, ControlPlaneError, NamedControlPlane
from hack.testbed.kubevirt import cgroups, cluster
from hack.testbed.kubevirt.vm import VM
from hack.testbed.lab.cgroups import NodeCgroup

NAMESPACE = "kubeballoon-demo"
NAMES = ("calm", "busy")
_DELETE_SECONDS = 300.0


@dataclass(slots=True)
class ClusterStage:
    """A stage with two nodes; a context manager, which deletes the VMs in the end and leaves the cluster as it is.

    Attributes:
        say: Is called with each line of progress.
        logs: The directory for the logs of agents and controllers.
        vms: The VMs, both of them on one node at first.
    """

    say: Say
    logs: Path
    plane: ControlPlane = field(init=False)
    vms: tuple[VM, VM] = field(init=False)
    _exits: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        """Create the VMs, as users do, and wait until their guests have booted."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.plane = self._exits.enter_context(NamedControlPlane(cluster.KUBECONFIG))
        try:
            self._refuse_policies()
            self.plane.kubectl("delete", "mempol", "demo", "--ignore-not-found")  # of a run that was killed
            self.plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
            self.vms = (VM(self.plane, NAMES[0], namespace=NAMESPACE), VM(self.plane, NAMES[1], namespace=NAMESPACE))
            self.say("KubeVirt starts two VMs of 2 GiB on node-1, whose pods share 4 GiB")
            for vm in self.vms:
                vm.delete()
                vm.create()
            for vm in self.vms:
                vm.wait()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _refuse_policies(self) -> None:
        """Raise ControlPlaneError if the cluster has policies, which could govern the scene's VMs too."""
        found = self.plane.kubectl("get", "mempol,cpupol,nodepol", "--output=name").split()
        others = [name for name in found if not name.endswith("/demo")]
        if others:
            raise ControlPlaneError(f"the cluster has policies: kubectl delete {' '.join(others)}")

    def _close(self) -> None:
        """Keep the logs; delete the policy, and with the namespace the VMs."""
        with self._exits:
            try:
                for part in ("agent", "controller"):
                    selector = f"--selector=app.kubernetes.io/component={part}"
                    log = self.plane.kubectl("logs", selector, f"--namespace={SYSTEM}", "--prefix", "--tail=-1")
                    (self.logs / f"{part}.log").write_text(log)
            finally:
                self.plane.kubectl("delete", "mempol", "demo", "--ignore-not-found")
                self.plane.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", seconds=_DELETE_SECONDS)

    def check(self) -> None:
        """Do nothing: whatever ends in the cluster is started again."""

    def measure(self) -> Memory:
        """Measure the VMs' memory and the nodes', by libvirt and the cgroups of the nodes' pods.

        Raises:
            ControlPlaneError: A VM cannot be asked now, as while it goes to another node.
        """
        try:
            with ThreadPoolExecutor(len(self.vms)) as pool:
                stats = dict(zip(NAMES, pool.map(VM.memory_stats, self.vms), strict=True))
            actual = {name: each["actual"] for name, each in stats.items()}
            resident = {name: each["rss"] for name, each in stats.items()}
        except LookupError as error:
            raise ControlPlaneError(f"KubeVirt or libvirt does not tell {error}") from error
        root = cgroups.memory_hierarchy(cgroups.hierarchies())
        version = 2 if (root / "cgroup.controllers").exists() else 1
        groups = {node.name: root / cgroups.NAME / node.name / "kubepods" for node in cluster.nodes()}
        used = {name: NodeCgroup(group, None, version).used_bytes() for name, group in groups.items()}
        return Memory(actual, resident, used)

    def state(self, node: str) -> str:
        """Return a node's state, as its agent reports it; "unknown" if there is no report."""
        text = self.plane.kubectl("get", "nodepressure", node, "--ignore-not-found", "--output=json")
        status = json.loads(text).get("status", {}) if text.strip() else {}
        return str(status.get("state", "unknown"))
