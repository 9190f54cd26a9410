"""What an agent decides itself while its node or a guest is in trouble."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.decision_reason import TargetChange
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.emergency import emergency_targets, in_trouble, is_urgent
from kubeballoon.core.memory.model import Amount, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.units import MIB
from kubeballoon.vocabulary import Mode, NodeState
from tests.core.generators import nodes

POLICY = MemoryTerms("default")
LOW = MemoryTerms("low", minimum=Amount(percent=10))


def vm(uid: str, *, size: int = 1024, actual: int = 512, need: int = 200, **more: object) -> MemoryVM:
    """Make a VM, its amounts in MiB, whose balloon has reached the request."""
    made = MemoryVM(uid, uid, size * MIB, actual * MIB, need=need * MIB, target=actual * MIB, policy=POLICY)
    return replace(made, **more)  # type: ignore[arg-type]  # fields of the VM


def node(*vms: MemoryVM, available: int = 500, state: NodeState = NodeState.AMPLE, other: int = 0) -> MemoryNode:
    """Make a node of 2 GiB that keeps 100 MiB free; other amounts in MiB."""
    return MemoryNode("n", 2048 * MIB, available * MIB, other * MIB, 100 * MIB, state, vms=vms)


def requests(of: MemoryNode) -> dict[str, int]:
    return {vm.uid: vm.target for vm in of.vms if vm.target is not None}


def test_there_are_no_emergency_targets_while_nobody_is_in_trouble() -> None:
    calm = node(vm("a"), vm("b"))
    assert emergency_targets(calm, requests(calm)) == {}
    assert emergency_targets(replace(calm, state=NodeState.TIGHT), requests(calm)) == {}


def test_a_guest_that_used_up_what_it_holds_goes_straight_to_its_demand() -> None:
    short = node(vm("a", need=510), vm("b", actual=1024))
    targets = emergency_targets(short, requests(short))
    assert targets["a"] >= (510 + 102) * MIB


def test_a_guest_in_trouble_gets_no_more_than_the_node_has() -> None:
    short = node(vm("a", actual=900, need=899), vm("b", actual=1024), available=120)
    targets = emergency_targets(short, requests(short))
    assert 900 * MIB < targets["a"] <= 924 * MIB, "24 MiB are within the capacity"


def test_a_guest_in_trouble_gets_its_demand_though_the_node_s_vms_have_used_up_its_capacity() -> None:
    """Guests do not touch all that their balloons leave them, so the node may have memory to spare all the same."""
    short = node(vm("a", actual=900, need=899), vm("b", actual=1024), available=500)
    (planned, _) = allocate_memory(short).decisions
    assert planned.target == 924 * MIB, "the capacity allows no more"
    assert emergency_targets(short, requests(short))["a"] == short.vms[0].demand > planned.target


def test_guests_in_trouble_share_what_the_node_has_to_spare() -> None:
    both = (vm("b", actual=800, need=799, size=1024), vm("a", actual=800, need=799, size=1024))
    full = node(*both, vm("c", size=348, actual=348, excluded="it has no balloon"), available=100 + 118)
    planned = {decision.vm.uid: decision.target for decision in allocate_memory(full).decisions}
    assert planned == {"a": 800 * MIB, "b": 800 * MIB, "c": None}, "the capacity is used up"
    targets = emergency_targets(full, requests(full))
    assert targets["a"] == full.vms[1].demand, "by the order of their uids"
    assert sum(targets.values()) == 2 * 800 * MIB + 118 * MIB, "the reserve stays free"


@pytest.mark.parametrize(("untouched", "granted"), [(0, 118), (100, 18), (200, 0)])
def test_what_one_guest_was_given_and_has_not_touched_yet_is_not_given_to_another(untouched: int, granted: int) -> None:
    """Both guests grow, and 118 MiB are free beyond the reserve."""
    grown = vm("b", actual=800, need=799, untouched=untouched * MIB)
    full = node(
        grown, vm("a", actual=800, need=799), vm("c", size=348, actual=348, excluded="it has no balloon"), available=218
    )
    planned = {decision.vm.uid: decision.target for decision in allocate_memory(full).decisions}
    assert planned == {"a": 800 * MIB, "b": 800 * MIB, "c": None}, "the capacity is used up"
    targets = requests(full) | emergency_targets(full, requests(full))
    assert targets["a"] + targets["b"] == (1600 + granted) * MIB


def test_what_an_idle_guest_does_not_touch_is_lent_to_one_in_trouble() -> None:
    idle = vm("idle", actual=900, need=300, untouched=500 * MIB)
    full = node(idle, vm("short", actual=700, need=699), available=600, other=348)
    assert emergency_targets(full, requests(full))["short"] == full.vms[1].demand


_PERCENT = st.integers(0, 100)


@given(
    st.lists(st.tuples(_PERCENT, _PERCENT, _PERCENT), min_size=1, max_size=5),
    st.integers(0, 3000),
    st.sampled_from(NodeState),
)
def test_guests_in_trouble_get_only_what_stays_free_though_all_touch_what_they_demand(
    guests: list[tuple[int, int, int]], available: int, state: NodeState
) -> None:
    """A guest of 1 GiB is given by what it holds, the part of it that it has touched, and its need, in percent."""
    vms = []
    for number, (held, touched, need) in enumerate(guests):
        made = vm(f"vm-{number}", actual=1024 * max(25, held) // 100, need=1024 * need // 100, policy=LOW)
        vms.append(replace(made, untouched=made.actual * (100 - touched) // 100))
    of = node(*vms, available=available, state=state)
    if not any(map(in_trouble, vms)):
        return
    plan = {decision.vm.uid: decision.target or 0 for decision in allocate_memory(of).decisions}
    targets = requests(of) | emergency_targets(of, requests(of))
    free = of.available - of.reserve
    for each in vms:
        free -= max(0, plan[each.uid] - each.actual)
        free -= max(0, min(each.actual, each.demand) - (each.actual - each.untouched))
    assert sum(max(0, targets[each.uid] - max(plan[each.uid], each.actual)) for each in vms) <= max(0, free)


def test_a_guest_in_trouble_keeps_more_than_its_target_where_it_holds_more() -> None:
    """Its balloon has not reached the request: what the guest has lies above the target that is allocated to it."""
    troubled = vm("a", actual=700, need=600, target=500 * MIB, troubled=True)
    targets = emergency_targets(node(troubled, available=110), {"a": 500 * MIB})
    assert targets["a"] >= 700 * MIB


def test_a_desperate_node_reclaims_at_once_what_the_controller_would() -> None:
    short = node(vm("a", actual=1024), vm("b", actual=1024), available=30, state=NodeState.SCARCE, other=400)
    targets = emergency_targets(short, requests(short))
    planned = {decision.vm.uid: decision.target for decision in allocate_memory(short).decisions}
    assert targets == planned
    assert sum(target for target in targets.values()) < 2 * 1024 * MIB


def test_what_was_reclaimed_is_not_given_back_as_soon_as_the_node_recovers() -> None:
    short = node(vm("a", actual=1024), vm("b", actual=1024), available=30, state=NodeState.SCARCE, other=400)
    requested = requests(short)
    targets = emergency_targets(short, requested)
    followed = tuple(replace(vm, actual=targets[vm.uid], target=targets[vm.uid]) for vm in short.vms)
    after = replace(short, vms=followed, state=NodeState.AMPLE, available=600 * MIB)
    assert emergency_targets(after, requested) == targets


@pytest.mark.parametrize(
    "change",
    [
        {"policy": None},
        {"policy": replace(POLICY, mode=Mode.OBSERVE)},
        {"excluded": "its owner excluded it"},
        {"responsive": False},
        {"need": None},
        {"actual": 1024 * MIB, "need": 1024 * MIB},
        {"need": 495 * MIB},
    ],
    ids=["ungoverned", "observed", "excluded", "unresponsive", "need unknown", "at its maximum", "not short"],
)
def test_a_guest_is_in_trouble_only_if_it_is_short_and_may_have_more(change: dict[str, Any]) -> None:
    short = vm("a", need=496)
    assert in_trouble(short), "within 1/64 of its size of what it has"
    assert not in_trouble(replace(short, **change))


def test_a_guest_that_swaps_is_in_trouble_whatever_its_need() -> None:
    assert in_trouble(vm("a", need=100, troubled=True))


def test_an_observed_or_unrequested_vm_is_left_alone() -> None:
    observed = vm("a", need=512, policy=replace(POLICY, mode=Mode.OBSERVE))
    assert not in_trouble(observed)
    desperate = node(observed, vm("b", need=511), available=0, state=NodeState.CRITICAL)
    assert emergency_targets(desperate, {}) == {}


@given(nodes(), st.integers(0, 1 << 36))
def test_no_emergency_target_leaves_a_vm_s_bounds(of: MemoryNode, available: int) -> None:
    of = replace(of, available=available)
    requested = requests(of)
    vms = {vm.uid: vm for vm in of.vms}
    for uid, target in emergency_targets(of, requested).items():
        assert min(vms[uid].minimum, requested[uid]) <= target <= max(vms[uid].size, requested[uid])


@pytest.mark.parametrize(
    ("state", "urgent"),
    [(NodeState.AMPLE, False), (NodeState.TIGHT, False), (NodeState.SCARCE, True), (NodeState.CRITICAL, True)],
)
def test_memory_is_needed_at_once_where_only_minimums_hold(state: NodeState, *, urgent: bool) -> None:
    assert is_urgent(node(vm("a"), vm("b"), state=state)) is urgent


@pytest.mark.parametrize(
    ("change", "urgent"),
    [
        ({"actual": 496 * MIB}, False),
        ({"actual": 496 * MIB - 1}, True),
        ({"actual": 400 * MIB, "need": 416 * MIB}, False),
        ({"actual": 400 * MIB, "need": 416 * MIB + 1}, True),
        ({"actual": 400 * MIB, "need": None}, False),
        ({"actual": 400 * MIB, "policy": None}, False),
        ({"actual": 400 * MIB, "policy": replace(POLICY, mode=Mode.OBSERVE)}, False),
        ({"actual": 400 * MIB, "excluded": "its owner excluded it"}, False),
        ({"actual": 400 * MIB, "responsive": False}, False),
    ],
)
def test_memory_is_needed_at_once_where_a_guest_works_with_more_of_its_guarantee_than_it_has(
    change: dict[str, Any], *, urgent: bool
) -> None:
    """The guarantee is 512 MiB, and differences up to 16 MiB do not count."""
    lacking = replace(vm("a", need=900), **change)
    assert is_urgent(node(vm("b"), lacking)) is urgent


def test_a_vm_that_nothing_is_requested_of_is_no_reason_to_decide_anew_and_gets_no_target() -> None:
    calm = node(vm("a"), vm("b"))
    assert emergency_targets(calm, {"a": 512 * MIB}) == {}
    in_need = node(vm("a"), vm("b", need=510))
    assert emergency_targets(in_need, {"a": 512 * MIB}) == {}, "nobody who is asked for memory is in trouble"
    short = node(vm("a", need=510), vm("b", need=510))
    assert emergency_targets(short, {"a": 512 * MIB}).keys() == {"a"}


def test_a_guest_in_trouble_keeps_what_it_is_allocated_beyond_its_demand() -> None:
    short = node(vm("a", need=510), vm("b", actual=900))
    planned = allocate_memory(short).decisions[0].target
    assert planned is not None
    assert planned > short.vms[0].demand
    assert emergency_targets(short, requests(short))["a"] == planned


@pytest.mark.parametrize(("available", "target"), [(50, 800), (100, 800), (150, 850)])
def test_what_others_have_not_given_yet_and_the_reserve_are_not_spent(available: int, target: int) -> None:
    short = node(vm("a", actual=800, need=799), vm("b", actual=1024), available=available, other=124)
    decisions = {decision.vm.uid: decision.target for decision in allocate_memory(short).decisions}
    assert decisions["a"] == 800 * MIB, "the capacity is used up"
    assert (decisions["b"] or 0) < 1024 * MIB, "it is asked to give"
    targets = requests(short) | emergency_targets(short, requests(short))
    assert targets["a"] == target * MIB


def test_a_guest_in_trouble_gets_its_demand_where_others_keep_exactly_what_they_work_with() -> None:
    short = node(vm("a", actual=900, need=899), vm("b", actual=1024, need=1024), available=500)
    assert allocate_memory(short).decisions[1].target == short.vms[1].figures.present
    assert emergency_targets(short, requests(short))["a"] == short.vms[0].demand


@pytest.mark.parametrize(("available", "first", "second"), [(250, 550, 400), (400, 600, 500), (2000, 600, 600)])
def test_while_another_is_asked_for_what_it_works_with_guests_in_trouble_get_what_they_are_entitled_to(
    available: int, first: int, second: int
) -> None:
    troubled = [vm(uid, actual=400, need=600, policy=LOW) for uid in ("a2", "a1")]
    short = node(*troubled, vm("b", actual=1024, need=1000, policy=LOW), available=available, other=124)
    entitlements = [decision.entitlement for decision in allocate_memory(short).decisions]
    assert entitlements == [600 * MIB, 600 * MIB, 624 * MIB]
    targets = requests(short) | emergency_targets(short, requests(short))
    assert targets == {"a1": first * MIB, "a2": second * MIB, "b": 624 * MIB}


@pytest.mark.parametrize(("lacking", "raised"), [(16, False), (17, True)])
def test_what_a_guest_in_trouble_lacks_is_granted_beyond_a_dead_band(lacking: int, *, raised: bool) -> None:
    part = 700 * MIB
    held = part - lacking * MIB
    troubled = replace(vm("a", need=900, policy=LOW), actual=held, target=held)
    short = node(
        troubled, vm("b", actual=1024, need=1000, policy=LOW), available=1000, other=548, state=NodeState.TIGHT
    )
    decisions = allocate_memory(short).decisions
    assert [decision.entitlement for decision in decisions] == [part, part]
    targets = requests(short) | emergency_targets(short, requests(short))
    assert targets == {"a": part if raised else held, "b": part}


def test_a_guest_on_its_way_down_is_stopped_at_what_it_is_entitled_to() -> None:
    lowered = TargetChange(up=False, age=1)
    policy = replace(LOW, headroom=Amount(bytes=0))
    falling = vm("a", actual=900, need=890, target=500 * MIB, policy=policy, last_change=lowered)
    short = node(falling, vm("b", actual=500, need=1000, policy=LOW), available=1000, other=748)
    decision = allocate_memory(short).decisions[0]
    assert (decision.target, decision.entitlement) == (500 * MIB, 600 * MIB)
    assert emergency_targets(short, requests(short))["a"] == 600 * MIB
