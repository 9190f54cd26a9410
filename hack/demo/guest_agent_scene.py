"""A scene in which memory is reclaimed from a guest without a balloon, by a program in the guest."""

from __future__ import annotations

from pathlib import Path

from hack.demo.scene import LabScene
from hack.testbed.lab import MIB, GuestSpec
from hack.testbed.lab.ksm import merging
from kubeballoon.core.formatting import human
from kubeballoon.guest import kubeballoon_guest

_PROGRAM = Path("/usr/local/lib/kubeballoon/kubeballoon_guest.py")


class GuestAgentScene(LabScene):
    """Memory is reclaimed by kubeballoon's guest program: KSM merges the pages that it claims."""

    guests = (GuestSpec(name="vm-1", memory_bytes=384 * MIB, balloon=False, python=True, mergeable=True),)
    node_bytes = 1024 * MIB
    policy = "guest-agent.yaml"
    environment = merging
    results = "demo-guest-agent"

    def play(self) -> None:
        """Install the program in the guest, apply the policy, and delete it again."""
        self.stage.start_agent()
        self.stage.start_controller()
        (pod,) = self.stage.pods
        self.say("the guest has no balloon; the program is installed in it, as cloud-init would")
        pod.run(f"mkdir -p {_PROGRAM.parent}; echo made >/run/made")
        self.show_that("the program is there", lambda: bool(pod.read_file("/run/made")))
        pod.write_file(str(_PROGRAM), Path(kubeballoon_guest.__file__).read_bytes())
        pod.run(f"/usr/bin/python3 {_PROGRAM}")
        self.show_that("the agent sees it", lambda: self.reported(pod).get("method") == "GuestAgent")
        # Memory that the guest has never touched is not resident, so nothing of it could be reclaimed for the node.
        pod.load.set(pod.spec.memory_bytes * 6 // 10 // MIB)
        pod.load.set(0)
        before = pod.proportional_bytes()
        now = pod.proportional_bytes
        self.apply_policy()
        self.show_that("the program has locked memory", lambda: self.reported(pod).get("claimed", "0") != "0")
        self.show_that("the node has it: KSM has merged its pages", lambda: now() < before - 60 * MIB)
        self.say(f"the guest's QEMU held {human(before)} of the node, and holds {human(now())}")
        self.delete_policy("mempol")
        self.show_that("the program has given all of it back", lambda: self.reported(pod).get("claimed") == "0")
