"""Reasons of decisions: each has an example, for memory and for processors, with the words that users read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubeballoon.core.decision_reason import DecisionReason, TargetChange
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import Amount, MemoryNode, MemoryTerms, MemoryVM
from kubeballoon.core.memory.request_checks import FLOOR
from kubeballoon.core.processors.allocation import allocate_processors
from kubeballoon.core.processors.model import Count, ProcessorNode, ProcessorTerms, ProcessorTrigger, ProcessorVM
from kubeballoon.core.units import GIB
from kubeballoon.vocabulary import ReclaimWhen, SwapAbility

TERMS = MemoryTerms("p", minimum=Amount(percent=25))
VM = MemoryVM("vm", "default/vm", 4 * GIB, actual=4 * GIB, need=GIB, policy=TERMS)
IDLE = replace(VM, uid="idle")
HUNGRY = replace(VM, actual=2 * GIB, target=2 * GIB, need=3 * GIB)

# Each with the VM that the decision is for first, the capacity, and what the message says.
MEMORY: dict[DecisionReason, tuple[list[MemoryVM], int, str]] = {
    DecisionReason.SATISFIED: ([VM], 4 * GIB, "may use all of its 4 GiB"),
    DecisionReason.RECLAIMED: ([VM, IDLE], 6 * GIB, "idle 2.6 GiB taxed at 75 %, node Ample: 1.02 GiB reclaimed"),
    DecisionReason.AT_MINIMUM: (
        [VM],
        GIB,
        "3 GiB reclaimed, demand 1.4 GiB; at its guaranteed minimum 1 GiB",
    ),
    DecisionReason.WITHHOLDING: (
        [replace(VM, need=3 * GIB, swap_ability=SwapAbility.UNABLE)],
        2 * GIB,
        "its fair share is 2 GiB; its guest works with 1.12 GiB more, and it cannot swap: it keeps that",
    ),
    DecisionReason.WAITING: ([HUNGRY, IDLE], 6 * GIB, "of it waits until other VMs have given theirs"),
    DecisionReason.NOT_UNDER_PRESSURE: (
        [replace(VM, policy=replace(TERMS, when=ReclaimWhen.UNDER_PRESSURE))],
        GIB,
        "node Ample, its policy reclaims under pressure only: may use 4 GiB",
    ),
    DecisionReason.DEMAND_UNKNOWN: ([replace(VM, need=None)], GIB, "no fresh guest statistics: 4 GiB counted as used"),
    DecisionReason.UNRESPONSIVE: (
        [replace(VM, responsive=False)],
        GIB,
        "its driver does not follow requests: 4 GiB counted as used",
    ),
    DecisionReason.EXCLUDED: ([replace(VM, excluded="it has no balloon")], GIB, "it has no balloon"),
    DecisionReason.NO_POLICY: ([replace(VM, policy=None)], GIB, "no policy selects this VM"),
}

SHARING = ProcessorTerms("p", minimum=Count(1), trigger=ProcessorTrigger(ReclaimWhen.OVERCOMMITTED))
PROCESSORS = ProcessorVM("vm", "default/vm", 4, online=4, policy=SHARING)
OTHER = replace(PROCESSORS, uid="other")

PROCESSOR: dict[DecisionReason, tuple[list[ProcessorVM], int, str]] = {
    DecisionReason.SATISFIED: ([PROCESSORS], 4, "may use all of its 4"),
    DecisionReason.RECLAIMED: ([PROCESSORS, OTHER], 4, "the node's processors are divided by shares: 2 of 4 reclaimed"),
    DecisionReason.AT_MINIMUM: (
        [PROCESSORS, OTHER],
        2,
        "the node's processors are divided by shares: 3 of 4 reclaimed; at its guaranteed minimum 1",
    ),
    DecisionReason.STEADY: (
        [replace(PROCESSORS, target=3, last_change=TargetChange(up=True, age=299))],
        4,
        "changed less than 300 s ago: stays at 3 for now",
    ),
    DecisionReason.NOT_UNDER_PRESSURE: (
        [replace(PROCESSORS, policy=ProcessorTerms("p", maximum=Count(3)))],
        4,
        "the node is not short of processors: may use its policy's maximum of 3",
    ),
    DecisionReason.UNRESPONSIVE: ([replace(PROCESSORS, responsive=False)], 4, "its guest does not follow requests"),
    DecisionReason.EXCLUDED: ([replace(PROCESSORS, excluded="its owner says so")], 4, "its owner says so"),
    DecisionReason.NO_POLICY: ([replace(PROCESSORS, policy=None)], 4, "no policy selects this VM"),
}


def test_every_reason_has_an_example() -> None:
    without = set(DecisionReason) - MEMORY.keys() - PROCESSOR.keys()
    assert not without, f"add a node that leads to {without}, and the words that its users read, to the examples"


@pytest.mark.parametrize("reason", MEMORY)
def test_a_decision_about_memory_says_why_in_words(reason: DecisionReason) -> None:
    vms, capacity, words = MEMORY[reason]
    node = MemoryNode("node", capacity + GIB, available=4 * GIB, other=0, reserve=GIB, vms=tuple(vms))
    decision = allocate_memory(node).decisions[0]
    assert decision.reason is reason
    assert words in decision.message


@pytest.mark.parametrize("reason", PROCESSOR)
def test_a_decision_about_processors_says_why_in_words(reason: DecisionReason) -> None:
    vms, count, words = PROCESSOR[reason]
    decision = allocate_processors(ProcessorNode("node", count, vms=tuple(vms))).decisions[0]
    assert (decision.reason, decision.message) == (reason, words)


def test_a_vm_at_its_policy_s_maximum_is_told_so() -> None:
    node = MemoryNode(
        "node", 5 * GIB, 4 * GIB, 0, GIB, vms=(replace(VM, policy=replace(TERMS, maximum=Amount(bytes=3 * GIB))),)
    )
    assert allocate_memory(node).decisions[0].message == "may use its policy's maximum of 3 GiB"


@pytest.mark.parametrize(
    ("pod_request", "minimum"), [(GIB, GIB), (4 * GIB, 4 * GIB), (9 * GIB, 4 * GIB), (None, 4 * GIB), (0, FLOOR)]
)
def test_a_vm_may_be_guaranteed_what_its_pod_has_requested(pod_request: int | None, minimum: int) -> None:
    by_request = replace(TERMS, minimum=Amount(pod_request=True))
    assert replace(VM, policy=by_request, pod_request=pod_request).minimum == minimum


def test_a_vm_whose_pod_has_requested_all_of_it_is_told_why_nothing_is_reclaimed() -> None:
    by_request = replace(TERMS, minimum=Amount(pod_request=True))
    vms = tuple(replace(VM, uid=uid, policy=by_request, pod_request=4 * GIB) for uid in ("a", "b"))
    plan = allocate_memory(MemoryNode("node", 7 * GIB, 4 * GIB, 0, GIB, vms=vms))
    assert plan.shortfall == 2 * GIB
    assert {decision.message for decision in plan.decisions} == {
        "may use all of its 4 GiB: its pod has requested all of it, so it is guaranteed"
    }


@pytest.mark.parametrize(
    ("limit", "amount"), [(Amount(percent=40), 40), (Amount(bytes=30), 30), (Amount(percent=60), 50), (None, 50)]
)
def test_an_amount_does_not_exceed_its_limit(limit: Amount | None, amount: int) -> None:
    assert Amount(percent=50, limit=limit).of(100) == amount
