"""`python -m hack.dashboard` draws docs/dashboard.png.

Nodes with hundreds of model guests run for a working day in little, driven by the agent's and the core's own code.
Prometheus reads what they export. Then Grafana's own components draw the chart's dashboard in Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from hack.dashboard.answers import Span, chosen_values, fill_in, panel_answers
from hack.dashboard.model_cluster import NODES, VMS_PER_NODE, ModelCluster
from hack.dashboard.page import draw
from hack.testbed.chart import CHART
from hack.testbed.controlplane import ControlPlaneError
from hack.testbed.prometheus import Prometheus

_ROOT = Path(__file__).resolve().parents[2]
_PICTURE = _ROOT / "docs/dashboard.png"
_DATA = _ROOT / "build/dashboard"
_BEGINNING = 1_767_600_000.0  # 2026-01-05, 08:00 UTC
_LENGTH = 3600.0  # seconds


def main() -> int:
    """Simulate the cluster and draw the dashboard; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hack.dashboard", description=__doc__)
    parser.add_argument("--picture", type=Path, default=_PICTURE, help="the file to write (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="draw the data of the last run")
    options = parser.parse_args()
    dashboard = json.loads((CHART / "files/dashboard.json").read_text())
    span = Span(_BEGINNING, _BEGINNING + _LENGTH)
    server = Prometheus([], _DATA)
    try:
        if not options.again:
            server.fill(_simulate())
        with server as prometheus:
            answers = panel_answers(prometheus, dashboard, span)
        for panel in dashboard["panels"]:
            panel["title"] = fill_in(panel["title"], chosen_values(dashboard))
        draw(dashboard, answers, span, options.picture)
    except (ControlPlaneError, OSError) as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    print(options.picture)
    return 0


def _simulate() -> str:
    """Let the model cluster run, and return its metrics."""
    shutil.rmtree(_DATA, ignore_errors=True)
    _DATA.mkdir(parents=True)
    print(f"simulating {NODES * VMS_PER_NODE} VMs on {NODES} nodes: a minute", flush=True)
    return ModelCluster(_LENGTH, _BEGINNING).metrics()


if __name__ == "__main__":
    sys.exit(main())
