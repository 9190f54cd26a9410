"""The short scenes: processors taken, a processor unplugged, memory reserved by a program in the guest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hack.demo.play import SceneError
from hack.demo.screen import Screen
from hack.demo.stage import ROOT, Stage
from hack.testbed.lab import MIB, GuestSpec, LauncherPod
from hack.testbed.lab.accelerator import kvm_boots
from hack.testbed.lab.ksm import merging
from kubeballoon.core.wording import human
from kubeballoon.guest import kubeballoon_guest

FILES = ROOT / "hack/demo"
_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_PROGRAM = Path("/usr/local/lib/kubeballoon/kubeballoon_guest.py")


@dataclass(slots=True)
class Show:
    """A scene while it is shown."""

    stage: Stage
    screen: Screen
    policy: str
    checks: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """What happens now."""
        self.screen.say(text)

    def apply(self) -> None:
        """Apply the scene's policy."""
        self.say(f"kubectl apply -f hack/demo/{self.policy}")
        self.stage.plane.apply(FILES / self.policy)

    def delete(self, what: str) -> None:
        """Delete what was applied."""
        self.say(f"kubectl delete {what}")
        self.stage.plane.kubectl("delete", *what.split())

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something has happened, and note that it has.

        Raises:
            SceneError: it does not happen in time.
        """
        deadline = time.monotonic() + _SECONDS
        while not holds():
            self.stage.check()
            if time.monotonic() > deadline:
                raise SceneError(f"did not happen within {_SECONDS:.0f} s: {what}")
            time.sleep(_LOOK_SECONDS)
        self.checks.append({"what": what, "ok": True})
        self.say(f"  {what}")

    def reported(self, pod: LauncherPod) -> dict[str, Any]:
        """What the agent reports of a guest."""
        vms = (self.stage.pressure() or {}).get("virtualMachines", [])
        return next((vm for vm in vms if vm["name"] == pod.spec.name), {})


@dataclass(frozen=True, slots=True)
class Scene:
    """One to be shown.

    Attributes:
        policy: the file of this folder with what it applies.
        meanwhile: what holds of this machine while it is shown.
    """

    guests: tuple[GuestSpec, ...]
    node_bytes: int
    policy: str
    play: Callable[[Show], None]
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext


def show(name: str, screen: Screen, output: Path) -> int:
    """Set the stage, play a scene, and say what happened; 0 only if all of it did."""
    scene, result = SCENES[name], output / f"demo-{name}.json"
    began, failure = time.monotonic(), None
    with scene.meanwhile(), Stage(screen.say, output / "demo-logs", scene.guests, scene.node_bytes) as stage:
        shown = Show(stage, screen, scene.policy)
        stage.start_agent()
        stage.start_controller()
        try:
            scene.play(shown)
        except SceneError as error:
            failure = str(error)
            screen.say(f"NOT: {failure}")
    summary = {
        "succeeded": failure is None,
        "failure": failure,
        "checks": shown.checks,
        "seconds": round(time.monotonic() - began, 1),
    }
    result.write_text(json.dumps(summary, indent=2) + "\n")
    screen.say(
        f"{'done' if failure is None else 'failed'} in {summary['seconds']} s; {result}, logs in {output / 'demo-logs'}"
    )
    return 0 if failure is None else 1


def _processors(shown: Show) -> None:
    pods = shown.stage.pods
    for pod in pods:
        shown.until(
            f"{pod.spec.name} uses its {pod.spec.vcpus} processors",
            lambda pod=pod: shown.reported(pod).get("processors", {}).get("online") == pod.spec.vcpus,  # type: ignore[misc]  # bound on purpose
        )
    shown.say("every processor of every guest is kept busy")
    with _busy(pods):
        shown.apply()
        given = sum(pod.spec.vcpus for pod in pods)
        shown.until(
            f"the guests use no more processors than the node has: {os.cpu_count()}, were given {given}",
            lambda: sum(pod.online() for pod in pods) <= max(len(pods), os.cpu_count() or 1),
        )
        shown.delete("cpupol demo")
        shown.until("every guest has all its processors again", lambda: sum(pod.online() for pod in pods) == given)


def _unplug(shown: Show) -> None:
    (pod,) = shown.stage.pods
    before = sorted(pod.vcpu_threads())
    shown.until("its processors are known", lambda: bool(shown.reported(pod).get("processors", {}).get("online")))
    shown.say(f"QEMU's threads: {', '.join(before)}")
    shown.apply()
    shown.until("a processor's thread has left the node", lambda: len(pod.vcpu_threads()) == len(before) - 1)
    shown.say(f"QEMU's threads: {', '.join(sorted(pod.vcpu_threads()))}")
    shown.until("the guest works on with the others", lambda: pod.online() == len(before) - 1)
    shown.delete("cpupol demo")
    if kvm_boots(pod.image):
        shown.until("the guest has all its processors again", lambda: pod.online() == len(before))
    else:
        shown.say("it is not given back here: QEMU without KVM never tells libvirt that the processor left, so libvirt")
        shown.say("will not plug it in again before the VM is restarted; NodePressure calls that UnplugLost")


def _guest_agent(shown: Show) -> None:
    (pod,) = shown.stage.pods
    shown.say("the guest has no balloon; the program is installed in it, as cloud-init would")
    pod.run(f"mkdir -p {_PROGRAM.parent}; echo made >/run/made")
    shown.until("the program is there", lambda: bool(pod.read_file("/run/made")))
    pod.write_file(str(_PROGRAM), Path(kubeballoon_guest.__file__).read_bytes())
    pod.run(f"/usr/bin/python3 {_PROGRAM}")
    shown.until("the agent sees it", lambda: shown.reported(pod).get("method") == "GuestAgent")
    pod.load.set(pod.spec.memory_bytes * 6 // 10 // MIB)
    pod.load.set(0)
    before = pod.proportional_bytes()
    shown.apply()
    shown.until("the program holds memory", lambda: shown.reported(pod).get("claimed", "0") != "0")
    shown.until("the node has it: KSM has merged its pages", lambda: pod.proportional_bytes() < before - 60 * MIB)
    shown.say(f"the guest's QEMU held {human(before)} of the node, and holds {human(pod.proportional_bytes())}")
    shown.delete("mempol demo")
    shown.until("the program has given all of it back", lambda: shown.reported(pod).get("claimed") == "0")


@contextmanager
def _busy(pods: list[LauncherPod]) -> Iterator[None]:
    loops = [(pod, pod.run("while :; do :; done")) for pod in pods for _ in range(pod.spec.vcpus)]
    try:
        yield
    finally:
        for pod, process in loops:
            pod.run(f"kill {process}")


_WIDE = max(4, os.cpu_count() or 1)
SCENES = {
    "processors": Scene(
        tuple(GuestSpec(name=f"vm-{number}", vcpus=_WIDE) for number in (1, 2)),
        1024 * MIB,
        "processors.yaml",
        _processors,
    ),
    "unplug": Scene((GuestSpec(name="vm-1", vcpus=3),), 1024 * MIB, "unplug.yaml", _unplug),
    "guest-agent": Scene(
        (GuestSpec(name="vm-1", memory_bytes=384 * MIB, balloon=False, python=True, mergeable=True),),
        1024 * MIB,
        "guest-agent.yaml",
        _guest_agent,
        merging,
    ),
}
"""By name."""
