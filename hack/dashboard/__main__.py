"""`python -m hack.dashboard`: draws docs/dashboard.png.

The demo's guests, agent and controller run as in `make demo`, while a Prometheus scrapes them; then the chart's
dashboard is drawn of what it has, by Grafana's own components in Chromium.
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
from hack.dashboard.prometheus import Prometheus, Span, free_address
from hack.demo.play import Play, SceneError
from hack.demo.record import Recorder
from hack.demo.screen import Screen
from hack.demo.stage import ROOT, Stage
from hack.testbed.chart import CHART
from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.lab import LabError

_PICTURE = ROOT / "docs/dashboard.png"
_SEEN = ROOT / "build/dashboard"
_REST_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_SPAN = _SEEN / "span.json"


def main() -> int:
    """Run the demo and draw; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.dashboard", description=__doc__)
    parser.add_argument("--picture", type=Path, default=_PICTURE, help="where it goes (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="draw what the last run has measured")
    options = parser.parse_args()
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    try:
        if not options.again:
            _measure()
        span = Span(**json.loads(_SPAN.read_text()))
        with Prometheus([], _SEEN) as prometheus:
            answers = prometheus.answers(dashboard, span)
        draw(dashboard, answers, span, options.picture)
    except (LabError, ControlPlaneError, SceneError, RuntimeError, OSError) as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    print(options.picture)
    return 0


def _measure() -> None:
    """Play the demo's memory scene before a Prometheus, until the load has come and gone."""
    shutil.rmtree(_SEEN, ignore_errors=True)
    _SEEN.mkdir(parents=True)
    screen = Screen(sys.stdout)
    serving = {part: free_address() for part in ("agent", "controller")}
    with Prometheus(list(serving.values()), _SEEN), Stage(screen.say, _SEEN, serving=serving) as stage:
        recorder = Recorder(stage)
        recorder.start()
        play = Play(stage, recorder, screen)
        start = time.time()
        try:
            for scene in (play.run_short, play.apply_policy, play.raise_load):
                scene()
            _let_rest(stage, recorder)
        finally:
            recorder.stop()
        _SPAN.write_text(json.dumps(asdict(Span(start, time.time()))))


def _let_rest(stage: Stage, recorder: Recorder) -> None:
    """Take the first guest's load away, and wait until it is asked for what it no longer needs."""
    pod = stage.pods[0]
    held = recorder.last.actual[pod.spec.name]
    pod.load.set(0)
    deadline = time.monotonic() + _REST_SECONDS
    while recorder.last.actual[pod.spec.name] >= held:
        stage.check()
        if time.monotonic() > deadline:
            raise SceneError(f"{pod.spec.name} gave nothing within {_REST_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
