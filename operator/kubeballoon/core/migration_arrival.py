"""This module says with how much memory a VM that is migrated arrives, so that its new node need not give it all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kubeballoon.core.decision_reason import DecisionReason
from kubeballoon.core.formatting import human
from kubeballoon.core.memory.allocation import allocate_memory
from kubeballoon.core.memory.model import MemoryDecision, MemoryNode, MemoryPlan, MemoryVM
from kubeballoon.vocabulary import AgentAction


@dataclass(frozen=True, slots=True)
class Arrival:
    """An Arrival is what a VM may use when it gets to the node that it is migrated to.

    Attributes:
        vm: the VM's namespace and name.
        target: the name of the node that it goes to.
        memory: what it may use there, bytes.
    """

    vm: str
    target: str
    memory: int


def plan_arrival(vm: MemoryVM, target: MemoryNode, others: Iterable[Arrival] = ()) -> Arrival | None:
    """Find what a node can give a VM that is migrated to it; None if that is all, or if no policy is enforced on it.

    The node's own allocation decides, as if the VM were there already with what it holds now. It is never less than
    what the VM demands, which is at least its minimum: the target was chosen because it has room for that.

    Args:
        vm: the VM, as the node that it leaves reports it.
        target: the node that it goes to.
        others: the VMs that are on their way; those that go to the same node have their memory there.
    """
    if not vm.enforced or vm.pooled:
        return None
    there = {each.name for each in target.vms}
    promised = sum(each.memory for each in others if each.target == target.name and each.vm not in there | {vm.name})
    arriving = replace(
        vm,
        target=vm.committed if vm.target is None else vm.target,
        last_change=None,  # the cool-down of the node that it leaves says nothing here
        agent_action=AgentAction.FOLLOWS,
        responsive=True,
    )
    node = replace(
        target,
        available=max(0, target.available - promised - vm.actual - vm.overhead),
        other=target.other + promised,
        vms=(*target.vms, arriving),
    )
    decision = next(each for each in allocate_memory(node).decisions if each.vm is arriving)
    given = max(vm.demand, vm.size if decision.target is None else decision.target)
    return Arrival(vm.name, target.name, given) if given < vm.size else None


def limit_to_arrivals(plan: MemoryPlan, arrivals: Mapping[str, Arrival]) -> MemoryPlan:
    """Hold VMs that are about to leave a node to what they may use where they go; nobody gets more by this.

    On its way a VM is left alone, so what is requested of it when it leaves holds when it arrives.

    Args:
        plan: the node's plan.
        arrivals: what VMs may use where they go, by the VM's namespace and name.
    """
    if not arrivals:
        return plan
    decisions = tuple(_limited(plan.node, each, arrivals.get(each.vm.name)) for each in plan.decisions)
    return replace(plan, decisions=decisions)


def _limited(node: str, decision: MemoryDecision, arrival: Arrival | None) -> MemoryDecision:
    vm = decision.vm
    if arrival is None or arrival.target == node or not vm.enforced:
        return decision
    present = vm.size if decision.target is None else decision.target
    if present <= arrival.memory:
        return decision
    note = f"it is migrated to {arrival.target}, which has {human(arrival.memory)} for it"
    memory = max(vm.minimum, arrival.memory)
    return decision._replace(target=memory, reason=DecisionReason.STEADY, note=note)
