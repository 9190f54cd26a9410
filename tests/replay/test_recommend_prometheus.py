"""``kubeballoon recommend`` on a real Prometheus: what it names from some VMs holds for others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hack.bench.recommend import HoldOut
from hack.testbed.workloads import daily_job
from kubeballoon.core.units import GIB
from kubeballoon.replay.recommendation import Limits


@pytest.mark.tools
def test_what_is_named_from_half_of_the_vms_holds_for_the_others_with_the_confidence_that_is_told() -> None:
    vms = daily_job(48)
    recorded, rest = (replace(vms, traces=vms.traces[first::2]) for first in (0, 1))
    hold_out = HoldOut(16 * GIB, (1.25, 1.5, 2.0))
    row = hold_out.compare(recorded, rest)
    assert (row["tried"], row["safe"], row["ratio"]) == (3, 2, 1.5)
    assert row["node_days"] == row["rest_node_days"] == 4, "four nodes for a day"
    assert 0.5 < row["promised_share"] < row["share"] == 1
    assert row["promised_share"] <= row["rest_share"]
    assert row["rest_vms_killed"] == 0
    assert hold_out.replay(rest, 2.0, row["min_percent"]).share < Limits().target, "a higher ratio is not safe"
