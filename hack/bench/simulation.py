"""What the simulator finds on workloads that the project makes up itself, and how long it takes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from kubeballoon.core.model import GIB, Amount, Policy
from kubeballoon.simulate.synthetic import diurnal, surge
from kubeballoon.simulate.work import Setting, simulate


def rows() -> list[dict[str, Any]]:
    """One row per workload, strategy and overcommit ratio."""
    policy, jobs = Policy("default"), os.cpu_count() or 1
    lower = replace(policy, minimum=Amount(percent=25))  # at the default's half, minimums pin everybody from 2 on
    surging, daily = surge(100), diurnal(80)
    node = int(sum(trace.size for trace in surging.traces) / 1.6)
    # All on one node at the higher ratio; at 1.3 the same node holds fewer of them.
    outcomes = {
        "surge": simulate(surging, Setting(node, policy), (1.3, 1.6), jobs),
        "diurnal": simulate(daily, Setting(128 * GIB, policy), (1.25, 1.5, 1.75), jobs),
        "diurnal, every 2 s": simulate(daily, Setting(128 * GIB, policy, interval=2.0), (1.5,), jobs),
        "diurnal, min 25 %": simulate(daily, Setting(128 * GIB, lower), (2, 3), jobs),
    }
    found = [{"workload": name, **run.to_json()} for name, outcome in outcomes.items() for run in outcome.runs]
    return [*found, _speed(jobs)]


def _speed(jobs: int) -> dict[str, Any]:
    """How long one replay takes: well under a minute."""
    week = diurnal(80, days=7)
    started = time.perf_counter()
    simulate(week, Setting(128 * GIB, Policy("default")), (1.5,), jobs)
    return {"workload": "80 VMs, 7 days", "wall_seconds": time.perf_counter() - started, "allowed_seconds": 40.0}
