"""This module allocates a node's processors, as memory is divided, in whole processors.

What ``entitlement`` finds to a fraction is rounded by largest remainder. A guest can give a processor up and get it
back at once, and loses no data. So there is no pacing, no waiting until others have given theirs, and no idle tax.
Instead there is a trigger with hysteresis, and after each change a VM's processors stay as they are for a while.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from kubeballoon.core.decision_reason import DecisionReason, merge_observed
from kubeballoon.core.entitlement import Claim, divide
from kubeballoon.core.processors.model import (
    SHARES,
    ProcessorDecision,
    ProcessorNode,
    ProcessorPlan,
    ProcessorTerms,
    ProcessorVM,
)

_FRACTIONS = 1 << 20  # parts of a processor that the division is exact to before it is rounded


def allocate_processors(node: ProcessorNode) -> ProcessorPlan:
    """Decide how many processors every VM of the node may use.

    1. VMs that must not or cannot be moved keep what they have. They count with default shares, except that dedicated
       processors are nobody else's. A trigger stays active only because of VMs that can be moved.
    2. Where a policy's trigger is active, shares divide the node's processors inside each VM's bounds.
    3. A target stays as it is for the cool-down after a change, unless its bounds forbid that.

    VMs of policies that only observe count as immovable for the others. Their own decisions carry no target and say
    what would be decided if their policies were enforced.
    """
    plan = _plan(node)
    if not any(vm.observed for vm in node.vms):
        return plan
    enforced = _plan(node, as_if_enforced=True).decisions
    hypothetical = [replace(decision, target=None) for decision in enforced]
    return replace(plan, decisions=merge_observed(plan.decisions, hypothetical))


def divide_whole(claims: Sequence[Claim], capacity: int) -> list[int]:
    """Divide ``capacity`` processors among the claims, in their order, by largest remainder.

    Every allocation is within its bounds, and the sum is the capacity, or the sum of the bounds where that is nearer.
    """
    fine = [
        claim._replace(
            minimum=claim.minimum * _FRACTIONS,
            maximum=claim.maximum * _FRACTIONS,
            active=claim.active * _FRACTIONS,
        )
        for claim in claims
    ]
    parts = divide(fine, capacity * _FRACTIONS)
    whole = [part // _FRACTIONS for part in parts]
    left = sum(parts) // _FRACTIONS - sum(whole)
    by_remainder = sorted(range(len(parts)), key=lambda index: (-(parts[index] % _FRACTIONS), claims[index].key))
    for index in by_remainder[:left]:
        whole[index] += 1
    return whole


def _plan(node: ProcessorNode, *, as_if_enforced: bool = False) -> ProcessorPlan:
    """Decide for all VMs; those of policies that only observe are left out, unless treated as if enforced."""
    left_out = [_left_out(vm, as_if_enforced=as_if_enforced) for vm in node.vms]
    claims = [_claim(vm, movable=found is None) for vm, found in zip(node.vms, left_out, strict=True)]
    shares = divide_whole(claims, node.count)
    reducing = {
        vm.policy.name
        for vm, found in zip(node.vms, left_out, strict=True)
        if vm.policy is not None and found is None and vm.is_reduced
    }
    active = _active_triggers(node, reducing)
    decisions = (
        found if found is not None else _decide(vm, vm.policy, share, active)
        for vm, found, share in zip(node.vms, left_out, shares, strict=True)
    )
    return ProcessorPlan(node.name, node.shortfall, tuple(decisions))


def _left_out(vm: ProcessorVM, *, as_if_enforced: bool) -> ProcessorDecision | None:
    """Decide about a VM that takes no part in the division, by the first reason why; None if it takes part."""
    if vm.policy is None:
        return ProcessorDecision(vm, None, DecisionReason.NO_POLICY, "no policy selects this VM")
    if vm.excluded is not None:
        return ProcessorDecision(vm, None, DecisionReason.EXCLUDED, vm.excluded)
    if vm.observed and not as_if_enforced:
        return ProcessorDecision(vm, None, DecisionReason.STEADY, "its policy only observes")
    if not vm.responsive:
        return ProcessorDecision(vm, vm.target, DecisionReason.UNRESPONSIVE, "its guest does not follow requests")
    return None


def _claim(vm: ProcessorVM, *, movable: bool) -> Claim:
    """Build the VM's claim to the node's processors; one that cannot be moved has default shares and no guarantee."""
    shares = vm.policy.shares if movable and vm.policy is not None else SHARES
    bounds = (vm.minimum, vm.maximum) if movable else (vm.size if vm.dedicated else 0, vm.size)
    return Claim(vm.uid, *bounds, weight=max(1, shares * vm.size), active=bounds[1])


def _active_triggers(node: ProcessorNode, reducing: Collection[str]) -> frozenset[str]:
    """Return the names of the policies that reclaim processors on this node now, given those that did before."""
    policies = [vm.policy for vm in node.vms if vm.policy is not None]
    return frozenset(
        policy.name
        for policy in policies
        if policy.trigger.is_active(node.pressure, was_active=policy.name in reducing)
    )


def _decide(vm: ProcessorVM, policy: ProcessorTerms | None, share: int, active: frozenset[str]) -> ProcessorDecision:
    """Decide about a VM that takes part: its share where its policy's trigger is active, else its maximum."""
    is_short = policy is not None and policy.name in active
    desired = share if is_short else vm.maximum
    target = _damp(vm, policy, desired)
    if target != desired:
        message = f"changed less than {0 if policy is None else policy.cool_down:.0f} s ago: stays at {target} for now"
        return ProcessorDecision(vm, target, DecisionReason.STEADY, message)
    if not is_short:
        message = f"the node is not short of processors: may use {_describe_limit(vm, target)}"
        return ProcessorDecision(vm, target, DecisionReason.NOT_UNDER_PRESSURE, message)
    if target == vm.maximum:
        return ProcessorDecision(vm, target, DecisionReason.SATISFIED, f"may use {_describe_limit(vm, target)}")
    message = f"the node's processors are divided by shares: {vm.size - target} of {vm.size} reclaimed"
    if target == vm.minimum:
        return ProcessorDecision(
            vm, target, DecisionReason.AT_MINIMUM, f"{message}; at its guaranteed minimum {target}"
        )
    return ProcessorDecision(vm, target, DecisionReason.RECLAIMED, message)


def _damp(vm: ProcessorVM, policy: ProcessorTerms | None, desired: int) -> int:
    """Return the desired target, or within the cool-down after a change the present one, kept within its bounds."""
    change = vm.last_change
    moved = change is not None and change.up is not None and policy is not None and change.age < policy.cool_down
    if vm.target is None or not moved:
        return desired
    return max(vm.minimum, min(vm.maximum, vm.target))


def _describe_limit(vm: ProcessorVM, target: int) -> str:
    return f"all of its {target}" if target == vm.size else f"its policy's maximum of {target}"
