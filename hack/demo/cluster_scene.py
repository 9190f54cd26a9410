"""The demo's scene on a real KubeVirt cluster: VMs that are larger than their node share it, and one moves away."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

from hack.demo.cluster_stage import NAMESPACE, ClusterStage
from hack.demo.picture import draw_cluster
from hack.demo.record import Recorder
from hack.demo.scene import Scene, SceneError
from hack.demo.screen import Screen
from hack.demo.stage import Say
from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.kubevirt.node import MEMORY_BYTES
from hack.testbed.kubevirt.vm import VM, migrate
from hack.testbed.lab import MIB
from kubeballoon.core.formatting import human

_RECLAIMED = 512 * MIB  # of both VMs: with what their node needs itself, they are a GiB larger than it
_LOAD = 1400 * MIB  # more than half of what the node has for both VMs
_TOLERANCE = 2 * MIB  # balloon drivers stop a little above or below their target


class ClusterScene(Scene[ClusterStage]):
    """Memory moves between two VMs of one node, until one of them migrates to a node with room for it."""

    policy = "cluster.yaml"
    seconds = 300.0  # the cluster's agents and VMs are as users have them, and emulated VMs on a busy machine are slow
    results = "demo-cluster"

    @classmethod
    def set_stage(cls, say: Say, logs: Path) -> ClusterStage:
        """Return the cluster, whose VMs are created as the context begins."""
        return ClusterStage(say, logs)

    def __init__(self, stage: ClusterStage, screen: Screen) -> None:
        """Play on ``stage``, and write to ``screen``."""
        super().__init__(stage, screen)
        self.recorder = Recorder(stage.measure)

    def play(self) -> None:
        """Apply the policy, raise one VM's load, migrate the other VM, and delete the policy."""
        with self.recorder:
            calm, busy = self.stage.vms
            instances = [vm.uid() for vm in self.stage.vms]
            if calm.node() != busy.node():
                raise SceneError(f"KubeVirt put {calm.name} on {calm.node()} and {busy.name} on {busy.node()}")
            self.reclaim(calm.node())
            self.raise_load(calm, busy)
            self.migrate(calm)
            self.give_back()
            kept = [vm.uid() for vm in self.stage.vms] == instances
            self.check("no VM was evicted, killed or started anew", ok=kept)

    def reclaim(self, node: str) -> None:
        """Apply the policy, and wait until memory was reclaimed from both VMs."""
        self.wait_until("the node's agent reports", lambda: self.stage.state(node) != "unknown")
        self.recorder.add_event(f"kubectl apply -f hack/demo/{self.policy}")
        self.apply_policy()
        self.show_that("memory is reclaimed from VMs that are larger than their node", self._is_reclaimed)

    def raise_load(self, calm: VM, busy: VM) -> None:
        """Raise one VM's load, and wait until it has the memory and the other has given it."""
        before = self.recorder.last
        text = f"{busy.name}'s load rises to {human(_LOAD)}"
        self.say(text)
        self.recorder.add_event(text)
        self._wait_for(lambda: busy.fill(_LOAD), f"{busy.name} has the memory for its load")
        self.recorder.loads[busy.name] = _LOAD
        self.show_that(
            f"{busy.name} has got memory", lambda: self.recorder.last.actual[busy.name] > before.actual[busy.name]
        )
        self.show_that(
            f"it was reclaimed from {calm.name}",
            lambda: self.recorder.last.actual[calm.name] < before.actual[calm.name] - _TOLERANCE,
        )

    def migrate(self, vm: VM) -> None:
        """Migrate a VM to the other node while its balloon is inflated, and wait until both VMs have all they want."""
        before, held = vm.node(), vm.actual()
        text = f"{vm.name} migrates to the other node, with {human(vm.memory - held)} in its balloon"
        self.say(text)
        self.recorder.add_event(text)
        self._wait_for(lambda: migrate(vm), f"{vm.name} has moved to another node")
        self.check(f"{vm.name} left {before} with its balloon inflated", ok=held < vm.memory and vm.node() != before)
        self.show_that("each node has room for its VM: both have all of their memory", self._all_whole)

    def give_back(self) -> None:
        """Delete the policy, and wait until nothing is left of it."""
        self.recorder.add_event("kubectl delete mempol demo")
        self.delete_policy("mempol")
        self.show_that("nothing is asked of any VM any more", lambda: not self._requests())

    def conclude(self) -> dict[str, Any]:
        """Return the bytes that balloons moved, and the least that each VM had."""
        measurements = self.recorder.measurements
        moved = sum(
            abs(now.actual[name] - before.actual[name]) for before, now in pairwise(measurements) for name in now.actual
        )
        lowest = {vm.name: min((one.actual[vm.name] for one in measurements), default=0) for vm in self.stage.vms}
        return {"bytesMoved": moved, "lowestBytes": lowest}

    def present(self, summary: dict[str, Any], directory: Path) -> None:
        """Draw the picture, and say where it is."""
        if self.recorder.measurements:
            draw_cluster(self.recorder, MEMORY_BYTES, directory / f"{self.results}.png")
        self.say(f"moved {human(summary['bytesMoved'])}; {directory / self.results}.png")
        super().present(summary, directory)

    def poll(self) -> None:
        """Show what VMs and nodes have."""
        super().poll()
        if self.recorder.measurements:
            self.screen.show_nodes(self.recorder.last, MEMORY_BYTES, {vm.name: vm.memory for vm in self.stage.vms})

    def _wait_for(self, action: Callable[[], None], event: str) -> None:
        """Do something that takes long while the screen goes on.

        Raises:
            SceneError: It failed.
        """
        with ThreadPoolExecutor(1) as background:
            doing = background.submit(action)
            self.wait_until(event, doing.done)
        try:
            doing.result()
        except ControlPlaneError as error:
            raise SceneError(str(error)) from error
        self.check(event, ok=True)
        self.say(f"  {event}")

    def _is_reclaimed(self) -> bool:
        actual = self.recorder.last.actual
        return sum(vm.memory - actual[vm.name] for vm in self.stage.vms) > _RECLAIMED

    def _all_whole(self) -> bool:
        actual = self.recorder.last.actual
        return all(actual[vm.name] == vm.memory for vm in self.stage.vms)

    def _requests(self) -> str:
        annotations = "--output=jsonpath={.items[*].metadata.annotations.kubeballoon\\.io/memory-target}"
        return self.stage.plane.kubectl("get", "vmi", f"--namespace={NAMESPACE}", annotations).strip()
