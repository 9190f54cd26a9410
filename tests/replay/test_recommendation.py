"""How a ratio is chosen from what replays counted, and which minimums and sizes a history bears out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hack.testbed.workloads import diurnal
from kubeballoon.core.memory.model import Amount, MemoryTerms
from kubeballoon.core.units import GIB
from kubeballoon.replay.minimums import choose_minimums, usage_percentile
from kubeballoon.replay.node_replay import NodeReplay
from kubeballoon.replay.node_workload import NodeWorkload
from kubeballoon.replay.recommendation import (
    DAY,
    Limits,
    RatioTrial,
    highest_safe,
    judge_ratios,
    patches,
    wilson_lower,
)
from kubeballoon.replay.totals import ReplayTotals
from kubeballoon.replay.traces import Trace, Workload, step_trace
from kubeballoon.replay.vm_history import VMHistory
from kubeballoon.replay.vm_sizing import SizeAdvice, size_advice

GOOD = ReplayTotals(demand=1000.0)
LACKING = ReplayTotals(demand=1000.0, unmet=2.0)


def trial(ratio: float, *placements: list[ReplayTotals], nodes: int = 1) -> RatioTrial:
    return RatioTrial(ratio, {"": 40}, nodes, placements)


@pytest.mark.parametrize(
    "day", [GOOD, ReplayTotals(), ReplayTotals(demand=1000.0, unmet=1.0, short_seconds=300.0, exhaustions=1)]
)
def test_a_node_day_with_little_unmet_and_short_for_moments_is_within_the_limits(day: ReplayTotals) -> None:
    assert Limits().hold(day)


@pytest.mark.parametrize("day", [LACKING, replace(GOOD, short_seconds=301.0), replace(GOOD, killed=1)])
def test_a_node_day_with_more_than_that_or_a_killed_vm_is_not(day: ReplayTotals) -> None:
    assert not Limits().hold(day)


def test_the_highest_safe_ratio_is_below_the_first_that_is_not() -> None:
    trials = [trial(2.5, [GOOD] * 10), trial(1.5, [GOOD] * 20), trial(2.0, [*[GOOD] * 14, LACKING])]
    results = judge_ratios(trials, Limits(target=0.99), nodes_without=9)
    assert [(each.trial.ratio, each.safe) for each in results] == [(1.5, True), (2.0, False), (2.5, False)]
    best = highest_safe(results)
    assert best is results[0]
    assert best.nodes_saved == 8
    lenient = highest_safe(judge_ratios(trials, Limits(target=0.9), 9))
    assert lenient is not None
    assert lenient.trial.ratio == 2.5
    assert highest_safe(judge_ratios([trial(1.2, [LACKING])], Limits(), 1)) is None


def test_more_placements_of_the_same_days_make_nothing_surer() -> None:
    (one,) = judge_ratios([trial(2.0, [GOOD] * 10)], Limits(), 1)
    (three,) = judge_ratios([trial(2.0, *[[GOOD] * 10] * 3)], Limits(), 1)
    assert one.confident_share == three.confident_share == pytest.approx(1 / (1 + 1.6449**2 / 10), abs=1e-4)
    assert three.observations == 10
    (worse,) = judge_ratios([trial(2.0, [GOOD] * 10, [LACKING] * 10)], Limits(), 1)
    assert worse.share == 0.5


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_lower_bound_is_below_the_share_and_rises_with_observations(observations: int, share: float) -> None:
    lower = wilson_lower(share, observations)
    assert 0 <= lower <= share + 1e-12
    assert wilson_lower(share, 2 * observations) >= lower - 1e-12
    assert wilson_lower(share, 0) == 0


def test_what_to_set_are_merge_patches() -> None:
    (result,) = judge_ratios([RatioTrial(1.759, {"gold": 50, "test": 10}, 1, [[GOOD]])], Limits(), 1)
    kubevirt, gold, test = patches(result)
    assert kubevirt["patch"] == {"spec": {"configuration": {"developerConfiguration": {"memoryOvercommit": 175}}}}
    assert (gold["name"], gold["patch"]) == ("gold", {"spec": {"memory": {"min": "50%"}}})
    assert test["patch"] == {"spec": {"memory": {"min": "10%"}}}
    (exact,) = judge_ratios([trial(1.15, [GOOD])], Limits(), 1)
    developer = patches(exact)[0]["patch"]["spec"]["configuration"]["developerConfiguration"]
    assert developer == {"memoryOvercommit": 115}, "100 * 1.15 is a little less than 115"


def test_days_of_a_replay_add_up_to_its_whole() -> None:
    workload = diurnal(3, days=2, step=3600.0)
    memory = int(sum(trace.size for trace in workload.traces) / 1.5)
    node = NodeWorkload("node", memory, workload.traces, MemoryTerms("p"), workload.seconds)
    replay = NodeReplay(node, period=DAY)
    whole = replay.run()
    assert len(replay.periods) == 2
    assert astuple(ReplayTotals.add_up(replay.periods)) == pytest.approx(astuple(whole))
    assert astuple(whole) == pytest.approx(astuple(NodeReplay(node).run()), rel=1e-6)
    assert NodeReplay(node).periods == []


def node(memory: int, *traces: Trace, headroom: int = 0) -> NodeWorkload:
    return NodeWorkload("node", memory, traces, MemoryTerms("p", headroom=Amount(percent=headroom)), 10.0)


def minimums(workload: NodeWorkload, *policies: str) -> dict[str, int]:
    owners = {trace.name: policy for trace, policy in zip(workload.traces, policies, strict=True)}
    return choose_minimums([workload], owners, workload.traces, 10.0)


def test_a_minimum_is_not_above_what_its_policy_s_vms_usually_work_with() -> None:
    idle, busy = step_trace("idle", 8 * GIB, [0.0], [GIB]), step_trace("busy", 8 * GIB, [0.0], [6 * GIB])
    assert minimums(node(64 * GIB, idle, busy), "test", "gold") == {"test": 15, "gold": 75}


def test_minimums_together_fit_the_node() -> None:
    busy = [step_trace(name, 8 * GIB, [0.0], [7 * GIB]) for name in "abcd"]
    full = node(16 * GIB, *busy)
    (minimum,) = minimums(full, *[""] * 4).values()
    assert 32 * GIB * minimum / 100 <= full.capacity < 32 * GIB * (minimum + 5) / 100


def test_guarantees_leave_room_for_needs_that_would_fit_without_them() -> None:
    rising = step_trace("rising", 8 * GIB, [0.0, 5.0], [2 * GIB, 7 * GIB])
    falling = step_trace("falling", 8 * GIB, [0.0, 5.0], [7 * GIB, 2 * GIB])
    (minimum,) = minimums(node(10 * GIB, rising, falling), "", "").values()
    assert minimum == 25, "7 GiB beside a guarantee of 30 % exceed 9.4 GiB"
    (with_headroom,) = minimums(node(11 * GIB, rising, falling, headroom=5), "", "").values()
    assert with_headroom == 35, "7.4 GiB beside a guarantee of 40 % exceed 10.3 GiB"


@given(st.lists(st.lists(st.integers(0, 8), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(6, 40))
def test_chosen_minimums_always_fit(needs: list[list[int]], memory: int) -> None:
    traces = [
        step_trace(f"vm{number}", 8 * GIB, [0.0, 2.0, 5.0, 7.0], [each * GIB for each in need])
        for number, need in enumerate(needs)
    ]
    workload = node(memory * GIB, *traces)
    (minimum,) = minimums(workload, *[""] * len(traces)).values()
    assert len(traces) * 8 * GIB * minimum / 100 <= workload.capacity


def test_usage_counts_only_while_a_vm_is_there() -> None:
    trace = replace(step_trace("vm", 10, [2.0, 4.0, 6.0], [5, 9, 0]), start=2.0, end=6.0)
    assert usage_percentile([trace], 50, 100.0) == 0.5
    assert usage_percentile([trace], 99, 100.0) == 0.9
    always = step_trace("idle", 10, [0.0], [1])
    assert usage_percentile([trace, always], 90, 100.0) == 0.1


def advice(*traces: Trace, **more: Sequence[str] | dict[str, float]) -> list[SizeAdvice]:
    owners = {trace.name: trace.name.split(" #")[0] for trace in traces}
    return size_advice(VMHistory(Workload(traces, 1000.0), owners, **more))  # type: ignore[arg-type]  # two fields only


def test_vms_that_are_far_too_large_or_too_small_are_named_with_a_size_that_fits() -> None:
    large = step_trace("large", 32 * GIB, [0.0], [4 * GIB])
    small = step_trace("small", 4 * GIB, [0.0], [int(3.8 * GIB)])
    fitting = step_trace("fitting", 8 * GIB, [0.0], [5 * GIB])
    first, second = advice(large, small, fitting)
    assert (first.vm, first.too_large, first.suggested) == ("large", True, 5 * GIB)
    assert (second.vm, second.too_large, second.suggested) == ("small", False, 5 * GIB)
    assert second.to_json()["verdict"] == "TooSmall"


def test_a_vm_that_swaps_is_too_small_whatever_it_works_with() -> None:
    (found,) = advice(step_trace("vm", 4 * GIB, [0.0], [GIB]), swapping={"vm": 0.2})
    assert not found.too_large
    assert found.suggested == 5 * GIB


def test_nothing_is_said_of_a_vm_whose_guest_never_reported() -> None:
    assert advice(step_trace("mute", 4 * GIB, [0.0], [4 * GIB]), silent=["mute"]) == []


def test_a_vm_that_was_placed_twice_is_judged_once() -> None:
    before = replace(step_trace("vm", 8 * GIB, [0.0, 400.0], [GIB, 0]), end=400.0)
    after = replace(step_trace("vm #2", 8 * GIB, [0.0, 600.0], [0, GIB]), start=600.0)
    (found,) = advice(before, after)
    assert (found.vm, found.peak, found.suggested) == ("vm", GIB, int(1.25 * GIB))
