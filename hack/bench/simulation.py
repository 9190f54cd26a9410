"""What the simulator finds on workloads that the project makes up itself, and how long it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hack.testbed.workloads import diurnal, surge
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.comparison import ReplaySettings, compare_strategies
from kubeballoon.replay.traces import Workload

_NODE = 128 * GIB  # for all but the surge


def rows() -> list[dict[str, Any]]:
    """One row per workload, strategy and overcommit ratio."""
    policy, jobs = MemoryTerms("default"), os.cpu_count() or 1
    lower = replace(policy, minimum=Amount(percent=25))  # at the default's half, minimums pin everybody from 2 on
    surging, daily = surge(100), diurnal(80)
    node = int(sum(trace.size for trace in surging.traces) / 1.6)
    # All on one node at the higher ratio; at 1.3 the same node holds fewer of them.
    scenes = {
        "surge": (surging, ReplaySettings(node, policy), (1.3, 1.6)),
        "diurnal": (daily, ReplaySettings(_NODE, policy), (1.25, 1.5, 1.75)),
        "diurnal, every 2 s": (daily, ReplaySettings(_NODE, policy, interval=2.0), (1.5,)),
        "diurnal, min 25 %": (daily, ReplaySettings(_NODE, lower), (2, 3)),
    }
    found: list[dict[str, Any]] = []
    for name, (workload, setting, ratios) in scenes.items():
        runs = compare_strategies(workload, setting, ratios, jobs).runs
        found += limited([{"workload": name, **run.to_json()} for run in runs], late(workload, setting))
    return [*found, _speed(jobs)]


def late(workload: Workload, setting: ReplaySettings) -> float:
    """What is missed because a demand is seen half an interval late on average, GiB·h.

    That is of each rise what exceeds the VM's headroom, for as long.
    """
    beyond = 0
    for trace in workload.traces:
        headroom = setting.policy.headroom.of(trace.size)
        beyond += sum(max(0, int(now) - int(before) - headroom) for before, now in pairwise(trace.demand))
    return beyond / GIB * setting.interval / 2 / 3600


def limited(rows: Sequence[dict[str, Any]], late: float) -> list[dict[str, Any]]:
    """The rows, with what kubeballoon may leave unmet at each ratio; ``late`` in GiB·h."""
    unmet = {(row["overcommit"], row["strategy"]): row["unmet_gib_hours"] for row in rows}
    return [
        {**row, **_allowed(unmet, row["overcommit"], late)} if row["strategy"] == "kubeballoon" else row for row in rows
    ]


def _allowed(unmet: Mapping[tuple[float, str], float], ratio: float, late: float) -> dict[str, float]:
    """Once and a half the optimum, and what is seen late; a tenth of the static split where the optimum leaves room."""
    optimum, tenth = unmet[ratio, "clairvoyant"] * 1.5, unmet[ratio, "static"] / 10
    return {"allowed_gib_hours": min(optimum + late, tenth) if optimum <= tenth else optimum + late}


def _speed(jobs: int) -> dict[str, Any]:
    """How long one replay takes: well under a minute."""
    week = diurnal(80, days=7)
    started = time.perf_counter()
    compare_strategies(week, ReplaySettings(_NODE, MemoryTerms("default")), (1.5,), jobs)
    return {"workload": "80 VMs, 7 days", "wall_seconds": time.perf_counter() - started, "allowed_seconds": 40.0}
