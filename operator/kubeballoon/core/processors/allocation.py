"""How many processors each VM of a node may use: the division of memory, in whole processors.

What ``entitlement`` finds to a fraction is rounded by largest remainder. A processor can be taken from a guest and
given back at once and costs it no data, so there is no pacing, no waiting for what others give, and no idle tax; there
is a trigger with hysteresis, and calm after each change.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from kubeballoon.core.decision import DecisionReason
from kubeballoon.core.entitlement import Claim, divide
from kubeballoon.core.processors.model import (
    SHARES,
    ProcessorDecision,
    ProcessorNode,
    ProcessorPlan,
    ProcessorTerms,
    ProcessorVM,
)
from kubeballoon.vocabulary import Mode

_UNIT = 1 << 20  # parts of a processor the division is exact to


def allocate_processors(node: ProcessorNode) -> ProcessorPlan:
    """Decide how many processors every VM of the node may use.

    1. VMs that must not or cannot be moved keep what they have; their part of the node is what default shares come to,
       and dedicated processors are nobody else's. A trigger stays pulled only by those that take part.
    2. Where a policy's trigger is pulled, shares divide the node's processors inside each VM's bounds.
    3. A target stays as it is for the cool-down after a change, unless its bounds forbid.

    VMs of policies that only observe are immovable for the others; their own decisions say what would be if they were
    not, and carry no target.
    """
    observed = frozenset(vm.uid for vm in node.vms if vm.policy is not None and vm.policy.mode is Mode.OBSERVE)
    plan = _plan(node, observed)
    if not observed:
        return plan
    supposed = _plan(node, frozenset()).decisions
    decisions = (
        replace(what_if, target=None) if what_if.vm.uid in observed else decision
        for decision, what_if in zip(plan.decisions, supposed, strict=True)
    )
    return replace(plan, decisions=tuple(decisions))


def divide_whole(claims: Sequence[Claim], capacity: int) -> list[int]:
    """Divide ``capacity`` processors among the claims, in their order, by largest remainder.

    Every allocation is within its bounds, and the sum is the capacity, or the sum of the bounds where that is nearer.
    """
    fine = [
        claim._replace(
            minimum=claim.minimum * _UNIT, maximum=claim.maximum * _UNIT, active=max(claim.active, 0) * _UNIT
        )
        for claim in claims
    ]
    parts = divide(fine, capacity * _UNIT)
    whole = [part // _UNIT for part in parts]
    left = sum(parts) // _UNIT - sum(whole)
    by_remainder = sorted(range(len(parts)), key=lambda index: (-(parts[index] % _UNIT), claims[index].key))
    for index in by_remainder[:left]:
        whole[index] += 1
    return whole


def _plan(node: ProcessorNode, bystanders: frozenset[str]) -> ProcessorPlan:
    left_alone = [_left_alone(vm, bystanders) for vm in node.vms]
    claims = [_claim(vm, movable=alone is None) for vm, alone in zip(node.vms, left_alone, strict=True)]
    shares = divide_whole(claims, node.count)
    taking = {
        vm.policy.name
        for vm, alone in zip(node.vms, left_alone, strict=True)
        if vm.policy is not None and alone is None and vm.held_back
    }
    pulled = _pulled_triggers(node, taking)
    decisions = (
        alone if alone is not None else _decide(vm, vm.policy, share, pulled)
        for vm, alone, share in zip(node.vms, left_alone, shares, strict=True)
    )
    return ProcessorPlan(node.name, max(0, sum(claim.minimum for claim in claims) - node.count), tuple(decisions))


def _left_alone(vm: ProcessorVM, bystanders: frozenset[str]) -> ProcessorDecision | None:
    """What is decided of a VM that takes no part, with the first reason why it does not."""
    if vm.policy is None:
        return ProcessorDecision(vm, None, DecisionReason.NO_POLICY, "no policy selects this VM")
    if vm.excluded is not None:
        return ProcessorDecision(vm, None, DecisionReason.EXCLUDED, vm.excluded)
    if vm.uid in bystanders:
        return ProcessorDecision(vm, None, DecisionReason.STEADY, "its policy only observes")
    if not vm.responsive:
        return ProcessorDecision(vm, vm.target, DecisionReason.UNRESPONSIVE, "its guest does not follow requests")
    return None


def _claim(vm: ProcessorVM, *, movable: bool) -> Claim:
    shares = vm.policy.shares if movable and vm.policy is not None else SHARES
    bounds = (vm.minimum, vm.maximum) if movable else (vm.size if vm.dedicated else 0, vm.size)
    return Claim(vm.uid, *bounds, weight=max(1, shares * vm.size), active=bounds[1])


def _pulled_triggers(node: ProcessorNode, taking: Collection[str]) -> frozenset[str]:
    """The policies, by name, that take processors on this node now, given those that did before."""
    policies = [vm.policy for vm in node.vms if vm.policy is not None]
    return frozenset(
        policy.name for policy in policies if policy.trigger.pulled(node.pressure, before=policy.name in taking)
    )


def _decide(vm: ProcessorVM, policy: ProcessorTerms | None, share: int, pulled: frozenset[str]) -> ProcessorDecision:
    short = policy is not None and policy.name in pulled
    wanted = share if short else vm.maximum
    target = _settle(vm, policy, wanted)
    if target != wanted:
        message = f"changed less than {0 if policy is None else policy.cool_down:.0f} s ago: stays at {target} for now"
        return ProcessorDecision(vm, target, DecisionReason.STEADY, message)
    if not short:
        message = f"the node is not short of processors: may use {_said(vm, target)}"
        return ProcessorDecision(vm, target, DecisionReason.NOT_UNDER_PRESSURE, message)
    if target == vm.maximum:
        return ProcessorDecision(vm, target, DecisionReason.SATISFIED, f"may use {_said(vm, target)}")
    message = f"the node's processors are divided by shares: {vm.size - target} of {vm.size} taken"
    if target == vm.minimum:
        return ProcessorDecision(
            vm, target, DecisionReason.AT_MINIMUM, f"{message}; at its guaranteed minimum {target}"
        )
    return ProcessorDecision(vm, target, DecisionReason.RECLAIMED, message)


def _settle(vm: ProcessorVM, policy: ProcessorTerms | None, wanted: int) -> int:
    """What is wanted, or the present target where that is to stay."""
    recent = vm.last_change is not None and policy is not None and vm.last_change.age < policy.cool_down
    if vm.target is None or not recent:
        return wanted
    return max(vm.minimum, min(vm.maximum, vm.target))


def _said(vm: ProcessorVM, target: int) -> str:
    return f"all of its {target}" if target == vm.size else f"its policy's maximum of {target}"
