"""With how much memory a VM that is migrated arrives at its new node."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import Amount, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.migration_arrival import Arrival, limit_to_arrivals, plan_arrival
from kubeballoon.vocabulary import AgentAction, Mode, ReclaimWhen

GIB = 1 << 30
CALM = MemoryTerms("calm", minimum=Amount(percent=25), headroom=Amount(percent=0), when=ReclaimWhen.UNDER_PRESSURE)
ALWAYS = replace(CALM, name="always", when=ReclaimWhen.OVERCOMMITTED)


def vm(name: str = "shop/vm", need: int = 3, target: int | None = None, terms: MemoryTerms | None = CALM) -> MemoryVM:
    """A VM of 8 GiB that holds 4 GiB, and works with so many GiB."""
    request = None if target is None else target * GIB
    return MemoryVM(
        name, name, 8 * GIB, 4 * GIB, need=need * GIB, present_need=need * GIB, target=request, policy=terms
    )


def node(total: int, *vms: MemoryVM, name: str = "new") -> MemoryNode:
    """A node of so many GiB that keeps 1 GiB in reserve."""
    held = sum(each.actual for each in vms)
    return MemoryNode(name, total * GIB, total * GIB - held, other=0, reserve=GIB, vms=vms)


def memory(arrival: Arrival | None) -> float | None:
    return None if arrival is None else arrival.memory / GIB


def test_a_vm_arrives_with_all_of_its_memory_where_there_is_enough() -> None:
    assert plan_arrival(vm(), node(32)) is None


def test_a_vm_arrives_with_what_its_new_node_can_give() -> None:
    assert memory(plan_arrival(vm(), node(7))) == 6


def test_a_vm_arrives_with_no_less_than_it_demands() -> None:
    assert memory(plan_arrival(vm(need=5), node(3))) == 5
    assert memory(plan_arrival(vm(need=1, terms=ALWAYS), node(2))) == 2, "its minimum"


def test_what_goes_to_the_same_node_is_not_given_twice() -> None:
    others = [Arrival("shop/first", "new", 4 * GIB), Arrival("shop/elsewhere", "other", 9 * GIB)]
    assert memory(plan_arrival(vm(), node(11), others)) == 6
    there = node(11, vm("shop/first"))
    assert memory(plan_arrival(vm(), there, others)) == memory(plan_arrival(vm(), there))


def test_of_a_vm_that_no_policy_governs_or_that_is_only_observed_nothing_is_requested() -> None:
    observed = replace(CALM, mode=Mode.OBSERVE)
    for each in (vm(terms=None), vm(terms=observed), replace(vm(), excluded="its owner excluded it")):
        assert plan_arrival(each, node(7)) is None


def test_a_vm_that_its_agent_holds_for_the_migration_is_judged_as_if_it_had_arrived() -> None:
    held = replace(vm(), responsive=False, agent_action=AgentAction.HOLDS)
    assert memory(plan_arrival(held, node(7))) == 6


def test_a_vm_that_leaves_is_requested_no_more_than_what_it_arrives_with() -> None:
    old = node(32, vm(), vm("shop/stays"), name="old")
    plan = allocate_memory(old)
    limited = limit_to_arrivals(plan, {"shop/vm": Arrival("shop/vm", "new", 6 * GIB)})
    assert [each.target for each in plan.decisions] == [8 * GIB, 8 * GIB]
    assert [each.target for each in limited.decisions] == [6 * GIB, 8 * GIB]
    assert limited.decisions[0].reason is DecisionReason.STEADY
    assert limited.decisions[0].message == "it is migrated to new, which has 6 GiB for it"


def test_what_a_vm_that_leaves_has_less_of_is_not_raised() -> None:
    plan = allocate_memory(node(6, vm(target=4, terms=ALWAYS), vm("shop/stays", target=4, terms=ALWAYS), name="old"))
    assert limit_to_arrivals(plan, {"shop/vm": Arrival("shop/vm", "new", 7 * GIB)}) == plan


def test_a_vm_that_has_arrived_follows_its_new_node() -> None:
    plan = allocate_memory(node(32, vm(), name="new"))
    assert limit_to_arrivals(plan, {"shop/vm": Arrival("shop/vm", "new", 6 * GIB)}) == plan


@given(
    need=st.integers(0, 8),
    target=st.none() | st.integers(1, 8),
    total=st.integers(1, 40),
    terms=st.sampled_from([CALM, ALWAYS]),
    neighbours=st.lists(st.integers(0, 8), max_size=3),
)
def test_an_arrival_is_between_what_a_vm_demands_and_its_size(
    need: int, target: int | None, total: int, terms: MemoryTerms, neighbours: list[int]
) -> None:
    moved = vm(need=need, target=target, terms=terms)
    others = [vm(f"shop/{number}", each, 8, terms) for number, each in enumerate(neighbours)]
    found = plan_arrival(moved, node(total, *others))
    assert found is None or max(moved.demand, moved.minimum) <= found.memory < moved.size
