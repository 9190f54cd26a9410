"""Scene: what every scene of the demo has in common; perform() sets the stage, plays a scene and writes its results."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from hack.demo.screen import Screen
from hack.demo.stage import ROOT, Say, Stage
from hack.testbed.controlplane import ControlPlane
from hack.testbed.lab import GuestSpec, LauncherPod

POLICIES = ROOT / "hack/demo"
_POLL_SECONDS = 0.25


class SceneError(Exception):
    """A scene did not end as it should; the message is one line."""


@dataclass(frozen=True, slots=True)
class Check:
    """A claim that a scene has verified, and whether it holds."""

    claim: str
    ok: bool


class AnyStage(Protocol):
    """What a scene is played on: an API server, with kubeballoon's agent and controller."""

    plane: ControlPlane

    def check(self) -> None:
        """Raise RuntimeError if the agent or the controller has ended."""


S = TypeVar("S", bound=AnyStage)


class Scene(ABC, Generic[S]):
    """A scene of the demo. Its events really happen on the stage, or `play` raises SceneError.

    Attributes:
        policy: The file, in this directory, with the policy that the scene applies and deletes.
        seconds: How long each event may take.
        environment: Changes this machine while the scene is played, as by switching KSM on.
        results: The stem of the file names of the results, such as "demo" of demo.json.
    """

    policy: ClassVar[str]
    seconds: ClassVar[float] = 60.0
    environment: ClassVar[Callable[[], AbstractContextManager[None]]] = nullcontext
    results: ClassVar[str]

    @classmethod
    @abstractmethod
    def set_stage(cls, say: Say, logs: Path) -> AbstractContextManager[S]:
        """Return the stage, which is set as its context begins; ``say`` is called with each line of progress."""

    def __init__(self, stage: S, screen: Screen) -> None:
        """Play on ``stage``, which has the guests, and write to ``screen``."""
        self.stage = stage
        self.screen = screen
        self.checks: list[Check] = []

    @abstractmethod
    def play(self) -> None:
        """Let all events happen, in order.

        Raises:
            SceneError: An event did not happen in time.
        """

    def conclude(self) -> dict[str, Any]:
        """Return what the scene adds to the results; it is called after `play`, also if that has failed."""
        return {}

    def present(self, summary: dict[str, Any], directory: Path) -> None:
        """Show the summary, and where the results are, on the screen."""
        if summary["failure"]:
            self.say(f"NOT: {summary['failure']}")
        outcome = "done" if summary["succeeded"] else "failed"
        file = directory / f"{self.results}.json"
        self.say(f"{outcome} in {summary['seconds']} s; {file}, logs in {directory / 'demo-logs'}")

    def say(self, text: str) -> None:
        """Write a line that stays on the screen."""
        self.screen.say(text)

    def check(self, claim: str, *, ok: bool) -> None:
        """Record a claim in the results, and whether it holds."""
        self.checks.append(Check(claim, ok))

    def apply_policy(self) -> None:
        """Apply the scene's policy, and show the command."""
        self.say(f"kubectl apply -f {(POLICIES / self.policy).relative_to(ROOT)}")
        self.stage.plane.apply(POLICIES / self.policy)

    def delete_policy(self, resource: str) -> None:
        """Delete the scene's policy, which is named "demo", and show the command; ``resource`` is its short name."""
        self.say(f"kubectl delete {resource} demo")
        self.stage.plane.kubectl("delete", resource, "demo")

    def poll(self) -> None:
        """Check that agent and controller run; scenes that display something redraw it here."""
        self.stage.check()

    def wait_until(self, event: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        Raises:
            SceneError: The condition does not hold within `seconds`.
        """
        deadline = time.monotonic() + self.seconds
        while True:
            self.poll()
            if condition():
                return
            if time.monotonic() > deadline:
                raise SceneError(f"did not happen within {self.seconds:.0f} s: {event}")
            time.sleep(_POLL_SECONDS)

    def show_that(self, event: str, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, record that in the results, and write it to the screen.

        Raises:
            SceneError: The condition does not hold within `seconds`.
        """
        self.wait_until(event, condition)
        self.check(event, ok=True)
        self.say(f"  {event}")


class LabScene(Scene[Stage]):
    """A scene on a node of the lab, whose guests are booted for it.

    Attributes:
        guests: The guests on the stage.
        node_bytes: The memory of the node.
    """

    guests: ClassVar[tuple[GuestSpec, ...]]
    node_bytes: ClassVar[int]

    @classmethod
    def set_stage(cls, say: Say, logs: Path) -> Stage:
        """Return a stage with the scene's guests, which boot as its context begins."""
        return Stage(say, logs, cls.guests, cls.node_bytes)

    def reported(self, pod: LauncherPod) -> dict[str, Any]:
        """Return the agent's report of a guest; empty before its first."""
        vms = (self.stage.pressure() or {}).get("virtualMachines", [])
        return next((vm for vm in vms if vm["name"] == pod.spec.name), {})


def perform(kind: type[Scene[Any]], screen: Screen, directory: Path) -> bool:
    """Set the stage, play a scene and write its results to a directory; return whether all of it happened.

    Raises:
        LabError, ControlPlaneError: The stage cannot be set.
        RuntimeError: The agent or the controller has ended.
    """
    started, failure = time.monotonic(), None
    with kind.environment(), kind.set_stage(screen.say, directory / "demo-logs") as stage:
        scene = kind(stage, screen)
        screen.say(f"the stage is set after {time.monotonic() - started:.0f} s")
        try:
            scene.play()
        except SceneError as error:
            failure = str(error)
    added = scene.conclude()  # may add checks
    summary = {
        "succeeded": failure is None and all(check.ok for check in scene.checks),
        "failure": failure,
        "checks": [{"what": check.claim, "ok": check.ok} for check in scene.checks],
        **added,
        "seconds": round(time.monotonic() - started, 1),
    }
    (directory / f"{kind.results}.json").write_text(json.dumps(summary, indent=2) + "\n")
    scene.present(summary, directory)
    return bool(summary["succeeded"])
