"""What is computed of a VM's and a node's memory before anything is allocated, and what decisions say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.memory.model import Amount, MemoryDecision, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.memory.request_checks import FLOOR
from kubeballoon.core.units import GIB, MIB
from kubeballoon.vocabulary import AgentAction, Mode

TERMS = MemoryTerms("p", minimum=Amount(percent=25), headroom=Amount(bytes=400 * MIB))
VM = MemoryVM("vm", "default/vm", 4 * GIB, actual=3 * GIB, target=3 * GIB, need=2 * GIB, policy=TERMS)
MARGIN = 4 * GIB // 32


def under(**changes: Any) -> MemoryVM:
    """Make the VM, of 4 GiB, under a policy with changes."""
    return replace(VM, policy=replace(TERMS, **changes))


@pytest.mark.parametrize(
    ("minimum", "maximum", "bounds"),
    [
        (GIB, 2 * GIB, (GIB, 2 * GIB)),
        (3 * GIB, 2 * GIB, (3 * GIB, 3 * GIB)),
        (9 * GIB, 9 * GIB, (4 * GIB, 4 * GIB)),
        (0, 0, (FLOOR, FLOOR)),
    ],
)
def test_a_guarantee_comes_before_a_limit_and_neither_exceeds_the_size(
    minimum: int, maximum: int, bounds: tuple[int, int]
) -> None:
    vm = under(minimum=Amount(bytes=minimum), maximum=Amount(bytes=maximum))
    assert (vm.minimum, vm.maximum) == bounds


def test_no_percentage_is_nothing() -> None:
    assert Amount(percent=0).of(1000) == 0
    assert Amount(percent=33).of(1000) == 330


@pytest.mark.parametrize("forms", [{}, {"bytes": 0, "percent": 0}, {"bytes": GIB, "pod_request": True}])
def test_an_amount_has_exactly_one_form(forms: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an amount is bytes, a percentage, or a pod's request"):
        Amount(**forms)


def test_a_vm_is_weighed_by_its_policy_s_shares_and_taxed_by_its_policy_s_percentage() -> None:
    figures = under(shares_per_gib=3, idle_tax=40).figures
    assert (figures.weight, figures.idle_tax) == (3 * 4096, 40)


def test_a_vm_without_a_policy_has_and_is_guaranteed_all() -> None:
    free = replace(VM, policy=None)
    assert (free.minimum, free.maximum, free.demand) == (4 * GIB, 4 * GIB, 3 * GIB)


@pytest.mark.parametrize(
    ("target", "committed"), [(None, 3), (2, 3), (3.5, 3.5), (9, 4)], ids=["none", "lower", "higher", "above the size"]
)
def test_a_vm_is_promised_what_it_has_or_a_higher_target(target: float | None, committed: float) -> None:
    vm = replace(VM, target=None if target is None else int(target * GIB))
    assert vm.committed == committed * GIB
    assert replace(vm, need=None).demand == committed * GIB, "while its need is not known"


@pytest.mark.parametrize(
    ("need", "demand", "working_set"),
    [(2 * GIB, 2 * GIB + 400 * MIB, 2 * GIB), (0, GIB, GIB), (4 * GIB - 1, 4 * GIB, 4 * GIB - 1)],
)
def test_a_demand_is_need_and_headroom_within_bounds(need: int, demand: int, working_set: int) -> None:
    figures = replace(VM, need=need).figures
    assert (figures.demand, figures.working_set, figures.in_use) == (demand, working_set, working_set)


@pytest.mark.parametrize(
    ("need", "headroom", "demand"),
    [
        (2 * GIB, 400 * MIB, 3 * GIB + 400 * MIB),
        (3 * GIB + 100 * MIB, 400 * MIB, 3 * GIB + 500 * MIB),
        (2 * GIB, 0, 3 * GIB + MARGIN),
    ],
)
def test_a_guest_in_trouble_works_with_all_that_it_demands(need: int, headroom: int, demand: int) -> None:
    figures = replace(under(headroom=Amount(bytes=headroom)), need=need, troubled=True).figures
    assert (figures.demand, figures.working_set, figures.in_use) == (demand, demand, demand)


@pytest.mark.parametrize(
    ("present", "in_use", "kept"),
    [
        (int(1.5 * GIB), int(1.5 * GIB), int(1.5 * GIB) + MARGIN),
        (GIB // 2, GIB, GIB // 2 + MARGIN),
        (int(2.5 * GIB), 2 * GIB, int(2.5 * GIB) + MARGIN),
        (3 * GIB, 2 * GIB, 3 * GIB),
    ],
)
def test_a_guest_keeps_what_it_works_with_now_and_a_margin(present: int, in_use: int, kept: int) -> None:
    figures = replace(VM, present_need=present).figures
    assert (figures.present, figures.in_use, figures.kept) == (present, in_use, kept)
    assert VM.figures.kept == 2 * GIB + MARGIN


def test_a_vm_s_weight_is_its_policy_s_shares_for_each_gib() -> None:
    assert under(shares_per_gib=1000).figures.weight == 4 * 1000 * 1024
    assert replace(under(shares_per_gib=1000), size=4 * GIB + 1000).figures.weight == 4 * 1000 * 1024


@pytest.mark.parametrize(
    ("action", "target", "charge"),
    [
        (AgentAction.RETURNS_ALL, 3 * GIB, 4 * GIB),
        (AgentAction.RETURNS_ALL, None, 4 * GIB),
        (AgentAction.FOLLOWS, 3 * GIB, 3 * GIB),
        (AgentAction.FOLLOWS, None, 4 * GIB),
        (AgentAction.HOLDS, 3 * GIB, 3 * GIB),
        (AgentAction.HOLDS, None, 3 * GIB),
    ],
)
def test_a_vm_whose_agent_gives_it_everything_counts_as_all_of_its_size(
    action: AgentAction, target: int | None, charge: int
) -> None:
    vm = replace(VM, agent_action=action)
    assert vm.charge(target) == charge
    assert replace(vm, pooled=True).charge(target) == 0


def test_guests_may_use_what_the_node_neither_keeps_nor_needs_itself() -> None:
    node = MemoryNode("n", 16 * GIB, 16 * GIB, other=GIB, reserve=2 * GIB, vms=(replace(VM, overhead=GIB // 2),) * 2)
    assert node.capacity == 12 * GIB
    assert replace(node, other=15 * GIB).capacity == 0


@pytest.mark.parametrize(
    ("policy", "pod_request", "why"),
    [
        (TERMS, 4 * GIB, ""),
        (replace(TERMS, minimum=Amount(percent=100)), 4 * GIB, ""),
        (replace(TERMS, minimum=Amount(pod_request=True)), 3 * GIB, ""),
        (
            replace(TERMS, minimum=Amount(pod_request=True)),
            4 * GIB,
            ": its pod has requested all of it, so it is guaranteed",
        ),
    ],
)
def test_a_guarantee_is_put_down_to_the_pod_s_request_only_where_that_is_the_reason(
    policy: MemoryTerms, pod_request: int, why: str
) -> None:
    vm = replace(VM, policy=policy, pod_request=pod_request)
    decision = MemoryDecision(vm, 4 * GIB, 4 * GIB, DecisionReason.SATISFIED)
    assert decision.message == f"may use all of its 4 GiB{why}"


@pytest.mark.parametrize(
    ("need", "target", "why"),
    [
        (2 * GIB, 2 * GIB + 400 * MIB, "idle 1.61 GiB taxed at 75 %"),
        (2 * GIB, 2 * GIB + 400 * MIB - 1, "all VMs' demands do not fit"),
        (4 * GIB, 4 * GIB, "all VMs' demands do not fit"),
    ],
)
def test_idle_memory_is_named_where_a_vm_has_all_that_it_demands(need: int, target: int, why: str) -> None:
    decision = MemoryDecision(replace(VM, need=need), target, target, DecisionReason.RECLAIMED)
    assert decision.message.startswith(f"{why}, node Ample: ")


def test_of_a_policy_that_observes_it_is_said_what_would_be_reclaimed() -> None:
    watched = under(mode=Mode.OBSERVE)
    decision = MemoryDecision(watched, None, 3 * GIB, DecisionReason.RECLAIMED)
    assert "1 GiB would be reclaimed, demand 2.39 GiB" in decision.message
    assert "1 GiB reclaimed" in decision._replace(target=3 * GIB).message
