"""The allocation of processors: within bounds, exact, independent of order, and steady."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.decision_reason import DecisionReason, TargetChange
from kubeballoon.core.entitlement import Claim
from kubeballoon.core.processors.allocation import allocate_processors, divide_whole
from kubeballoon.core.processors.model import (
    Count,
    Hysteresis,
    ProcessorNode,
    ProcessorPressure,
    ProcessorTerms,
    ProcessorTrigger,
    ProcessorVM,
)
from kubeballoon.vocabulary import Mode, ReclaimWhen
from tests.core.generators import claims

ALWAYS = ProcessorTrigger(ReclaimWhen.OVERCOMMITTED)
PRESSED = ProcessorPressure(stall=60, usage=100)
capacities = st.integers(0, 400)


def vm(uid: str, size: int = 4, policy: ProcessorTerms | None = None, **changes: object) -> ProcessorVM:
    made = ProcessorVM(uid, f"default/{uid}", size, online=size, policy=policy)
    return replace(made, **changes)  # type: ignore[arg-type]  # named as the fields are


def targets(node: ProcessorNode) -> list[int | None]:
    return [decision.target for decision in allocate_processors(node).decisions]


@given(claims(most=64), capacities)
def test_bounds_hold_and_no_processor_is_lost(drawn: list[Claim], capacity: int) -> None:
    shares = divide_whole(drawn, capacity)
    assert all(claim.minimum <= share <= claim.maximum for claim, share in zip(drawn, shares, strict=True))
    least, most = sum(claim.minimum for claim in drawn), sum(claim.maximum for claim in drawn)
    assert sum(shares) == max(least, min(capacity, most))


@given(claims(most=64), capacities, st.randoms(use_true_random=False))
def test_the_order_of_claims_does_not_matter(drawn: list[Claim], capacity: int, shuffle: random.Random) -> None:
    shares = dict(zip((claim.key for claim in drawn), divide_whole(drawn, capacity), strict=True))
    shuffle.shuffle(drawn)
    assert [shares[claim.key] for claim in drawn] == divide_whole(drawn, capacity)


@given(claims(most=64, at_most=6), capacities)
def test_another_processor_costs_nobody_more_than_a_rounding(drawn: list[Claim], capacity: int) -> None:
    before, after = divide_whole(drawn, capacity), divide_whole(drawn, capacity + 1)
    assert all(now >= then - 1 for then, now in zip(before, after, strict=True))


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=8), st.integers(1, 64), capacities)
def test_who_has_more_shares_never_has_fewer_processors(shares: list[int], size: int, capacity: int) -> None:
    declared = [Claim(f"vm-{index:02}", 0, size, weight, size) for index, weight in enumerate(sorted(shares))]
    allocated = divide_whole(declared, capacity)
    assert all(
        less <= more
        for one, less in zip(declared, allocated, strict=True)
        for other, more in zip(declared, allocated, strict=True)
        if one.weight < other.weight
    )


def test_the_largest_remainder_has_what_is_left_over() -> None:
    # 7 by 5 : 3 : 2 is 3.5, 2.1 and 1.4.
    declared = [Claim("a", 0, 9, 5, 9), Claim("b", 0, 9, 3, 9), Claim("c", 0, 9, 2, 9)]
    assert divide_whole(declared, 7) == [4, 2, 1]
    assert divide_whole(declared, 4) == [2, 1, 1], "2, 1.2 and 0.8"


def test_shares_divide_a_node_that_is_always_overcommitted() -> None:
    half = ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)
    rich = replace(half, name="rich", shares=3000)
    assert targets(ProcessorNode("n", 8, vms=(vm("a", 8, half), vm("b", 8, rich)))) == [2, 6]


@given(st.integers(1, 16), st.lists(st.integers(1, 16), max_size=6), st.integers(0, 100), st.integers(0, 100))
def test_no_vm_is_below_its_minimum_or_without_a_processor(count: int, sizes: list[int], low: int, high: int) -> None:
    policy = ProcessorTerms("p", minimum=Count(percent=low), maximum=Count(percent=high), trigger=ALWAYS)
    node = ProcessorNode("n", count, vms=tuple(vm(f"vm-{index}", size, policy) for index, size in enumerate(sizes)))
    for decision in allocate_processors(node).decisions:
        assert decision.target is not None
        assert 1 <= decision.vm.minimum <= decision.target <= decision.vm.maximum <= decision.vm.size


def test_percentages_are_rounded_up() -> None:
    assert [Count(percent=50).of(size) for size in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert Count(percent=0).of(4) == 1


def test_nothing_is_reclaimed_before_tasks_wait_and_processors_are_in_use() -> None:
    policy = ProcessorTerms("p", minimum=Count(1))
    vms = (vm("a", 4, policy), vm("b", 4, policy))
    for pressure in (ProcessorPressure(), ProcessorPressure(stall=90), ProcessorPressure(usage=100)):
        decisions = allocate_processors(ProcessorNode("n", 2, pressure, vms)).decisions
        assert {decision.target for decision in decisions} == {4}
        assert {decision.reason for decision in decisions} == {DecisionReason.NOT_UNDER_PRESSURE}
    assert targets(ProcessorNode("n", 2, PRESSED, vms)) == [1, 1]


@given(st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_between_its_thresholds_a_trigger_stays_as_it_is(stall: float, usage: float, before: bool) -> None:  # noqa: FBT001 - drawn
    trigger = ProcessorTrigger(stall=Hysteresis(40, 20), usage=Hysteresis(90, 70))
    now = trigger.is_active(ProcessorPressure(stall, usage), was_active=before)
    if now and not before:
        assert stall >= 40
        assert usage >= 90
    if before and not now:
        assert stall < 20
        assert usage < 70


def test_a_reduced_vm_keeps_the_trigger_active_until_stall_and_usage_have_fallen() -> None:
    policy = ProcessorTerms("p", minimum=Count(1))
    reduced = tuple(vm(name, 4, policy, target=1) for name in "ab")
    assert targets(ProcessorNode("n", 2, ProcessorPressure(stall=0, usage=95), reduced)) == [1, 1]
    assert targets(ProcessorNode("n", 2, ProcessorPressure(stall=0, usage=30), reduced)) == [4, 4]


@given(st.integers(1, 8), st.floats(0, 299), st.integers(1, 64))
def test_a_target_stays_for_the_cool_down(target: int, age: float, count: int) -> None:
    policy = ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)
    one = vm("a", 8, policy, target=target, last_change=TargetChange(up=True, age=age))
    assert targets(ProcessorNode("n", count, vms=(one,))) == [target]


def test_a_target_out_of_bounds_does_not_wait_for_the_cool_down() -> None:
    policy = ProcessorTerms("p", minimum=Count(3), trigger=ALWAYS)
    one = vm("a", 8, policy, target=1, last_change=TargetChange(up=False, age=1))
    assert targets(ProcessorNode("n", 1, vms=(one,))) == [3]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"policy": None}, DecisionReason.NO_POLICY),
        ({"excluded": "it has dedicated CPUs"}, DecisionReason.EXCLUDED),
        ({"responsive": False}, DecisionReason.UNRESPONSIVE),
    ],
)
def test_vms_left_out_have_a_reason_and_do_not_crowd_out_others(
    changes: dict[str, object], reason: DecisionReason
) -> None:
    policy = ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)
    left_out = replace(vm("left-out", 40, policy), **changes)  # type: ignore[arg-type]  # named as the fields are
    plan = allocate_processors(ProcessorNode("n", 28, vms=(left_out, vm("a", 8, policy), vm("b", 8, policy))))
    assert plan.decisions[0].reason is reason
    assert plan.decisions[0].target is None
    assert [decision.target for decision in plan.decisions[1:]] == [4, 4]


def test_observing_says_what_would_be_and_asks_nothing() -> None:
    watch = ProcessorTerms("w", minimum=Count(1), mode=Mode.OBSERVE, trigger=ALWAYS)
    (decision,) = allocate_processors(ProcessorNode("n", 2, vms=(vm("a", 4, watch),))).decisions
    assert decision.target is None
    assert decision.reason is DecisionReason.RECLAIMED


def test_minimums_that_do_not_fit_are_kept_and_reported() -> None:
    policy = ProcessorTerms("p", minimum=Count(3), trigger=ALWAYS)
    plan = allocate_processors(ProcessorNode("n", 4, vms=(vm("a", 4, policy), vm("b", 4, policy))))
    assert [decision.target for decision in plan.decisions] == [3, 3]
    assert plan.shortfall == 2


@pytest.mark.parametrize(
    "policy", [None, ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)], ids=["free", "governed"]
)
def test_dedicated_processors_are_divided_among_nobody(policy: ProcessorTerms | None) -> None:
    own = replace(vm("own", 8, policy), excluded="it has dedicated CPUs", dedicated=True)
    sharing = ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)
    others = tuple(vm(f"v{number}", 8, sharing) for number in range(4))
    plan = allocate_processors(ProcessorNode("n", 16, vms=(own, *others)))
    assert [decision.target for decision in plan.decisions] == [None, 2, 2, 2, 2]
    assert plan.shortfall == 0
    assert allocate_processors(ProcessorNode("n", 10, vms=(own, *others))).shortfall == 2


def test_a_vm_that_does_not_follow_keeps_no_trigger_active() -> None:
    policy = ProcessorTerms("p", minimum=Count(1))
    stuck = replace(vm("stuck", 4, policy, target=1), responsive=False)
    between = ProcessorPressure(stall=0, usage=75)
    assert targets(ProcessorNode("n", 4, between, (vm("a", 4, policy, target=4), stuck))) == [4, 1]
    assert targets(ProcessorNode("n", 4, between, (vm("a", 4, policy, target=3), stuck)))[0] != 4, (
        "a VM that follows does"
    )


def test_a_vm_without_a_policy_is_guaranteed_all_of_its_processors() -> None:
    free = vm("free", 4)
    assert (free.minimum, free.maximum) == (4, 4)


def test_a_vm_that_cannot_be_moved_counts_with_default_shares() -> None:
    greedy = ProcessorTerms("greedy", minimum=Count(1), shares=9000, trigger=ALWAYS)
    stuck = vm("stuck", 8, greedy, responsive=False)
    sharing = ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)
    assert targets(ProcessorNode("n", 8, vms=(stuck, vm("a", 8, sharing)))) == [None, 4]


def test_a_trigger_starts_and_stays_at_its_thresholds() -> None:
    trigger = ProcessorTrigger(stall=Hysteresis(40, 20), usage=Hysteresis(90, 70))
    assert trigger.is_active(ProcessorPressure(40, 90), was_active=False)
    assert trigger.is_active(ProcessorPressure(20, 0), was_active=True)
    assert trigger.is_active(ProcessorPressure(0, 70), was_active=True)
    assert not trigger.is_active(ProcessorPressure(19.9, 69.9), was_active=True)


def test_a_percentage_of_nothing_is_one_processor_and_a_count_does_not_exceed_its_limit() -> None:
    assert Count(percent=0).of(400) == 1
    assert Count(percent=50, limit=Count(2)).of(8) == 2
    assert Count(percent=50, limit=Count(6)).of(8) == 4


@pytest.mark.parametrize(
    ("minimum", "maximum", "bounds"), [(8, 9, (4, 4)), (3, 2, (3, 3)), (1, 2, (1, 2)), (2, 9, (2, 4))]
)
def test_the_minimum_comes_before_the_maximum_and_neither_exceeds_the_size(
    minimum: int, maximum: int, bounds: tuple[int, int]
) -> None:
    bounded = vm("a", 4, ProcessorTerms("p", minimum=Count(minimum), maximum=Count(maximum)))
    assert (bounded.minimum, bounded.maximum) == bounds


def test_a_vm_that_does_not_follow_or_is_only_observed_is_guaranteed_nothing() -> None:
    policy = ProcessorTerms("p", minimum=Count(3), trigger=ALWAYS)
    deaf = replace(vm("a", 4, policy), responsive=False)
    watched = vm("b", 4, replace(policy, mode=Mode.OBSERVE))
    for found in (deaf, watched):
        assert ProcessorNode("n", 2, vms=(found,)).shortfall == 0
        assert ProcessorNode("n", 2, vms=(found, vm("c", 4, policy))).shortfall == 1


def test_a_vm_that_cannot_be_moved_is_guaranteed_nothing() -> None:
    stuck = tuple(vm(name, 4) for name in "abc")
    assert allocate_processors(ProcessorNode("n", 2, vms=stuck)).shortfall == 0
    guaranteed = vm("d", 4, ProcessorTerms("p", minimum=Count(3), trigger=ALWAYS))
    assert allocate_processors(ProcessorNode("n", 2, vms=(*stuck, guaranteed))).shortfall == 1


@pytest.mark.parametrize(
    ("change", "target"),
    [
        (TargetChange(up=True, age=299.9), 4),
        (TargetChange(up=True, age=300), 2),
        (TargetChange(up=None, age=1), 2),
        (None, 2),
    ],
)
def test_a_target_moves_once_the_cool_down_is_over_or_if_it_was_never_seen_to_move(
    change: TargetChange | None, target: int
) -> None:
    policy = ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)
    one = vm("a", 8, policy, target=4, last_change=change)
    assert targets(ProcessorNode("n", 2, vms=(one,))) == [target]
    assert targets(ProcessorNode("n", 2, vms=(replace(one, target=None),))) == [2]


def test_a_target_above_a_maximum_that_was_lowered_does_not_wait_for_the_cool_down() -> None:
    policy = ProcessorTerms("p", minimum=Count(1), maximum=Count(4), trigger=ALWAYS)
    one = vm("a", 8, policy, target=6, last_change=TargetChange(up=True, age=1))
    assert targets(ProcessorNode("n", 2, vms=(one,))) == [4]


def test_a_count_has_exactly_one_form() -> None:
    for number, percent in ((None, None), (1, 50)):
        with pytest.raises(ValueError, match="a count is a number or a percentage"):
            Count(number, percent)


def test_a_vm_that_is_reported_without_any_processor_does_not_disturb_the_others() -> None:
    policy = ProcessorTerms("p", minimum=Count(1), trigger=ALWAYS)
    vms = (vm("a", 4, policy), vm("b", 4, policy))
    assert targets(ProcessorNode("n", 4, vms=(*vms, vm("nothing", 0, policy)))) == [2, 2, 0]
