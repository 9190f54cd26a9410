"""`python -m hack.dashboard` draws docs/dashboard.png.

The demo's guests, agent and controller run as in `make demo` while a Prometheus scrapes them. Then Grafana's own
components draw the chart's dashboard in Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from hack.dashboard.page import draw
from hack.demo.memory_scene import MemoryScene
from hack.demo.scene import SceneError
from hack.demo.screen import Screen
from hack.demo.stage import ROOT, Stage
from hack.testbed.chart import CHART
from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.lab import LabError
from hack.testbed.prometheus import Prometheus, Span, free_address

_PICTURE = ROOT / "docs/dashboard.png"
_DATA = ROOT / "build/dashboard"
_RECLAIM_SECONDS = 60.0  # far more than the agent's demand window, after which the memory counts as idle
_POLL_SECONDS = 0.5
_SPAN = _DATA / "span.json"


def main() -> int:
    """Run the demo and draw the dashboard; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.dashboard", description=__doc__)
    parser.add_argument("--picture", type=Path, default=_PICTURE, help="the file to write (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="draw the data of the last run")
    options = parser.parse_args()
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    try:
        if not options.again:
            _measure()
        span = Span(**json.loads(_SPAN.read_text()))
        with Prometheus([], _DATA) as prometheus:
            answers = prometheus.answers(dashboard, span)
        draw(dashboard, answers, span, options.picture)
    except (LabError, ControlPlaneError, SceneError, RuntimeError, OSError) as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    print(options.picture)
    return 0


def _measure() -> None:
    """Play the demo's memory scene, until the load has fallen again, while a Prometheus scrapes it."""
    shutil.rmtree(_DATA, ignore_errors=True)
    _DATA.mkdir(parents=True)
    screen = Screen(sys.stdout)
    serving = {part: free_address() for part in ("agent", "controller")}
    with Prometheus(list(serving.values()), _DATA), Stage(screen.say, _DATA, serving=serving) as stage:
        scene = MemoryScene(stage, screen)
        start = time.time()
        with scene.recorder:
            scene.fill_caches()
            scene.balance()
            scene.raise_load()
            _lower_load(scene)
        _SPAN.write_text(json.dumps(asdict(Span(start, time.time()))))


def _lower_load(scene: MemoryScene) -> None:
    """End the first guest's load, and wait until memory is reclaimed from it."""
    pod = scene.stage.pods[0]
    before = scene.recorder.last.actual[pod.spec.name]
    pod.load.set(0)
    deadline = time.monotonic() + _RECLAIM_SECONDS
    while scene.recorder.last.actual[pod.spec.name] >= before:
        scene.stage.check()
        if time.monotonic() > deadline:
            raise SceneError(f"{pod.spec.name} gave nothing within {_RECLAIM_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
