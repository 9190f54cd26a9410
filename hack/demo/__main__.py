"""Runs a demo: exit status 0 only if what it shows really happened.

The scene "memory":

1. Three guests fill their page caches with files they do not need, and the node runs short.
2. A policy is applied: their balloons inflate, and the node has memory again.
3. The load of the fourth guest rises: it is given what it needs, and the others give more.
4. Its load falls: the others get memory back.
5. The policy is deleted: every guest has its whole memory again.

The others are short: "processors" are taken from busy guests and given back; "unplug" takes one by the guest kernel's
own driver; "guest-agent" reserves memory in a guest without a balloon, by a program.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hack.demo.picture import draw
from hack.demo.play import Play, SceneError
from hack.demo.record import Recorder
from hack.demo.scenes import SCENES, show
from hack.demo.screen import Screen
from hack.demo.stage import ROOT, Stage
from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.lab import LabError

BUILD = ROOT / "build"


def main() -> int:
    """Run it, and say what happened."""
    parser = argparse.ArgumentParser(prog="python -m hack.demo", description=__doc__)
    parser.add_argument("scene", nargs="?", default="memory", choices=("memory", *SCENES))
    parser.add_argument("--output", type=Path, default=BUILD, help="where the results and the logs go")
    options = parser.parse_args()
    screen = Screen(sys.stdout)
    try:
        if options.scene == "memory":
            return _play_memory(screen, options.output)
        return show(options.scene, screen, options.output)
    except (LabError, ControlPlaneError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _play_memory(screen: Screen, output: Path) -> int:
    began = time.monotonic()
    with Stage(screen.say, output / "demo-logs") as stage:
        recorder = Recorder(stage)
        recorder.start()
        play = Play(stage, recorder, screen)
        screen.say(f"the stage is set after {time.monotonic() - began:.0f} s")
        try:
            failure = _perform(play)
        finally:
            recorder.stop()
    summary = {**play.summary(failure), "seconds": round(time.monotonic() - began, 1)}
    (output / "demo.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(recorder, output / "demo.png")
    screen.finish(summary, output)
    return 0 if summary["succeeded"] else 1


def _perform(play: Play) -> str | None:
    """Every scene, in order; why the play stopped, if it did."""
    scenes: tuple[Callable[[], None], ...] = (
        play.run_short,
        play.apply_policy,
        play.raise_load,
        play.lower_load,
        play.leave,
    )
    try:
        for scene in scenes:
            scene()
    except SceneError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
