"""What a node's agent does on its own while node or guest is in trouble: what the controller would, only sooner.

It decides by the same allocation as the controller, from the same facts, and only over VMs that the controller has
requests for. The controller's next request for a VM takes the place of what was decided here.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryNode, MemoryVM, dead_band
from kubeballoon.vocabulary import Mode


def is_short(size: int, held: int, need: int, *, troubled: bool) -> bool:
    """Whether a guest of ``size`` needs memory now: it swaps or refaults, or has used up what it holds; bytes."""
    return troubled or need >= held - dead_band(size)


def in_trouble(vm: MemoryVM) -> bool:
    """Whether a guest needs memory now, and may have it."""
    if vm.policy is None or vm.policy.mode is Mode.OBSERVE or vm.excluded is not None:
        return False
    if not vm.responsive or vm.need is None:
        return False
    return vm.actual < vm.maximum and is_short(vm.size, vm.actual, vm.need, troubled=vm.troubled)


def emergency_targets(node: MemoryNode, requests: Mapping[str, int]) -> dict[str, int]:
    """The goals that take the place of the controller's requests for now, by uid, in bytes.

    Nothing while neither the node nor a guest is in trouble. Else the node's memory is allocated anew; and a guest in
    trouble goes straight to its demand as far as the node has memory to spare, for a swapping guest cannot wait until
    others have given theirs.

    Args:
        node: as reported, each VM's target being the goal in force: the request, or what was decided here before.
        requests: what the controller asks, by uid, in bytes; a VM that is not named is left alone.
    """
    troubled = [vm for vm in node.vms if vm.uid in requests and in_trouble(vm)]
    helped = any(vm.uid in requests and vm.target != requests[vm.uid] for vm in node.vms)
    if not (troubled or helped or node.state.only_minimums_hold):
        return {}
    goals = {
        decision.vm.uid: decision.target
        for decision in allocate_memory(node).decisions
        if decision.target is not None and decision.vm.uid in requests
    }
    rising = sum(max(0, goals[vm.uid] - vm.actual) for vm in node.vms if vm.uid in goals)
    spare = max(0, node.available - node.reserve - rising)
    for vm in sorted(troubled, key=lambda vm: vm.uid):
        held = max(goals.get(vm.uid, 0), vm.actual)
        grant = min(spare, max(0, vm.demand - held))
        if grant:
            goals[vm.uid] = held + grant
            spare -= grant
    return {uid: goal for uid, goal in goals.items() if goal != requests[uid]}
