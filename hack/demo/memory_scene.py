"""The demo's main scene: guests share a node's memory, and one of them needs more for a while."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from hack.demo.background import RepeatingThread
from hack.demo.picture import draw
from hack.demo.record import Measurement, Recorder
from hack.demo.scene import LabScene
from hack.demo.screen import Screen
from hack.demo.stage import GUEST_BYTES, GUESTS, NODE_BYTES, Stage
from hack.testbed.lab import MIB
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.core.formatting import human

MINIMUM = GUEST_BYTES // 4  # as the policy says
_SHORT = 70 * MIB  # free memory, below which the node's agent reports state Tight
_CACHE_STEP = 20  # MiB that each guest reads at once: small, so that the node is not filled past Tight in one step
_LOAD = 330  # MiB, far more than a quarter of the node
_LOAD_STEP = 12  # MiB; with _STEP_SECONDS, 30 MiB/s: slow enough that guests can give memory as fast as it is used
_STEP_SECONDS = 0.4
_TOLERANCE = 2 * MIB  # balloon drivers stop a little above or below their target


class MemoryScene(LabScene):
    """Memory is reclaimed from idle guests, moves to a guest that needs it, and is given back at the end."""

    guests = GUESTS
    node_bytes = NODE_BYTES
    policy = "policy.yaml"
    seconds = 40.0
    results = "demo"

    def __init__(self, stage: Stage, screen: Screen) -> None:
        """Play on ``stage``, which has `GUESTS`, and draw a live table on ``screen``."""
        super().__init__(stage, screen)
        self.recorder = Recorder(stage.measure)
        self._short_at = 0.0  # seconds since the recorder's start
        self._reclaim_seconds: float | None = None
        self._state = "unknown"
        self._oom_kills = 0

    def play(self) -> None:
        """Let the node run short, apply the policy, raise and lower one guest's load, and delete the policy."""
        with self.recorder:
            self.fill_caches()
            self.balance()
            self.raise_load()
            self.lower_load()
            self.give_back()

    def fill_caches(self) -> None:
        """Make idle guests fill their page caches until the node has little memory left."""
        self.stage.start_agent()
        self._announce("three idle guests read files until the node runs short")
        neighbours = self.stage.pods[1:]
        for cached in range(_CACHE_STEP, GUEST_BYTES // MIB, _CACHE_STEP):
            for pod in neighbours:
                if NODE_BYTES - self.stage.node.used_bytes() < _SHORT:
                    break
                pod.load.cache(cached)
            else:
                continue
            break
        self.wait_until("the node is short of memory", lambda: self._state in ("Tight", "Scarce", "Critical"))
        self._short_at = self.recorder.now()

    def balance(self) -> None:
        """Apply the policy, and wait until the node has memory again and all guests have their targets."""
        before = self.recorder.last
        self.stage.start_controller()
        self.recorder.add_event(f"kubectl apply -f hack/demo/{self.policy}")
        self.apply_policy()
        self.wait_until("balloons inflate and the node is Ample again", lambda: self._state == "Ample")
        self._reclaim_seconds = self.recorder.now() - self._short_at
        after = self.recorder.last
        reclaimed = sum(before.resident[name] - after.resident[name] for name in before.resident)
        self.check(f"the node reclaimed memory from its guests ({human(reclaimed)} less resident)", ok=reclaimed > 0)
        self.wait_until("all guests share what the node has", self._all_at_targets)

    def raise_load(self) -> None:
        """Raise the first guest's load, and wait until it has the memory and the others have given it."""
        pod, before = self.stage.pods[0], self.recorder.last
        name = pod.spec.name
        self._announce(f"{name}'s load rises to {_LOAD} MiB")
        with RepeatingThread(_STEP_SECONDS, self._raise_one_step):
            self.wait_until(f"{name} has what it needs", lambda: self._has_its_load(name))
        self.wait_until("the others have given it", self._all_at_targets)
        now = self.recorder.last
        arrived = now.actual[name] - before.actual[name]
        reclaimed = sum(before.actual[other] - now.actual[other] for other in now.actual if other != name)
        self.check(f"memory arrived at {name} ({human(arrived)})", ok=arrived > 0)
        self.check(f"it was reclaimed from the others by their balloons ({human(reclaimed)})", ok=reclaimed > 0)
        self.check(f"{name}'s load was never killed (by its guest's OOM killer)", ok=pod.load.info().kills == 0)

    def lower_load(self) -> None:
        """Lower the first guest's load, and wait until memory has returned to the others."""
        pod, before = self.stage.pods[0], self.recorder.last
        name = pod.spec.name
        self._announce(f"{name}'s load falls")
        pod.load.set(0)
        self.recorder.loads[name] = 0
        others = [other.spec.name for other in self.stage.pods[1:]]
        self.wait_until("memory returns to the others", lambda: self._all_have_more(others, before))
        self.wait_until("all guests share what the node has", self._all_at_targets)
        returned = sum(self.recorder.last.actual[other] - before.actual[other] for other in others)
        self.check(f"memory returned to the others ({human(returned)})", ok=returned > 0)

    def give_back(self) -> None:
        """Delete the policy, and wait until every guest has all of its memory again."""
        self.recorder.add_event("kubectl delete mempol demo")
        self.delete_policy("mempol")
        self.wait_until("every guest has its whole memory again", self._all_whole)
        left = [key for annotations in self.stage.instances().values() for key in annotations if "kubeballoon" in key]
        self.check("everything was given back (annotations too)", ok=not left)

    def conclude(self) -> dict[str, Any]:
        """Check the minimums and the node's OOM kills, and return the bytes that moved and what each guest had."""
        measurements = self.recorder.measurements
        lowest = {name: min(one.actual[name] for one in measurements) for name in measurements[0].actual}
        kept = all(low >= MINIMUM - _TOLERANCE for low in lowest.values())
        self.check(f"every guest kept its minimum (lowest {human(min(lowest.values()))} of {human(MINIMUM)})", ok=kept)
        self.check("no process was killed because the node lacked memory", ok=not self._oom_kills)
        return {
            "secondsUntilAmple": self._reclaim_seconds,
            "bytesMoved": sum(_moved(before, now) for before, now in pairwise(measurements)),
            "guests": {name: {"minBytes": MINIMUM, "lowestBytes": low} for name, low in lowest.items()},
        }

    def present(self, summary: dict[str, Any], directory: Path) -> None:
        """Draw the picture, and show the summary on the screen."""
        draw(self.recorder, directory / "demo.png")
        self.screen.finish(summary, directory)

    def poll(self) -> None:
        """Check that agent and controller run, read the node's state, and redraw the table."""
        super().poll()
        self._state = (self.stage.pressure() or {}).get("state", "unknown")
        self._oom_kills = self.stage.node.oom_kills()
        sizes = {pod.spec.name: pod.spec.memory_bytes for pod in self.stage.pods}
        self.screen.show(self.recorder.last, NODE_BYTES, self._state, sizes)

    def _announce(self, text: str) -> None:
        self.say(text)
        self.recorder.add_event(text)

    def _raise_one_step(self) -> bool:
        """Raise the first guest's load by one step; return whether there is another."""
        pod = self.stage.pods[0]
        step = min(_LOAD, pod.load.info().held_mib + _LOAD_STEP)
        pod.load.set(step)
        self.recorder.loads[pod.spec.name] = step * MIB
        return step < _LOAD

    def _has_its_load(self, name: str) -> bool:
        now = self.recorder.last
        return now.load.get(name, 0) == _LOAD * MIB and now.actual[name] > _LOAD * MIB

    def _all_have_more(self, names: list[str], before: Measurement) -> bool:
        now = self.recorder.last
        return all(now.actual[name] > before.actual[name] + _TOLERANCE for name in names)

    def _all_whole(self) -> bool:
        return all(actual == GUEST_BYTES for actual in self.recorder.last.actual.values())

    def _all_at_targets(self) -> bool:
        """Whether every VM has a target, and its balloon leaves it as much."""
        status, now = self.stage.pressure() or {}, self.recorder.last
        reports = NodePressureStatus.model_validate(status).virtual_machines if status else []
        return bool(reports) and all(
            report.target is not None and abs(now.actual[report.name] - report.target) <= _TOLERANCE
            for report in reports
        )


def _moved(before: Measurement, now: Measurement) -> int:
    return sum(abs(now.actual[name] - before.actual[name]) for name in now.actual)
