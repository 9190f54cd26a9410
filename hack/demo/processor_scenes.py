"""Scenes in which processors are reclaimed: by the guest agent, and by unplugging them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hack.demo.scene import LabScene
from hack.testbed.lab import MIB, GuestSpec, LauncherPod
from hack.testbed.lab.accelerator import kvm_boots

_NODE_PROCESSORS = os.cpu_count() or 1
_GUEST_PROCESSORS = max(4, _NODE_PROCESSORS)  # two such guests have more processors than this machine


class ProcessorsScene(LabScene):
    """Processors are reclaimed from busy guests while the node is short of them, and are given back."""

    guests = tuple(GuestSpec(name=f"vm-{number}", vcpus=_GUEST_PROCESSORS) for number in (1, 2))
    node_bytes = 1024 * MIB
    policy = "processors.yaml"
    results = "demo-processors"

    def play(self) -> None:
        """Keep all processors busy, apply the policy, and delete it again."""
        self.stage.start_agent()
        self.stage.start_controller()
        pods = self.stage.pods
        for pod in pods:
            self.show_that(f"{pod.spec.name} uses its {pod.spec.vcpus} processors", self._uses_all(pod))
        self.say("every processor of every guest is kept busy")
        with _busy(pods):
            self.apply_policy()
            given = sum(pod.spec.vcpus for pod in pods)
            self.show_that(
                f"the guests use no more processors than the node has: {_NODE_PROCESSORS}, were given {given}",
                lambda: sum(pod.online() for pod in pods) <= max(len(pods), _NODE_PROCESSORS),
            )
            self.delete_policy("cpupol")
            self.show_that(
                "every guest has all its processors again", lambda: sum(pod.online() for pod in pods) == given
            )

    def _uses_all(self, pod: LauncherPod) -> Callable[[], bool]:
        return lambda: self.reported(pod).get("processors", {}).get("online") == pod.spec.vcpus


class UnplugScene(LabScene):
    """One processor of a guest is unplugged: its thread leaves the node."""

    guests = (GuestSpec(name="vm-1", vcpus=3),)
    node_bytes = 1024 * MIB
    policy = "unplug.yaml"
    results = "demo-unplug"

    def play(self) -> None:
        """Apply the policy, and delete it again."""
        self.stage.start_agent()
        self.stage.start_controller()
        (pod,) = self.stage.pods
        before = sorted(pod.vcpu_threads())
        self.show_that("its processors are known", lambda: bool(self.reported(pod).get("processors", {}).get("online")))
        self.say(f"QEMU's threads: {', '.join(before)}")
        self.apply_policy()
        self.show_that("a processor's thread has left the node", lambda: len(pod.vcpu_threads()) == len(before) - 1)
        self.say(f"QEMU's threads: {', '.join(sorted(pod.vcpu_threads()))}")
        self.show_that("the guest works on with the others", lambda: pod.online() == len(before) - 1)
        self.delete_policy("cpupol")
        if kvm_boots(pod.image):
            self.show_that("the guest has all its processors again", lambda: pod.online() == len(before))
        else:
            self.say("it is not given back here: QEMU without KVM never tells libvirt that the processor left, so")
            self.say("libvirt will not plug it in before the VM is restarted; NodePressure calls that UnplugLost")


@contextmanager
def _busy(pods: list[LauncherPod]) -> Iterator[None]:
    """Run one endless loop on each processor of each guest inside the context."""
    loops = [(pod, pod.run("while :; do :; done")) for pod in pods for _ in range(pod.spec.vcpus)]
    try:
        yield
    finally:
        for pod, process in loops:
            pod.run(f"kill {process}")
