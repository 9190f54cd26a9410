"""The allocation of memory: decisions for all VMs of a node."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.decision_reason import DecisionReason, TargetChange
from kubeballoon.core.memory import division, model
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import (
    Amount,
    MemoryDecision,
    MemoryNode,
    MemoryPlan,
    MemoryTerms,
    MemoryVM,
    VMFigures,
)
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import AgentAction, Mode, NodeState, ReclaimWhen, SwapAbility, WorkingSetReclaim
from tests.core.generators import nodes

POLICY = MemoryTerms("p", minimum=Amount(percent=25), headroom=Amount(percent=10))


def vm(uid: str, *, need: int | None = GIB, size: int = 4 * GIB, policy: MemoryTerms | None = POLICY) -> MemoryVM:
    return MemoryVM(uid=uid, name=f"default/{uid}", size=size, actual=size, need=need, policy=policy)


def node(*vms: MemoryVM, capacity: int = 8 * GIB, state: NodeState = NodeState.AMPLE) -> MemoryNode:
    return MemoryNode("node", total=capacity + GIB, available=4 * GIB, other=0, reserve=GIB, state=state, vms=vms)


def decision(plan: MemoryPlan, uid: str) -> MemoryDecision:
    return next(decision for decision in plan.decisions if decision.vm.uid == uid)


def follow(before: MemoryNode, plan: MemoryPlan) -> MemoryNode:
    """Return the node once every guest has followed its request."""
    vms = tuple(
        each.vm
        if each.target is None or not each.vm.responsive
        else replace(
            each.vm,
            actual=each.target,
            target=each.target,
            last_change=each.vm.last_change
            if each.vm.target in (None, each.target)
            else TargetChange(up=each.target > (each.vm.target or 0), age=0),
        )
        for each in plan.decisions
    )
    return replace(before, vms=vms)


def settle(before: MemoryNode, rounds: int = 20) -> MemoryNode:
    for _ in range(rounds):
        before = follow(before, allocate_memory(before))
    return before


@given(nodes())
def test_each_vm_gets_one_decision_in_order_with_words(drawn: MemoryNode) -> None:
    plan = allocate_memory(drawn)
    assert [each.vm for each in plan.decisions] == list(drawn.vms)
    assert all(each.message for each in plan.decisions)


@given(nodes())
def test_a_vm_on_which_no_policy_is_enforced_is_left_out_for_a_reason_of_its_own(drawn: MemoryNode) -> None:
    left_out = DecisionReason.NO_POLICY, DecisionReason.EXCLUDED
    for each in allocate_memory(drawn).decisions:
        assert each.vm.enforced == (each.reason not in left_out and not each.vm.observed)


@given(nodes())
def test_where_demands_fit_nothing_falls_short_and_nobody_withholds(drawn: MemoryNode) -> None:
    roomy = replace(drawn, total=drawn.total + sum(each.most_demanded for each in drawn.vms))
    for each in (drawn, roomy):
        if each.fits_demands:
            plan = allocate_memory(each)
            assert plan.shortfall == 0
            assert not any(found.withheld for found in plan.decisions)


def test_demands_do_not_fit_where_a_guest_works_with_more_than_its_policy_allows() -> None:
    fits = node(vm("a"), vm("b"), capacity=16 * GIB)
    assert fits.fits_demands
    assert not node(vm("a"), vm("b"), capacity=2 * GIB).fits_demands
    limited = replace(POLICY, maximum=Amount(bytes=GIB // 2), minimum=Amount(bytes=GIB // 4))
    assert not node(vm("a", policy=limited), capacity=16 * GIB).fits_demands


@given(nodes())
def test_no_target_is_below_the_minimum_or_above_the_maximum(drawn: MemoryNode) -> None:
    for each in allocate_memory(drawn).decisions:
        if each.target is not None:
            assert each.vm.minimum <= each.target
            if each.withheld:
                continue  # what a guest would not give it keeps, also above its policy's maximum
            assert each.target <= each.vm.maximum or each.target == each.vm.target
            assert each.target <= each.vm.maximum or each.reason not in (
                *_SHARERS_REASONS,
                DecisionReason.NOT_UNDER_PRESSURE,
            )


@given(nodes())
def test_a_grant_never_exceeds_what_is_free(drawn: MemoryNode) -> None:
    plan = allocate_memory(drawn)
    moved = [each for each in plan.decisions if each.reason in _SHARERS_REASONS and each.target is not None]
    before = sum(max(each.vm.committed, each.vm.minimum) for each in moved)
    after = sum(max(each.vm.actual, each.target or 0) for each in moved)
    assert after <= max(before, plan.sharers_capacity)


@given(nodes())
def test_targets_together_never_exceed_what_the_vms_share_or_their_minimums(drawn: MemoryNode) -> None:
    plan = allocate_memory(drawn)
    shared = [each for each in plan.decisions if each.reason in _SHARERS_REASONS and each.target is not None]
    # What a guest withholds cannot be taken from it, so it counts as its minimum does.
    least = sum(max(each.vm.minimum, each.vm.figures.kept if each.withheld else 0) for each in shared)
    assert sum(each.target or 0 for each in shared) <= max(plan.sharers_capacity, least)


@given(nodes())
def test_what_a_guest_cannot_give_is_requested_neither_of_it_nor_promised_to_others(drawn: MemoryNode) -> None:
    plan = allocate_memory(drawn)
    for each in plan.decisions:
        assert 0 <= each.withheld <= each.entitlement
        if each.withheld:
            assert not each.vm.gives_working_set
            assert each.target is None or each.target >= each.vm.figures.kept - each.vm.dead_band
    assert plan.withheld == sum(each.withheld for each in plan.decisions)
    if any(each.withheld for each in plan.decisions if each.target is not None) and plan.shortfall == 0:
        promised = sum(each.entitlement for each in plan.decisions if each.reason in _SHARERS_REASONS)
        assert promised <= plan.sharers_capacity


_SHARERS_REASONS = (
    DecisionReason.SATISFIED,
    DecisionReason.RECLAIMED,
    DecisionReason.AT_MINIMUM,
    DecisionReason.WAITING,
    DecisionReason.WITHHOLDING,
)


@given(nodes())
def test_vms_that_are_left_out_carry_no_new_target(drawn: MemoryNode) -> None:
    for each in allocate_memory(drawn).decisions:
        if each.vm.policy is None or each.vm.excluded is not None or each.vm.policy.mode is Mode.OBSERVE:
            assert each.target is None
        elif not each.vm.responsive or each.vm.need is None:
            assert each.target == (None if each.vm.target is None else max(each.vm.target, each.vm.minimum))


def grows_to(each: MemoryDecision) -> int:
    """Return what the VM's agent will leave it once guests have followed, in bytes."""
    vm = each.vm
    if vm.agent_action is AgentAction.RETURNS_ALL or (vm.agent_action is AgentAction.FOLLOWS and each.target is None):
        return vm.size
    return vm.actual if vm.agent_action is AgentAction.HOLDS or each.target is None else each.target


@given(nodes())
def test_what_goes_back_to_a_vm_is_nobody_else_s_and_what_does_not_fit_is_the_risk(drawn: MemoryNode) -> None:
    plan = allocate_memory(drawn)
    aside = sum(grows_to(each) for each in plan.decisions if each.target is None)
    assert plan.capacity == drawn.capacity
    assert plan.sharers_capacity <= max(0, drawn.capacity - aside)
    assert plan.risk >= sum(map(grows_to, plan.decisions)) - drawn.capacity


@pytest.mark.parametrize(
    "leaves",
    [
        {"policy": None},
        {"excluded": "its owner excluded it"},
        {"policy": replace(POLICY, mode=Mode.OBSERVE)},
        {"target": None, "need": None},
        {"responsive": False, "agent_action": AgentAction.RETURNS_ALL},
    ],
    ids=["without policy", "excluded", "observed", "new, its need not known", "being resized"],
)
def test_a_vm_that_is_given_its_memory_back_counts_as_whole_at_once(leaves: dict[str, Any]) -> None:
    given_back = replace(vm("a"), actual=GIB, **{"target": GIB, **leaves})
    plan = allocate_memory(node(given_back, vm("b"), capacity=6 * GIB))
    assert decision(plan, "b").target == pytest.approx(2 * GIB, rel=0.03)
    assert plan.risk == 0
    assert allocate_memory(node(given_back, vm("b"), capacity=4 * GIB)).risk == GIB, (
        "b's minimum does not fit beside it"
    )


@pytest.mark.parametrize("leaves", [{"excluded": "it has no balloon"}, {"responsive": False}, {"policy": None}])
def test_a_vm_that_its_agent_leaves_as_it_is_counts_as_what_it_holds(leaves: dict[str, Any]) -> None:
    left = replace(vm("a"), actual=GIB, target=GIB, agent_action=AgentAction.HOLDS, **leaves)
    assert decision(allocate_memory(node(left, vm("b"), capacity=4 * GIB)), "b").target == pytest.approx(
        3 * GIB, rel=0.01
    )


@given(nodes())
def test_without_pressure_no_more_is_given_back_than_is_free(drawn: MemoryNode) -> None:
    calm = replace(drawn, state=NodeState.AMPLE)
    given_back = [
        max(0, (each.target or 0) - max(each.vm.committed, each.vm.minimum))
        for each in allocate_memory(calm).decisions
        if each.reason is DecisionReason.NOT_UNDER_PRESSURE
    ]
    assert sum(given_back) <= max(0, calm.available - calm.reserve)


def test_without_pressure_a_little_that_is_free_moves_nobody() -> None:
    patient = replace(POLICY, when=ReclaimWhen.UNDER_PRESSURE)
    vms = [replace(vm(name, policy=patient), actual=2 * GIB, target=2 * GIB) for name in "abc"]
    nearly = replace(node(*vms), available=GIB + 3)
    assert [each.target for each in allocate_memory(nearly).decisions] == [2 * GIB] * 3
    turning = [replace(each, last_change=TargetChange(up=False, age=1)) for each in vms]
    assert [each.target for each in allocate_memory(node(*turning)).decisions] == [2 * GIB] * 3


def test_a_minimum_that_was_raised_by_a_little_is_granted_at_once() -> None:
    raised = replace(POLICY, minimum=Amount(bytes=2 * GIB + 40 * MIB))
    vms = [replace(vm(name, policy=raised), actual=2 * GIB, target=2 * GIB) for name in "abcd"]
    for each in allocate_memory(node(*vms, capacity=9 * GIB)).decisions:
        assert (each.target or 0) >= 2 * GIB + 40 * MIB


def test_the_minimum_of_a_vm_that_does_not_follow_counts() -> None:
    high = replace(POLICY, minimum=Amount(percent=75))
    vms = [replace(vm(name, policy=high), actual=2 * GIB, target=2 * GIB) for name in "abc"]
    vms[1] = replace(vms[1], responsive=False)
    plan = allocate_memory(node(*vms))
    assert plan.shortfall == GIB
    assert decision(plan, "b").target == 3 * GIB


def test_vms_that_fit_have_all_of_their_memory() -> None:
    plan = allocate_memory(node(vm("a"), vm("b")))
    assert [each.target for each in plan.decisions] == [4 * GIB, 4 * GIB]
    assert {each.reason for each in plan.decisions} == {DecisionReason.SATISFIED}


def test_an_overcommitted_node_reclaims_idle_memory_until_its_vms_fit() -> None:
    plan = allocate_memory(node(vm("a"), vm("b"), vm("c"), vm("d", need=3 * GIB)))
    assert sum(each.target or 0 for each in plan.decisions) <= 8 * GIB
    assert "taxed at 75 %" in decision(plan, "a").message


def test_a_higher_tax_leaves_a_vm_with_idle_memory_less_beside_one_that_works_with_most_of_its_own() -> None:
    def left_to_the_idle_one(idle_tax: int) -> int:
        policy = replace(POLICY, idle_tax=idle_tax)
        idle, busy = vm("idle", need=GIB // 2, policy=policy), vm("busy", need=7 * GIB // 2, policy=policy)
        return decision(allocate_memory(node(idle, busy, capacity=6 * GIB)), "idle").entitlement

    untaxed, taxed = map(left_to_the_idle_one, (0, 75))
    assert untaxed > taxed + 64 * MIB


@pytest.mark.parametrize("state", [NodeState.AMPLE, NodeState.TIGHT])
def test_no_vm_is_reduced_below_its_demand_while_another_has_idle_memory(state: NodeState) -> None:
    busy = vm("busy", need=3 * GIB)
    settled = settle(node(busy, vm("idle"), vm("idle-too"), state=state))
    assert settled.vms[0].actual >= busy.demand


def test_in_scarce_only_minimums_hold() -> None:
    light = replace(POLICY, shares_per_gib=1)
    settled = settle(
        node(vm("light", need=3 * GIB, policy=light), vm("a"), vm("b"), capacity=6 * GIB, state=NodeState.SCARCE)
    )
    assert GIB <= settled.vms[0].actual < 3 * GIB


def test_when_demands_do_not_fit_nobody_gets_more_than_its_demand() -> None:
    settled = settle(node(vm("a", need=3 * GIB), vm("b", need=3 * GIB), vm("c", need=GIB), capacity=6 * GIB))
    assert all(each.actual <= each.demand for each in settled.vms)
    assert sum(each.actual for each in settled.vms) == 6 * GIB


def test_memory_is_reclaimed_before_it_is_granted() -> None:
    start = settle(node(vm("a"), vm("b"), vm("c")))
    hungry = replace(start, vms=(replace(start.vms[0], need=3 * GIB), *start.vms[1:]))
    first = allocate_memory(hungry)
    assert decision(first, "a").reason is DecisionReason.WAITING
    assert decision(first, "b").target is not None
    assert (decision(first, "b").target or 0) < start.vms[1].actual
    second = allocate_memory(follow(hungry, first))
    assert (decision(second, "a").target or 0) > (decision(first, "a").target or 0)


def test_a_fixed_load_settles_and_stays() -> None:
    settled = settle(node(vm("a", need=3 * GIB), vm("b"), vm("c", need=2 * GIB), vm("d", size=2 * GIB)))
    again = allocate_memory(settled)
    assert [each.target for each in again.decisions] == [each.target for each in settled.vms]


def test_a_change_within_the_dead_band_is_not_made() -> None:
    settled = settle(node(vm("a"), vm("b"), vm("c")))
    nudged = replace(settled, vms=(replace(settled.vms[0], need=GIB + 8 * MIB), *settled.vms[1:]))
    assert [each.target for each in allocate_memory(nudged).decisions] == [each.target for each in settled.vms]


@given(st.integers(-32 * MIB, 32 * MIB))
def test_a_node_that_needs_a_little_more_or_less_for_itself_moves_nobody(change: int) -> None:
    settled = settle(replace(node(vm("a"), vm("b"), vm("c")), other=64 * MIB))
    wavering = replace(settled, other=settled.other + change)
    assert [each.target for each in allocate_memory(wavering).decisions] == [each.target for each in settled.vms]


def test_what_is_in_use_comes_before_what_the_past_asks_for() -> None:
    past = replace(vm("past", need=3 * GIB), present_need=GIB)
    settled = settle(node(past, vm("a", need=2 * GIB), vm("b", need=2 * GIB), capacity=6 * GIB))
    assert [each.actual >= 2 * GIB for each in settled.vms[1:]] == [True, True]
    assert GIB <= settled.vms[0].actual <= 2 * GIB


def test_headroom_rests_while_working_sets_fit_and_demands_do_not() -> None:
    settled = settle(node(vm("a", need=int(2.6 * GIB)), vm("b", need=int(2.6 * GIB)), vm("c", need=int(2.4 * GIB))))
    assert sum(each.demand for each in settled.vms) > 8 * GIB
    for need in (2.45, 2.35, 2.42):
        busier = replace(settled, vms=(*settled.vms[:2], replace(settled.vms[2], need=int(need * GIB))))
        assert [each.target for each in allocate_memory(busier).decisions] == [each.target for each in settled.vms]


def test_idle_memory_does_not_follow_every_change_of_another_s_demand() -> None:
    settled = settle(node(vm("a"), vm("b"), vm("c"), vm("d")))
    for need in (1.2, 1.0, 1.3, 1.1):
        busier = replace(settled, vms=(replace(settled.vms[0], need=int(need * GIB)), *settled.vms[1:]))
        assert [each.target for each in allocate_memory(busier).decisions] == [each.target for each in settled.vms]


def test_idle_memory_far_off_its_fair_share_is_divided_anew_though_nobody_needs_it() -> None:
    targets = (int(3.2 * GIB), int(1.6 * GIB), int(1.6 * GIB), int(1.6 * GIB))
    unfair = tuple(
        replace(vm(name), actual=target, target=target) for name, target in zip("abcd", targets, strict=True)
    )
    settled = settle(node(*unfair))
    assert max(each.actual for each in settled.vms) - min(each.actual for each in settled.vms) <= 4 * GIB // 8


def test_a_small_unfairness_is_corrected_once_targets_have_stayed_for_a_while() -> None:
    actual = {"a": 2.2, "b": 1.9, "c": 1.9, "d": 2.0}
    vms = [replace(vm(name), actual=int(gib * GIB), target=int(gib * GIB)) for name, gib in actual.items()]
    recent, long_ago = (
        node(*(replace(each, last_change=TargetChange(up=True, age=age)) for each in vms)) for age in (30.0, 3600.0)
    )
    assert decision(allocate_memory(recent), "a").target == vms[0].target
    fair = decision(allocate_memory(long_ago), "a")
    assert fair.target == fair.entitlement <= 2 * GIB


def test_what_one_vm_needs_is_reclaimed_from_as_few_others_as_can_be() -> None:
    actual = {"a": 2.25, "b": 1.55, "c": 1.85, "d": 2.35}
    vms = [replace(vm(name), actual=int(gib * GIB), target=int(gib * GIB)) for name, gib in actual.items()]
    vms[3] = replace(vms[3], need=int(2.2 * GIB))
    plan = allocate_memory(node(*vms))
    assert [each.vm.uid for each in plan.decisions if (each.target or 0) < each.vm.actual] == ["a"]
    assert (decision(allocate_memory(follow(node(*vms), plan)), "d").target or 0) > vms[3].actual


def test_a_target_does_not_turn_within_the_cool_down() -> None:
    settled = settle(node(vm("a"), vm("b"), vm("c"), vm("d")))
    lowered = tuple(replace(each, last_change=TargetChange(up=False, age=10)) for each in settled.vms[:3])
    gone = replace(settled, vms=lowered)
    assert [each.target for each in allocate_memory(gone).decisions] == [each.target for each in lowered]
    later = tuple(replace(each, last_change=TargetChange(up=False, age=61)) for each in lowered)
    assert all(
        (each.target or 0) > (each.vm.target or 0) for each in allocate_memory(replace(gone, vms=later)).decisions
    )


@pytest.mark.parametrize("when", ReclaimWhen)
@pytest.mark.parametrize(("more", "waits"), [(64 * MIB, True), (65 * MIB, False)])
def test_headroom_that_is_free_does_not_wait_for_the_cool_down(when: ReclaimWhen, more: int, *, waits: bool) -> None:
    """Each guest demands its need and a tenth of its size; a dead band, 64 MiB of 4 GiB, is not worth a change."""
    held, headroom = 2 * GIB, 4 * GIB // 10
    guest = replace(vm("a", policy=replace(POLICY, when=when)), actual=held, target=held, need=held - headroom + more)
    lowered = replace(guest, last_change=TargetChange(up=False, age=1))
    plan = allocate_memory(node(lowered, vm("b")))
    target = decision(plan, "a").target
    assert target is not None
    assert (target == held) if waits else (target >= lowered.demand)


_PERCENT = st.integers(0, 100)


@given(st.lists(st.tuples(st.integers(1, 8), _PERCENT, _PERCENT), min_size=1, max_size=6), st.integers(0, 8 * GIB))
def test_where_all_demands_fit_nobody_waits_for_its_own(guests: list[tuple[int, int, int]], more: int) -> None:
    """A guest is given by its size in GiB, and by what it needs and what it was just reduced to, in percent."""
    vms = []
    for number, (gib, need, held) in enumerate(guests):
        made = vm(f"vm-{number}", size=gib * GIB, need=gib * GIB * need // 100)
        actual = max(made.minimum, made.size * held // 100)
        vms.append(replace(made, actual=actual, target=actual, last_change=TargetChange(up=False, age=1)))
    roomy = node(*vms, capacity=sum(each.most_demanded for each in vms) + more)
    assert roomy.fits_demands
    assert all((each.target or 0) >= each.vm.demand - each.vm.dead_band for each in allocate_memory(roomy).decisions)


def test_a_guest_in_need_does_not_wait_for_the_cool_down() -> None:
    settled = settle(node(vm("a"), vm("b"), vm("c")))
    hungry = replace(settled.vms[0], need=3 * GIB, last_change=TargetChange(up=False, age=1))
    others = tuple(replace(each, last_change=TargetChange(up=True, age=1)) for each in settled.vms[1:])
    plan = allocate_memory(replace(settled, vms=(hungry, *others)))
    assert all((each.target or 0) < (each.vm.target or 0) for each in plan.decisions[1:])


def test_a_target_that_rose_stays_a_byte_above_its_minimum_within_the_cool_down() -> None:
    favoured = replace(POLICY, shares_per_gib=100_000)
    capacity = 4 * GIB + 256 * MIB
    busy = at("busy", 3, need=3, policy=favoured, target=capacity - capacity // 128 - GIB)
    for age, target in ((59, GIB + 1), (60, GIB)):
        rise = TargetChange(up=True, age=age)
        raised = at("raised", 1, target=GIB + 1, actual=GIB + 1, present_need=GIB // 2, last_change=rise)
        plan = allocate_memory(node(raised, replace(busy, actual=busy.target or 0), capacity=capacity))
        assert [each.entitlement for each in plan.decisions] == [GIB, busy.target]
        assert decision(plan, "raised").target == target


def test_what_one_vm_lacks_is_reclaimed_from_others_though_each_has_less_than_a_dead_band_too_much() -> None:
    bare = replace(POLICY, headroom=Amount(bytes=0))
    others = [at(f"vm-{number:02}", 2 + 60 / 1024, need=2, policy=bare) for number in range(20)]
    lacking = at("lacking", 2, need=3, policy=bare)
    of = node(*others, lacking, capacity=42 * GIB + 20 * 60 * MIB)
    first = allocate_memory(of)
    assert targets(of)[-1] == 2 * GIB
    assert sum(each.vm.actual - (each.target or 0) for each in first.decisions) >= GIB
    assert decision(allocate_memory(follow(of, first)), "lacking").target == 3 * GIB


_BUSY = st.lists(st.tuples(st.integers(1, 8), _PERCENT, _PERCENT), min_size=2, max_size=6)


@given(_BUSY, st.sampled_from([NodeState.AMPLE, NodeState.TIGHT]))
def test_what_a_vm_is_entitled_to_and_waits_for_is_reclaimed_from_others(
    guests: list[tuple[int, int, int]], state: NodeState
) -> None:
    """A guest is given by its size in GiB, and by what it needs and what it holds, in percent."""
    vms = []
    for number, (gib, need, held) in enumerate(guests):
        made = vm(f"vm-{number}", size=gib * GIB, need=gib * GIB * need // 100)
        actual = max(made.minimum, made.size * held // 100)
        vms.append(replace(made, actual=actual, target=actual))
    plan = allocate_memory(node(*vms, capacity=sum(each.actual for each in vms), state=state))
    waited_for = sum(
        each.entitlement - (each.target or 0) for each in plan.decisions if each.reason is DecisionReason.WAITING
    )
    assert sum(each.target or 0 for each in plan.decisions) + waited_for <= plan.sharers_capacity


def test_a_stuck_vm_does_not_make_the_others_swing() -> None:
    stuck = replace(vm("stuck"), responsive=False, actual=3 * GIB, target=GIB)
    settled = settle(node(stuck, vm("a"), vm("b"), vm("c", need=2 * GIB)))
    targets = [each.target for each in settled.vms]
    for _ in range(5):
        settled = follow(settled, allocate_memory(settled))
        assert [each.target for each in settled.vms] == targets


def test_minimums_that_do_not_fit_are_kept_and_reported() -> None:
    plan = allocate_memory(node(vm("a"), vm("b"), vm("c"), capacity=2 * GIB))
    assert plan.shortfall == GIB
    assert all(each.target == GIB for each in plan.decisions)
    assert sum(each.entitlement for each in plan.decisions) == 2 * GIB


def test_decisions_for_observed_vms_say_what_would_be_and_nobody_pays_for_it() -> None:
    watched = vm("watched", policy=replace(POLICY, mode=Mode.OBSERVE))
    plan = allocate_memory(node(watched, vm("a"), vm("b")))
    assert decision(plan, "watched").target is None
    assert "reclaimed" in decision(plan, "watched").message
    assert sum(each.target or 0 for each in plan.decisions) <= 4 * GIB


def test_under_pressure_vms_keep_their_maximum_while_the_node_is_ample() -> None:
    patient = replace(POLICY, when=ReclaimWhen.UNDER_PRESSURE)
    vms = tuple(vm(name, policy=patient) for name in "abc")
    plan = allocate_memory(node(*vms))
    assert [each.target for each in plan.decisions] == [4 * GIB] * 3
    assert plan.risk == 4 * GIB
    tight = allocate_memory(node(*vms, state=NodeState.TIGHT))
    assert sum(each.target or 0 for each in tight.decisions) <= 8 * GIB
    assert tight.risk == 0


def test_an_unknown_need_is_not_guessed() -> None:
    plan = allocate_memory(node(vm("unknown", need=None), vm("a"), vm("b")))
    unknown = decision(plan, "unknown")
    assert unknown.reason is DecisionReason.DEMAND_UNKNOWN
    assert unknown.target is None
    assert "no fresh guest statistics" in unknown.message


def test_a_guest_that_reports_no_more_gets_back_what_nobody_has_and_what_others_do_not_need() -> None:
    silent, busy, idle = at("a", 2, need=0), at("b", 4, need=3.9), at("b", 4, need=1)
    silent = replace(silent, need=None)
    crowded = node(silent, busy, capacity=6 * GIB)
    assert targets(crowded) == [2 * GIB, 4 * GIB], "what is free is what the other guest has not touched yet"
    calm = node(silent, idle, capacity=6 * GIB)
    first = allocate_memory(calm)
    assert decision(first, "a").target == 2 * GIB, "the other one has not given anything yet"
    assert targets(follow(calm, first))[0] == 4 * GIB
    assert targets(node(silent, idle, capacity=6 * GIB, state=NodeState.SCARCE))[0] == 2 * GIB


def test_a_guest_in_trouble_demands_more_than_it_holds() -> None:
    troubled = replace(vm("a", need=GIB), actual=2 * GIB, troubled=True)
    assert troubled.demand > 2 * GIB


@given(nodes(), st.permutations(VMFigures._fields))
def test_the_order_of_a_vm_s_figures_does_not_matter(drawn: MemoryNode, order: Sequence[str]) -> None:
    plan = allocate_memory(drawn)
    with pytest.MonkeyPatch.context() as patch:
        for module in (model, division):
            patch.setattr(module, "VMFigures", namedtuple("Reordered", order))  # noqa: PYI024 - the order is drawn
        reordered = replace(drawn, vms=tuple(replace(each) for each in drawn.vms))  # computes the figures anew
        assert all(each.figures._fields == tuple(order) for each in reordered.vms)
        assert allocate_memory(reordered) == plan


def at(uid: str, gib: float, *, need: float = 1.0, **more: Any) -> MemoryVM:
    """Make a VM of 4 GiB whose balloon has reached its target of so many GiB."""
    made = replace(vm(uid, need=int(need * GIB)), actual=int(gib * GIB), target=int(gib * GIB))
    return replace(made, **more)


def targets(of: MemoryNode) -> list[int]:
    return [each.target or 0 for each in allocate_memory(of).decisions]


def test_a_128th_of_the_capacity_stays_free_above_working_sets() -> None:
    assert sum(targets(node(vm("a"), vm("b"), vm("c")))) == 8 * GIB - 8 * GIB // 128
    busy = [vm("a", need=int(3.5 * GIB)), vm("b", need=int(2.25 * GIB)), vm("c", need=int(2.24 * GIB))]
    assert sum(each.figures.working_set for each in busy) > 8 * GIB - 8 * GIB // 128
    settled = settle(node(*busy))
    assert sum(each.actual for each in settled.vms) == sum(each.figures.working_set for each in busy)


def test_what_balloons_keep_above_their_targets_is_nobody_else_s() -> None:
    keeping = [at(name, 2, need=1.9) for name in "bcd"]
    keeping = [replace(each, actual=each.actual + 16 * MIB) for each in keeping]
    hungry = at("a", 2, need=3)
    first = allocate_memory(node(hungry, *keeping, state=NodeState.TIGHT))
    assert sum(each.entitlement for each in first.decisions) <= 8 * GIB - 3 * 16 * MIB
    moving = [replace(each, actual=each.actual + 49 * MIB) for each in keeping]  # beyond the dead band: on its way
    second = allocate_memory(node(hungry, *moving, state=NodeState.TIGHT))
    assert sum(each.entitlement for each in second.decisions) == 8 * GIB
    resting = [replace(each, actual=each.actual + 48 * MIB) for each in keeping]  # by exactly the dead band
    third = allocate_memory(node(hungry, *resting, state=NodeState.TIGHT))
    assert sum(each.entitlement for each in third.decisions) <= 8 * GIB - 3 * 64 * MIB


def test_what_balloons_keep_above_their_targets_is_set_aside_once() -> None:
    """Here twenty balloons keep 16 MiB each, and what a guest works with is granted from all that is free beside."""
    half = replace(POLICY, minimum=Amount(percent=50))
    keeping = [at(f"keeping-{number:02}", 2, need=0.5, policy=half) for number in range(20)]
    keeping = [replace(each, actual=each.actual + 16 * MIB) for each in keeping]
    hungry = at("hungry", 2, need=3)
    of = node(hungry, *keeping, capacity=43 * GIB + 20 * 16 * MIB, state=NodeState.TIGHT)
    assert decision(allocate_memory(of), "hungry").target == 3 * GIB
    assert decision(allocate_memory(replace(of, other=GIB)), "hungry").target == 2 * GIB


def test_idle_memory_may_be_an_eighth_of_its_vm_s_size_off_its_fair_share() -> None:
    fair = (8 * GIB - 8 * GIB // 128) // 4
    for off, moves in ((GIB // 2 - MIB, False), (GIB // 2 + 4 * MIB, True)):
        vms = [at(name, 1) for name in "abcd"]
        for number, sign in enumerate((1, -1, 1, -1)):
            vms[number] = replace(vms[number], actual=fair + sign * off, target=fair + sign * off)
        assert (targets(node(*vms)) != [each.target for each in vms]) is moves


def test_a_target_is_corrected_for_fairness_after_sixty_cool_downs() -> None:
    for age, corrected in ((60 * 60.0 - 1, False), (60 * 60.0, True)):
        change = TargetChange(up=True, age=age)
        vms = [at(name, gib, last_change=change) for name, gib in zip("abcd", (2.2, 1.9, 1.9, 2.0), strict=True)]
        assert (targets(node(*vms))[0] < vms[0].actual) is corrected


def test_a_change_is_made_if_it_is_larger_than_a_64th_of_the_size() -> None:
    for change, moves in ((63 * MIB, False), (65 * MIB, True)):
        vms = (at("a", 3, need=2.9), at("b", 3, need=2.9))
        larger = node(*vms, capacity=(6 * GIB + 2 * change) * 128 // 127, state=NodeState.SCARCE)
        assert (targets(larger) != [3 * GIB, 3 * GIB]) is moves


def test_free_memory_goes_to_what_guests_use_before_it_goes_to_their_pasts() -> None:
    giving = at("giving", 4, need=1)
    using = at("using", 2, need=3)
    past = at("past", 2, need=3, present_need=int(1.5 * GIB))
    plan = allocate_memory(node(giving, past, using, capacity=8 * GIB + 256 * MIB))
    assert decision(plan, "giving").target is not None
    assert (decision(plan, "giving").target or 0) < 4 * GIB
    assert decision(plan, "using").target == 2 * GIB + 256 * MIB
    assert decision(plan, "past").target == 2 * GIB


def test_ample_memory_goes_back_to_vms_of_under_pressure_by_shares() -> None:
    patient = replace(POLICY, when=ReclaimWhen.UNDER_PRESSURE)
    rich = replace(patient, shares_per_gib=3000)
    vms = (at("a", 1, need=0.5, policy=patient), at("b", 1, need=0.5, policy=rich))
    given = allocate_memory(replace(node(*vms), available=GIB + GIB))
    assert sum(each.target or 0 for each in given.decisions) == 3 * GIB, "what is free above the reserve"
    assert decision(given, "a").target == GIB, "b has three times the shares, so a has more than its fair share already"
    turned = [
        replace(each, last_change=TargetChange(up=False, age=age)) for each, age in zip(vms, (59, 60), strict=True)
    ]
    assert [now > GIB for now in targets(replace(node(*turned), available=8 * GIB))] == [False, True]
    full = [at(name, 3.96, policy=patient) for name in "ab"]
    assert targets(replace(node(*full), available=GIB + 20 * MIB)) == [each.target for each in full]
    assert targets(replace(node(*full), available=8 * GIB)) == [4 * GIB] * 2, "a maximum is given, however near"


@pytest.mark.parametrize(("untouched", "target"), [(0.0, 2.0), (0.5, 2.0), (1.0, 1.6), (1.25, 1.5)])
def test_what_another_guest_demands_and_has_not_touched_yet_is_not_given_back(untouched: float, target: float) -> None:
    """Of 1 GiB that is free beyond the reserve, the other guest, which demands 1.9 of its 2 GiB, may touch a part."""
    patient = replace(POLICY, when=ReclaimWhen.UNDER_PRESSURE)
    squeezed = at("squeezed", 1.5, need=1.6, policy=patient)
    other = at("other", 2, need=1.5, untouched=int(untouched * GIB))
    of = replace(node(squeezed, other, capacity=int(3.5 * GIB)), available=GIB + GIB)
    assert targets(of)[0] == pytest.approx(target * GIB, rel=0.01)


@pytest.mark.parametrize(
    ("change", "target"),
    [
        (None, 2.0),
        (TargetChange(up=False, age=1), 2.0),
        (TargetChange(up=True, age=59), 1.6),
        (TargetChange(up=True, age=60), 2.0),
    ],
)
def test_what_a_guest_that_may_lose_it_has_long_not_touched_is_lent_to_one_that_lacks_memory(
    change: TargetChange | None, target: float
) -> None:
    """Both policies reclaim under pressure; what the other guest was given a moment ago it is about to touch."""
    patient = replace(POLICY, when=ReclaimWhen.UNDER_PRESSURE)
    squeezed = at("squeezed", 1.5, need=1.6, policy=patient)
    other = replace(at("other", 2, need=1.5, untouched=GIB, policy=patient), last_change=change)
    of = replace(node(squeezed, other, capacity=int(3.5 * GIB)), available=GIB + GIB)
    assert targets(of)[0] == pytest.approx(target * GIB, rel=0.01)


@pytest.mark.parametrize(
    ("minimum", "harmed"), [(Amount(percent=25), True), (Amount(pod_request=True), False)], ids=["25%", "PodRequest"]
)
def test_a_vm_that_claims_by_its_size_robs_no_vm_that_is_guaranteed_what_it_requests(
    minimum: Amount, *, harmed: bool
) -> None:
    """Beside VMs that request all they have, a VM of 64 GiB that requests one works with all of it."""
    policy = replace(POLICY, minimum=minimum)
    claims = replace(vm("claims", need=64 * GIB, size=64 * GIB, policy=policy), actual=24 * GIB, pod_request=GIB)
    others = [
        replace(
            vm(name, need=9 * GIB, size=10 * GIB, policy=policy), pod_request=10 * GIB, swap_ability=SwapAbility.ABLE
        )
        for name in "abcd"
    ]
    of = node(claims, *others, capacity=64 * GIB)
    assert any(each.entitlement < 9 * GIB for each in allocate_memory(of).decisions[1:]) is harmed


def test_the_risk_counts_what_vms_that_are_left_out_can_grow_to() -> None:
    unknown = replace(vm("a", need=None), actual=3 * GIB, target=2 * GIB)
    plan = allocate_memory(node(unknown, vm("b"), capacity=4 * GIB))
    assert decision(plan, "a").entitlement == 3 * GIB
    assert plan.sharers_capacity == GIB
    assert plan.risk == 0
    assert allocate_memory(node(unknown, vm("b"), capacity=3 * GIB)).risk == GIB


def test_a_guest_that_lacks_memory_gets_even_a_little_that_is_free() -> None:
    giving, hungry = at("giving", 4, need=1), at("hungry", 2, need=3)
    plan = allocate_memory(node(giving, hungry, capacity=6 * GIB + 32 * MIB))
    assert decision(plan, "hungry").target == 2 * GIB + 32 * MIB
    plan = allocate_memory(node(giving, at("content", 2, need=1.5), capacity=6 * GIB + 32 * MIB))
    assert decision(plan, "content").target == 2 * GIB


def test_a_target_out_of_bounds_does_not_stay_however_small_the_change() -> None:
    raised = replace(POLICY, minimum=Amount(bytes=2 * GIB))
    vms = (at("a", 2 - 1 / 128, policy=raised), at("b", 2 - 1 / 128, policy=raised))
    of = node(*vms, capacity=(4 * GIB + 40 * MIB) * 128 // 127, state=NodeState.TIGHT)
    assert min(targets(of)) >= 2 * GIB
    lowered = replace(POLICY, maximum=Amount(bytes=2 * GIB))
    vms = (at("a", 2 + 1 / 128, policy=lowered), at("b", 2 + 1 / 128, policy=lowered))
    of = node(*vms, capacity=(4 * GIB - 40 * MIB) * 128 // 127, state=NodeState.TIGHT)
    assert max(targets(of)) <= 2 * GIB


def test_headroom_that_is_shared_a_little_unevenly_rests() -> None:
    vms = (at("a", 2.55, need=2.4), at("b", 2.75, need=2.4), at("c", 2.65, need=2.4))
    assert sum(each.demand for each in vms) > 8 * GIB > sum(each.figures.working_set for each in vms)
    assert targets(node(*vms)) == [each.target for each in vms]


def test_a_guest_that_cannot_swap_keeps_what_it_works_with_and_others_share_the_rest() -> None:
    unable = at("unable", 3, need=2.5, swap_ability=SwapAbility.UNABLE)
    never = at("never", 3, need=2.5, policy=replace(POLICY, working_set=WorkingSetReclaim.NEVER))
    for keeps in (unable, never):
        plan = allocate_memory(node(keeps, at("other", 2, need=2), capacity=4 * GIB))
        kept = 2.5 + 4 / 32
        assert decision(plan, keeps.uid).target == kept * GIB, "the margin is not asked for, either"
        assert decision(plan, keeps.uid).withheld == pytest.approx((kept - 2) * GIB, rel=0.02)
        assert decision(plan, "other").entitlement == (4 - kept) * GIB
        assert decision(plan, "other").reason is not DecisionReason.WAITING, "it waits for nothing that never comes"


def test_a_guest_that_may_swap_is_asked_for_what_it_works_with_when_demands_do_not_fit() -> None:
    for ability in (SwapAbility.UNKNOWN, SwapAbility.ABLE):
        plan = allocate_memory(node(at("a", 3, need=2.9, swap_ability=ability), at("b", 1, need=2.9), capacity=4 * GIB))
        assert decision(plan, "a").target == pytest.approx(2 * GIB, rel=0.01)
        assert decision(plan, "b").reason is DecisionReason.WAITING
        assert plan.withheld == 0


def test_minimums_and_what_others_keep_above_theirs_can_exceed_the_capacity() -> None:
    unable = at("unable", 3, need=3, swap_ability=SwapAbility.UNABLE)
    plan = allocate_memory(node(unable, at("lacking", 0.5, need=1), capacity=int(3.5 * GIB)))
    assert decision(plan, "lacking").target == GIB, "what is guaranteed comes first"
    assert plan.shortfall == GIB // 2


def test_margins_give_way_where_they_do_not_fit() -> None:
    vms = [at(name, 1.3, need=1.3, swap_ability=SwapAbility.UNABLE) for name in "ab"]
    plan = allocate_memory(node(*vms, capacity=int(2.6 * GIB)))
    assert plan.withheld == 0
    assert sum(each.target or 0 for each in plan.decisions) <= int(2.6 * GIB)


def test_a_squeezed_vm_of_under_pressure_gives_what_it_does_not_need_to_those_that_need_it_and_to_nobody_else() -> None:
    patient = at("patient", 4, need=1, policy=replace(POLICY, when=ReclaimWhen.UNDER_PRESSURE))
    of = node(patient, at("idle", 2, need=0.5), capacity=6 * GIB)
    assert targets(replace(of, available=GIB)) == [4 * GIB, 2 * GIB], "idle memory is not filled with what is promised"
    hungry = allocate_memory(replace(of, vms=(patient, at("hungry", 2, need=2.5)), available=GIB + GIB // 2))
    assert decision(hungry, "hungry").entitlement == pytest.approx(2.9 * GIB, rel=0.01), "the node may become short"
    assert decision(hungry, "hungry").target == 2 * GIB, "not before the other has given it"


def test_a_full_node_promises_no_more_than_it_has_where_both_kinds_of_policies_are_mixed() -> None:
    """Four VMs of 8 GiB hold 20.8 of the 21.5 GiB that there are, and work with 2 GiB each."""
    patient = replace(POLICY, when=ReclaimWhen.UNDER_PRESSURE)
    held = int(5.2 * GIB)
    vms = [
        MemoryVM(name, name, 8 * GIB, held, need=2 * GIB, present_need=2 * GIB, target=held, policy=policy)
        for name, policy in (("up0", patient), ("up1", patient), ("oc0", POLICY), ("oc1", POLICY))
    ]
    full = MemoryNode("n", 24 * GIB, int(1.6 * GIB), GIB, int(1.5 * GIB), NodeState.AMPLE, vms=tuple(vms))
    plan = allocate_memory(full)
    assert sum(max(each.vm.actual, each.target or 0) for each in plan.decisions) <= full.capacity
    assert plan.risk == 0


def test_a_guest_that_stops_reporting_gets_its_memory_back_while_the_node_has_it() -> None:
    silent = replace(at("silent", 1), need=None)
    assert targets(replace(node(silent), available=8 * GIB)) == [4 * GIB]
    assert targets(replace(node(silent), available=GIB + GIB // 2)) == [GIB + GIB // 2], (
        "what is free beyond the reserve"
    )
    assert targets(replace(node(silent), available=8 * GIB, state=NodeState.TIGHT)) == [GIB]


def test_a_node_without_vms_lacks_nothing() -> None:
    assert allocate_memory(node()) == MemoryPlan("node", capacity=8 * GIB, sharers_capacity=8 * GIB)
    assert allocate_memory(node(vm("a"), vm("b"))).shortfall == 0


def test_where_the_node_has_nothing_to_divide_nobody_is_entitled_to_anything() -> None:
    keeping = replace(at("a", 2), actual=2 * GIB + 16 * MIB)
    plan = allocate_memory(node(keeping, at("b", 2), capacity=0))
    assert [each.entitlement for each in plan.decisions] == [0, 0]
    assert [each.target for each in plan.decisions] == [GIB, GIB]
    assert plan.shortfall == 2 * GIB


def test_minimums_that_just_fit_are_what_their_vms_are_entitled_to() -> None:
    keeping = replace(at("a", 1), actual=GIB + 16 * MIB)
    plan = allocate_memory(node(keeping, at("b", 1), capacity=2 * GIB))
    assert [each.entitlement for each in plan.decisions] == [GIB, GIB]
    assert plan.shortfall == 0


def test_targets_that_fill_the_capacity_exactly_rest() -> None:
    vms = (at("a", 2.625, need=2.4), at("b", 2.75, need=2.4), at("c", 2.625, need=2.4))
    assert targets(node(*vms)) == [each.target for each in vms]


def test_a_margin_is_no_claim_to_more_than_the_policy_s_maximum() -> None:
    capped = at("capped", 3, need=1.99, policy=replace(POLICY, maximum=Amount(bytes=2 * GIB)))
    plan = allocate_memory(node(capped, at("other", 2, need=1), capacity=4 * GIB))
    assert decision(plan, "capped").target == 2 * GIB
    assert decision(plan, "capped").withheld == 0


def test_margins_that_just_fit_are_kept() -> None:
    guaranteed = at("guaranteed", 2, need=0.5, policy=replace(POLICY, minimum=Amount(bytes=GIB + GIB // 4)))
    vms = (guaranteed, at("b", 2, need=1))
    assert targets(node(*vms, capacity=2 * GIB + 3 * GIB // 8)) == [GIB + GIB // 4, GIB + GIB // 8]
    assert targets(node(*vms, capacity=2 * GIB + 3 * GIB // 8 - MIB))[1] < GIB + GIB // 8 - MIB


def test_nobody_swaps_for_the_margin_of_a_guest_that_may_give_it() -> None:
    """All but 128 MiB of what guests work with fits, which is no more than a dead band of the large one."""
    large = replace(at("large", 31, need=30), size=32 * GIB)
    small = at("small", 3.5, need=3.5)
    plan = allocate_memory(node(large, small, capacity=int(33.375 * GIB)))
    assert decision(plan, "small").entitlement == int(3.5 * GIB)
    assert decision(plan, "large").target == int(29.875 * GIB)
    unable = replace(large, swap_ability=SwapAbility.UNABLE)
    plan = allocate_memory(node(unable, small, capacity=int(33.375 * GIB)))
    assert decision(plan, "large").target == 31 * GIB, "it gives no margin"


def test_margins_that_just_fit_beside_what_others_use_are_kept() -> None:
    vms, fits = (at("a", 3, need=2), at("b", 1.5, need=1.5)), 3 * GIB + 5 * GIB // 8
    plan = allocate_memory(node(*vms, capacity=fits))
    assert [each.entitlement for each in plan.decisions] == [2 * GIB + GIB // 8, GIB + GIB // 2]
    plan = allocate_memory(node(*vms, capacity=fits - 1))
    assert decision(plan, "a").entitlement == 2 * GIB
    assert decision(plan, "b").entitlement > GIB + GIB // 2


@pytest.mark.parametrize(("less", "kept"), [(0, False), (1, True)])
def test_what_a_guest_works_with_is_withheld_if_its_part_is_a_dead_band_below(less: int, *, kept: bool) -> None:
    """The part of each guest is 2 GiB; a dead band of 64 MiB is not worth swapping."""
    unable = replace(at("unable", 3, swap_ability=SwapAbility.UNABLE), need=2 * GIB + 64 * MIB + less)
    plan = allocate_memory(node(unable, at("other", 3, need=3, swap_ability=SwapAbility.ABLE), capacity=4 * GIB))
    assert (decision(plan, "unable").withheld > 0) is kept


def test_a_vm_that_is_reported_without_any_size_does_not_disturb_the_others() -> None:
    of = node(vm("a"), vm("b"), vm("nothing", size=0, need=0), capacity=4 * GIB)
    assert targets(of) == [*targets(node(vm("a"), vm("b"), capacity=4 * GIB)), 0]
