"""What ``kubeballoon recommend`` names from half of the recorded VMs, and whether that holds for the other half.

One half is filled into a real Prometheus as KubeVirt's metrics, with gaps, and VMs that come, go, restart and migrate.
The ratio and the minimum that are named are replayed with the other half.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hack.testbed.kubevirt_metrics import kubevirt_metrics
from hack.testbed.prometheus import Prometheus, open_metrics
from kubeballoon.__main__ import main
from kubeballoon.core.memory.model import MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.minimums import with_minimum
from kubeballoon.replay.ratio_trials import TrialSettings, nodes_without_overcommitment, try_ratios
from kubeballoon.replay.recommendation import DAY, Limits, RatioResult, judge_ratios
from kubeballoon.replay.traces import Workload, read_traces
from kubeballoon.replay.vm_history import VMHistory

_STEP = 300  # seconds between two samples that the command reads
_UNUSABLE = 1  # its exit status if it cannot use a history


@dataclass(frozen=True, slots=True)
class HoldOut:
    """A HoldOut is how ratios are tried with some VMs, and the one that is named with others.

    Attributes:
        node_memory: what each node has for VMs, bytes.
        ratios: the overcommit ratios to try.
        placements: how many placements of the VMs on nodes are tried.
        interval: between two rounds of control, seconds. Where it is longer than a controller's, memory comes later
            than it would, and fewer rounds are to be computed.
    """

    node_memory: int
    ratios: tuple[float, ...]
    placements: int = 1
    interval: int = 60

    def compare(self, recorded: Workload, rest: Workload) -> dict[str, Any]:
        """Recommend by what a Prometheus recorded of some VMs, and replay what is named with the others.

        Returns:
            How many ratios were tried, and found safe; the one that is named, None if none is; the share of node-days
            within the limits that it reaches with 95 % confidence; and the share that it reaches with the other VMs.
        """
        found = self._recommend(recorded)
        named = found["recommended_overcommit"]
        tried = {each["overcommit"]: each for each in found["ratios"]}
        row = {"tried": len(tried), "safe": sum(each["safe"] for each in tried.values()), "ratio": named}
        if named is None:
            return row
        minimum = tried[named]["min_percent"][""]
        result = self.replay(rest, named, minimum)
        return {
            **row,
            "min_percent": minimum,
            "node_days": tried[named]["node_days"],
            "share": tried[named]["within_limits_share"],
            "promised_share": tried[named]["within_limits_share_95"],
            "rest_node_days": result.observations,
            "rest_share": result.share,
            "rest_vms_killed": result.totals.killed,
            "rest_short_seconds": result.totals.short_seconds,
        }

    def replay(self, workload: Workload, ratio: float, minimum: int) -> RatioResult:
        """Replay VMs at one ratio, with a minimum in percent of their sizes."""
        history = VMHistory(workload, owners={trace.name: trace.name for trace in workload.traces})
        terms = with_minimum(MemoryTerms("named"), minimum)
        settings = TrialSettings(
            self.node_memory, terms, keep_minimum=True, placements=self.placements, interval=self.interval
        )
        trials = try_ratios(history, settings, [ratio], os.cpu_count() or 1)
        (result,) = judge_ratios(trials, Limits(), nodes_without_overcommitment(history, self.node_memory))
        return result

    def _recommend(self, workload: Workload) -> dict[str, Any]:
        """Run the command on a Prometheus with a history of VMs, up to now.

        Raises:
            ValueError: the command cannot use that history; it has said why.
        """
        seconds = workload.seconds // DAY * DAY
        end = time.time() // _STEP * _STEP
        words = ["--range", f"{seconds // DAY:.0f}d", "--until", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))]
        words += ["--overcommit", ",".join(map(str, self.ratios)), "--placements", str(self.placements)]
        words += ["--interval", f"{self.interval}s", "-o", "json"]
        whole_days = replace(workload, seconds=seconds)
        with tempfile.TemporaryDirectory() as directory:
            prometheus = Prometheus([], Path(directory))
            prometheus.fill(open_metrics(kubevirt_metrics(whole_days, self.node_memory, end - seconds)))
            printed = io.StringIO()
            with prometheus, redirect_stdout(printed):
                status = main(["recommend", "--prometheus", prometheus.url, *words])
        if status == _UNUSABLE:
            raise ValueError("nothing can be recommended from these traces")
        found: dict[str, Any] = json.loads(printed.getvalue())
        return found


def rows(directory: Path) -> list[dict[str, Any]]:
    """Recommend from every other VM of those whose traces a directory holds, and try that with the others."""
    workload = read_traces(directory)
    recorded, rest = (replace(workload, traces=workload.traces[first::2]) for first in (0, 1))
    return [HoldOut(64 * GIB, (1.25, 1.5, 2.0)).compare(recorded, rest)]
