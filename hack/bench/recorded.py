"""Recorded traces: what each choice of ``reclaim.when`` costs, against no balloon and the optimum.

A choice is better if it kills fewer VMs; of two that kill as many, the one that leaves less demand unmet is better.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.comparison import KUBEBALLOON, ReplaySettings, compare_strategies
from kubeballoon.replay.traces import read_traces
from kubeballoon.vocabulary import ReclaimWhen

RATIOS = (1.5, 2.0, 2.5, 3.0)
_DEPENDENT = (KUBEBALLOON, "clairvoyant")  # the strategies that heed ``reclaim.when``
_NODE_MEMORY = 256 * GIB
_POLICY = MemoryTerms("quarter", minimum=Amount(percent=25))
_ALLOWED_FACTOR = 1.1  # of what the optimum leaves unmet
_ALLOWED_SHARE = 0.0001  # of the demand, where the optimum leaves less


def rows(directory: Path) -> list[dict[str, Any]]:
    """Replay the traces of a directory; one row per strategy and overcommit ratio, with ``min: 25%``."""
    workload, jobs = read_traces(directory), os.cpu_count() or 1
    result: list[dict[str, Any]] = []
    for when in ReclaimWhen:
        settings = ReplaySettings(_NODE_MEMORY, replace(_POLICY, when=when))
        runs = [run.to_json() for run in compare_strategies(workload, settings, RATIOS, jobs).runs]
        # What the policy says changes the optimum, too, but neither of the other two.
        result += [{"when": str(when), **row} for row in with_limits(runs, when) if row["strategy"] in _DEPENDENT]
        if when is ReclaimWhen.OVERCOMMITTED:
            result += [{"when": "", **row} for row in runs if row["strategy"] not in _DEPENDENT]
    return result


def with_limits(runs: Sequence[Mapping[str, Any]], when: ReclaimWhen) -> list[dict[str, Any]]:
    """Add to kubeballoon's rows what may stay unmet at their ratio, GiB·h.

    That is a tenth more than under the optimum, or a ten-thousandth of the demand. Where VMs are killed without
    balloons, it is also no more than stays unmet then. A policy that reclaims under pressure only lets VMs wait on
    purpose, until others have given what they fill with caches: it must only leave no more unmet than no balloon does.
    """
    by_run = {(run["overcommit"], run["strategy"]): run for run in runs}
    return [
        {**run, "allowed_gib_hours": _allowed(run, when, by_run)} if run["strategy"] == KUBEBALLOON else dict(run)
        for run in runs
    ]


def _allowed(run: Mapping[str, Any], when: ReclaimWhen, by_run: Mapping[tuple[float, str], Mapping[str, Any]]) -> float:
    none, optimum = (by_run[run["overcommit"], strategy] for strategy in ("none", "clairvoyant"))
    without: float = none["unmet_gib_hours"]
    if when.waits_for_pressure:
        return without
    allowed: float = max(run["demand_gib_hours"] * _ALLOWED_SHARE, _ALLOWED_FACTOR * optimum["unmet_gib_hours"])
    return min(allowed, without) if none["vms_killed"] else allowed
