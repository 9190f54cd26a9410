"""What an agent does on its own while node or guest is in trouble."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.emergency import emergency_targets, in_trouble
from kubeballoon.core.memory.model import MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.units import MIB
from kubeballoon.vocabulary import Mode, NodeState
from tests.core.strategies import nodes

POLICY = MemoryTerms("default")


def vm(uid: str, *, size: int = 1024, actual: int = 512, need: int = 200, **more: object) -> MemoryVM:
    """A VM of so many MiB that has what was asked of it."""
    made = MemoryVM(uid, uid, size * MIB, actual * MIB, need=need * MIB, target=actual * MIB, policy=POLICY)
    return replace(made, **more)  # type: ignore[arg-type]  # fields of the VM


def node(*vms: MemoryVM, available: int = 500, state: NodeState = NodeState.AMPLE, other: int = 0) -> MemoryNode:
    """A node of 2 GiB that keeps 100 MiB free."""
    return MemoryNode("n", 2048 * MIB, available * MIB, other * MIB, 100 * MIB, state, vms=vms)


def requests(of: MemoryNode) -> dict[str, int]:
    return {vm.uid: vm.target for vm in of.vms if vm.target is not None}


def test_nothing_is_done_while_nobody_is_in_trouble() -> None:
    calm = node(vm("a"), vm("b"))
    assert emergency_targets(calm, requests(calm)) == {}
    assert emergency_targets(replace(calm, state=NodeState.TIGHT), requests(calm)) == {}


def test_a_guest_that_used_up_what_it_holds_goes_straight_to_its_demand() -> None:
    short = node(vm("a", need=510), vm("b", actual=1024))
    goals = emergency_targets(short, requests(short))
    assert goals["a"] >= (510 + 102) * MIB


def test_a_guest_in_trouble_gets_no_more_than_the_node_has() -> None:
    short = node(vm("a", actual=900, need=899), vm("b", actual=1024), available=120)
    goals = emergency_targets(short, requests(short))
    assert 900 * MIB < goals["a"] <= 924 * MIB, "24 MiB are within the capacity"


def test_a_desperate_node_takes_at_once_what_the_controller_would() -> None:
    short = node(vm("a", actual=1024), vm("b", actual=1024), available=30, state=NodeState.SCARCE, other=400)
    goals = emergency_targets(short, requests(short))
    planned = {decision.vm.uid: decision.target for decision in allocate_memory(short).decisions}
    assert goals == planned
    assert sum(target for target in goals.values()) < 2 * 1024 * MIB


def test_what_was_taken_is_not_given_back_as_soon_as_the_node_breathes() -> None:
    short = node(vm("a", actual=1024), vm("b", actual=1024), available=30, state=NodeState.SCARCE, other=400)
    asked = requests(short)
    goals = emergency_targets(short, asked)
    followed = tuple(replace(vm, actual=goals[vm.uid], target=goals[vm.uid]) for vm in short.vms)
    after = replace(short, vms=followed, state=NodeState.AMPLE, available=600 * MIB)
    assert emergency_targets(after, asked) == goals


def test_an_observed_or_unrequested_vm_is_left_alone() -> None:
    observed = vm("a", need=512, policy=replace(POLICY, mode=Mode.OBSERVE))
    assert not in_trouble(observed)
    desperate = node(observed, vm("b", need=511), available=0, state=NodeState.CRITICAL)
    assert emergency_targets(desperate, {}) == {}


@given(nodes(), st.integers(0, 1 << 36))
def test_no_goal_leaves_a_vm_s_bounds(of: MemoryNode, available: int) -> None:
    of = replace(of, available=available)
    asked = requests(of)
    vms = {vm.uid: vm for vm in of.vms}
    for uid, goal in emergency_targets(of, asked).items():
        assert min(vms[uid].minimum, asked[uid]) <= goal <= max(vms[uid].size, asked[uid])
