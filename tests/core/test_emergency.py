"""What an agent decides itself while its node or a guest is in trouble."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.emergency import emergency_targets, in_trouble
from kubeballoon.core.memory.model import MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.units import MIB
from kubeballoon.vocabulary import Mode, NodeState
from tests.core.generators import nodes

POLICY = MemoryTerms("default")


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
