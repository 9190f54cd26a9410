"""This module explains, for ``explain``, why a VM has not more memory, and need not give up more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kubeballoon.api.v1alpha1 import VirtualMachineReport
from kubeballoon.cli.agent_words import decision_message
from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.formatting import human, listed
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryTerms

_FULL_TAX = 100  # percent

# The reasons of VMs that take no part in the division of the node: the decision's message says all there is to say.
_NOT_DIVIDED = (
    DecisionReason.EXCLUDED,
    DecisionReason.NO_POLICY,
    DecisionReason.UNRESPONSIVE,
    DecisionReason.DEMAND_UNKNOWN,
)


def explain_emergency(report: VirtualMachineReport, *, up: bool) -> Iterator[str]:
    """Say what the node's agent does about a VM without the controller, if that leaves the VM more (``up``) or less."""
    target, request = report.emergency_target, report.target
    if target is None or request is None or target == request or (target > request) is not up:
        return
    yield (
        f"the node or a guest on it is in trouble: without waiting for the controller the agent moves this VM to "
        f"{human(target)}, in place of the {human(request)} requested"
    )


def why_not_more(
    report: VirtualMachineReport, node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision
) -> Iterator[str]:
    """Say what keeps a VM from having more memory, the strongest reason first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _NOT_DIVIDED or policy is None:
        yield decision_message(report, decision)
        return
    target = _target(decision)
    if target >= vm.size:
        yield f"it may use all of its {human(vm.size)}"
    elif target >= vm.maximum:
        yield f"its policy's max is {human(vm.maximum)}"
    elif decision.reason is DecisionReason.NOT_UNDER_PRESSURE:
        yield decision.message
    else:
        yield from _why_below_maximum(node, plan, decision, policy)
    if vm.actual < target - vm.dead_band:
        yield f"it holds {human(vm.actual)}: its guest has not taken the rest yet"


def _target(decision: MemoryDecision) -> int:
    """Return a VM's target, or what it would be entitled to if its policy only observes, bytes."""
    return decision.entitlement if decision.target is None else decision.target


def _why_below_maximum(
    node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision, policy: MemoryTerms
) -> Iterator[str]:
    """Say why a VM that takes part in the division of the node has less than its maximum."""
    vm, demand = decision.vm, decision.vm.demand
    if decision.reason in (DecisionReason.WAITING, DecisionReason.WITHHOLDING):
        yield decision.message
    others = [
        f"{each.vm.name} {human(each.withheld)}" for each in plan.decisions if each.withheld and each.vm is not vm
    ]
    if others:
        yield f"others keep more than their fair shares, which cannot be reclaimed from them: {listed(others)}"
    if plan.shortfall:
        yield f"the minimums alone exceed the node's capacity by {human(plan.shortfall)}"
    yield f"the node's {human(plan.sharers_capacity)} for such VMs are all given out, in state {node.state}"
    if demand < vm.maximum and policy.idle_tax:
        price = _FULL_TAX / (_FULL_TAX - policy.idle_tax)  # of an idle byte, in bytes in use (OSDI 2002, section 5.2)
        yield (
            f"above its demand of {human(demand)} memory is idle, and at idleTax {policy.idle_tax} an idle byte costs "
            f"as much as {price:.3g} in use"
        )
    for change, terms in (
        (f"shares {2 * policy.shares_per_gib}", replace(policy, shares_per_gib=2 * policy.shares_per_gib)),
        ("idleTax 0", replace(policy, idle_tax=0)),
    ):
        entitlement = _entitlement_under(node, vm.uid, terms)
        if entitlement - decision.entitlement > vm.dead_band:
            yield f"with {change}, all else the same, it would be entitled to {human(entitlement)}"


def _entitlement_under(node: MemoryNode, uid: str, policy: MemoryTerms) -> int:
    """Compute what a VM would be entitled to under another policy, all else the same, bytes."""
    vms = tuple(replace(vm, policy=policy) if vm.uid == uid else vm for vm in node.vms)
    return next(each.entitlement for each in allocate_memory(replace(node, vms=vms)).decisions if each.vm.uid == uid)


def why_not_less(
    report: VirtualMachineReport, node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision
) -> Iterator[str]:
    """Say what keeps a VM from having to give up more memory, the strongest reason first."""
    vm, policy = decision.vm, decision.vm.policy
    if decision.reason in _NOT_DIVIDED or policy is None:
        yield decision_message(report, decision)
        return
    if policy.mode.only_observes:
        yield f"its policy {policy.name} only observes: nothing is requested of it"
    target = _target(decision)
    if target <= vm.minimum:
        yield f"{human(vm.minimum)} are guaranteed to it by the min of its policy {policy.name}"
    elif decision.reason is DecisionReason.NOT_UNDER_PRESSURE:
        yield decision.message
    else:
        yield from _why_above_minimum(node, plan, decision)
    if vm.actual > target + vm.dead_band:
        yield f"it holds {human(vm.actual)}: its guest gives as fast as it was seen to follow"


def _why_above_minimum(node: MemoryNode, plan: MemoryPlan, decision: MemoryDecision) -> Iterator[str]:
    """Say why a VM that takes part in the division of the node has more than its minimum."""
    vm, target, demand = decision.vm, _target(decision), decision.vm.demand
    demands = sum(each.vm.demand for each in plan.decisions if each.reason not in _NOT_DIVIDED)
    if demands > plan.sharers_capacity:
        yield "the VMs' demands do not all fit: each has what its shares buy"
    elif node.state.only_minimums_hold:
        yield f"in state {node.state} its shares still buy this much"
    elif target - demand <= vm.dead_band:
        yield f"it demands {human(demand)}: while all demands fit, no VM gets less than it demands"
    else:
        yield f"nobody else needs it: all demands, {human(demands)}, fit into the node's {human(plan.sharers_capacity)}"
    if decision.target is not None and decision.target == vm.target and decision.target > decision.entitlement:
        is_small = decision.target - decision.entitlement <= vm.dead_band
        why = "is too small to be worth making" if is_small else "serves nobody: what nobody needs rests for a while"
        yield f"a move to its entitlement of {human(decision.entitlement)} {why}"
