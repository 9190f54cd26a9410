"""The scenes, and what must be true after them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hack.demo.record import Moment, Recorder
from hack.demo.screen import Screen
from hack.demo.stage import GUEST_BYTES, NODE_BYTES, ROOT, Background, Stage
from hack.testbed.lab import MIB
from kubeballoon.api.v1alpha1 import NodePressureStatus
from kubeballoon.core.wording import human

POLICY = ROOT / "hack/demo/policy.yaml"
MINIMUM = GUEST_BYTES // 4  # as the policy says
_SHORT = 70 * MIB  # free memory below which the node's agent calls the node Tight
_CACHE_STEP = 20
_LOAD = 330  # MiB: far more than a quarter of the node
_LOAD_STEP = 12
_STEP_SECONDS = 0.4
_SCENE_SECONDS = 40.0
_LOOK_SECONDS = 0.25
_TOLERANCE = 2 * MIB


class SceneError(Exception):
    """A scene did not end as it should; one line."""


@dataclass(slots=True)
class Play:
    """The demo's scenes; each returns when it has happened, or raises SceneError."""

    stage: Stage
    recorder: Recorder
    screen: Screen
    _checks: list[dict[str, Any]] = field(default_factory=list)
    _pressed: float = 0.0
    _relief: float | None = None
    _state: str = "unknown"
    _killed: int = 0

    def run_short(self) -> None:
        """Idle guests fill their page caches until the node has little left."""
        self.stage.start_agent()
        self._say("three idle guests read files until the node runs short")
        neighbours = self.stage.pods[1:]
        for cached in range(_CACHE_STEP, GUEST_BYTES // MIB, _CACHE_STEP):
            for pod in neighbours:
                if NODE_BYTES - self.stage.node.used_bytes() < _SHORT:
                    break
                pod.load.cache(cached)
            else:
                continue
            break
        self._until("the node is short of memory", lambda _: self._state in ("Tight", "Scarce", "Critical"))
        self._pressed = self.recorder.now()

    def apply_policy(self) -> None:
        """The policy is applied, and the node has memory again."""
        before = self.recorder.last
        self.stage.start_controller()
        self._say(f"kubectl apply -f {POLICY.relative_to(ROOT)}")
        self.stage.plane.apply(POLICY)
        self._until("balloons inflate and the node is Ample again", lambda _: self._state == "Ample")
        self._relief = self.recorder.now() - self._pressed
        after = self.recorder.last
        regained = sum(before.resident[name] - after.resident[name] for name in before.resident)
        self._check("the node got memory back from its guests", f"{human(regained)} less resident", ok=regained > 0)
        self._until("all guests share what the node has", self._settled)

    def raise_load(self) -> None:
        """One guest needs more; it arrives, and the others give it."""
        pod, before = self.stage.pods[0], self.recorder.last
        name = pod.spec.name
        self._say(f"{name}'s load rises to {_LOAD} MiB")
        rising = Background(_STEP_SECONDS, self._rise)
        rising.start()
        try:
            self._until(
                f"{name} has what it needs",
                lambda now: now.load.get(name, 0) == _LOAD * MIB and now.actual[name] > _LOAD * MIB,
            )
        finally:
            rising.stop()
        self._until("the others have given it", self._settled)
        now = self.recorder.last
        arrived = now.actual[name] - before.actual[name]
        given = sum(before.actual[other] - now.actual[other] for other in now.actual if other != name)
        self._check(f"memory arrived at {name}", human(arrived), ok=arrived > 0)
        self._check("the others' balloons inflated for it", human(given), ok=given > 0)
        self._check(f"{name}'s load was never killed", "by its guest's OOM killer", ok=pod.load.info().kills == 0)

    def lower_load(self) -> None:
        """The load falls, and memory returns to the others."""
        pod, before = self.stage.pods[0], self.recorder.last
        name = pod.spec.name
        self._say(f"{name}'s load falls")
        pod.load.set(0)
        self.recorder.loads[name] = 0
        others = [other.spec.name for other in self.stage.pods[1:]]
        self._until(
            "memory returns to the others",
            lambda now: all(now.actual[other] > before.actual[other] + _TOLERANCE for other in others),
        )
        self._until("all guests share what the node has", self._settled)
        returned = sum(self.recorder.last.actual[other] - before.actual[other] for other in others)
        self._check("memory returned to the others", human(returned), ok=returned > 0)

    def leave(self) -> None:
        """The policy is deleted, and everything is given back."""
        self._say("kubectl delete mempol demo")
        self.stage.plane.kubectl("delete", "mempol", "demo")
        self._until(
            "every guest has its whole memory again",
            lambda now: all(actual == GUEST_BYTES for actual in now.actual.values()),
        )
        left = [key for annotations in self.stage.instances().values() for key in annotations if "kubeballoon" in key]
        self._check("everything was given back", "annotations too", ok=not left)

    def summary(self, failure: str | None) -> dict[str, Any]:
        """What happened, for build/demo.json."""
        moments = self.recorder.moments
        lowest = {name: min(moment.actual[name] for moment in moments) for name in moments[0].actual}
        kept = all(low >= MINIMUM - _TOLERANCE for low in lowest.values())
        self._check(
            "every guest kept its minimum", f"lowest {human(min(lowest.values()))} of {human(MINIMUM)}", ok=kept
        )
        self._check("no process was killed for want of memory", "on the node", ok=not self._killed)
        return {
            "succeeded": failure is None and all(check["ok"] for check in self._checks),
            "failure": failure,
            "checks": self._checks,
            "secondsFromPressureToRelief": self._relief,
            "bytesMoved": sum(_moved(before, now) for before, now in pairwise(moments)),
            "guests": {name: {"minBytes": MINIMUM, "lowestBytes": low} for name, low in lowest.items()},
        }

    def _rise(self) -> bool:
        pod = self.stage.pods[0]
        step = min(_LOAD, pod.load.info().held_mib + _LOAD_STEP)
        pod.load.set(step)
        self.recorder.loads[pod.spec.name] = step * MIB
        return step < _LOAD

    def _settled(self, now: Moment) -> bool:
        """Whether every balloon is where its request wants it."""
        status = self.stage.pressure() or {}
        reports = NodePressureStatus.model_validate(status).virtual_machines if status else []
        return bool(reports) and all(
            report.target is not None and abs(now.actual[report.name] - report.target) <= _TOLERANCE
            for report in reports
        )

    def _say(self, text: str) -> float:
        self.screen.say(text)
        return self.recorder.mark(text)

    def _check(self, what: str, detail: str, *, ok: bool) -> None:
        self._checks.append({"what": f"{what} ({detail})", "ok": ok})

    def _until(self, what: str, holds: Callable[[Moment], bool]) -> None:
        """Show the table until the condition holds.

        Raises:
            SceneError: it does not, in time.
        """
        sizes = {pod.spec.name: pod.spec.memory_bytes for pod in self.stage.pods}
        deadline = time.monotonic() + _SCENE_SECONDS
        while True:
            self.stage.check()
            status = self.stage.pressure() or {}
            self._state = status.get("state", "unknown")
            self._killed = self.stage.node.oom_kills()
            moment = self.recorder.last
            self.screen.show(moment, NODE_BYTES, self._state, sizes)
            if holds(moment):
                return
            if time.monotonic() > deadline:
                raise SceneError(f"did not happen within {_SCENE_SECONDS:.0f} s: {what}")
            time.sleep(_LOOK_SECONDS)


def _moved(before: Moment, now: Moment) -> int:
    return sum(abs(now.actual[name] - before.actual[name]) for name in now.actual)
