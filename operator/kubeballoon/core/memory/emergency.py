"""This module computes emergency targets: an agent's own, while its node or a guest is short of memory.

The agent decides what the controller would, only sooner: by the same allocation, from the same facts, and only for VMs
that the controller requests something of. The controller's next request for a VM replaces the emergency target.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryVM, dead_band


def is_short(size: int, actual: int, need: int, *, troubled: bool) -> bool:
    """Whether a guest needs memory now: it swaps or refaults, or it has used up what its balloon leaves it.

    Args:
        size: the guest's size, bytes.
        actual: what the balloon leaves the guest, bytes.
        need: what the guest works with, bytes.
        troubled: whether the guest swaps or refaults.
    """
    return troubled or need >= actual - dead_band(size)


def in_trouble(vm: MemoryVM) -> bool:
    """Whether the VM's guest needs memory now, and may have more."""
    if vm.need is None or not (vm.enforced and vm.responsive):
        return False
    return vm.actual < vm.maximum and is_short(vm.size, vm.actual, vm.need, troubled=vm.troubled)


def is_urgent(node: MemoryNode) -> bool:
    """Whether memory that guests work with is needed at once.

    It is when a node is Scarce or Critical, or when a guest works with memory that it is guaranteed and has not got.
    """
    followers = (vm for vm in node.vms if vm.enforced and vm.responsive)
    return node.state.only_minimums_hold or any(
        vm.need is not None and min(vm.minimum, vm.need) - vm.actual > vm.dead_band for vm in followers
    )


def emergency_targets(node: MemoryNode, requests: Mapping[str, int]) -> dict[str, int]:
    """Decide the targets that take the place of the controller's requests for now.

    There are none while neither the node nor a guest is in trouble. Otherwise the node's memory is allocated anew, and
    a guest in trouble gets its demand at once as far as the node has memory to spare: a guest that swaps cannot wait
    until others have given memory up.

    Args:
        node: the node as reported. Each VM's target is what is in force: the controller's request, or an emergency
            target decided before.
        requests: the controller's requests by VM uid, bytes; other VMs are left alone.

    Returns:
        Targets by VM uid, bytes; only those that differ from the controller's requests.
    """
    troubled = [vm for vm in node.vms if vm.uid in requests and in_trouble(vm)]
    overridden = any(vm.uid in requests and vm.target != requests[vm.uid] for vm in node.vms)
    if not (troubled or overridden or node.state.only_minimums_hold):
        return {}
    decisions = {decision.vm.uid: decision for decision in allocate_memory(node).decisions}
    targets = {
        uid: decision.target for uid, decision in decisions.items() if decision.target is not None and uid in requests
    }
    contended = any(uid in targets and targets[uid] < decisions[uid].vm.figures.present for uid in decisions)
    _raise_to_demand(node, [decisions[vm.uid] for vm in troubled], targets, contended=contended)
    return {uid: target for uid, target in targets.items() if target != requests[uid]}


def _raise_to_demand(
    node: MemoryNode, troubled: list[MemoryDecision], targets: dict[str, int], *, contended: bool
) -> None:
    """Raise the targets of guests in trouble to their demands, as far as the node has memory to spare.

    More than they are entitled to they get only while no guest is asked for memory that it works with: what it gives
    is for those who are entitled to it. What guests were given of their demands, and have not
    touched yet, is not to spare.
    """
    promised = sum(max(0, targets[vm.uid] - vm.actual) + vm.untouched_demand for vm in node.vms if vm.uid in targets)
    spare = max(0, node.spare - promised)
    troubled = sorted(troubled, key=lambda decision: decision.vm.uid)  # not in the order in which they are reported
    for decision in troubled:
        vm, goal = decision.vm, min(decision.vm.demand, decision.entitlement)
        if goal - targets.get(vm.uid, 0) > vm.dead_band:  # the allocation leaves smaller differences on purpose
            spare -= _raise(vm, goal, spare, targets)
    if not contended:
        for decision in troubled:
            spare -= _raise(decision.vm, decision.vm.demand, spare, targets)


def _raise(vm: MemoryVM, goal: int, spare: int, targets: dict[str, int]) -> int:
    """Raise one VM's target to ``goal``, by no more than ``spare`` bytes, and return by how much it rose."""
    # A guest whose balloon has not reached its target has the more; a grant comes on top of that.
    target = max(targets.get(vm.uid, 0), min(vm.actual, goal))
    targets[vm.uid] = min(target + spare, max(target, goal))
    return targets[vm.uid] - target
