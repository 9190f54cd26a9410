"""This module helps a node and its guests in trouble before the controller does, by the controller's own rules.

An emergency target takes the place of a VM's request until the controller requests something else of that VM, or until
the two are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from kubeballoon.agent.vm.memory_worker import MemoryWorker
from kubeballoon.api.v1alpha1 import NodePressureStatus, VirtualMachineReport
from kubeballoon.core.formatting import human
from kubeballoon.core.memory.emergency import emergency_targets, is_short, is_urgent
from kubeballoon.core.memory.model import MemoryNode
from kubeballoon.governance.core_inputs import memory_node
from kubeballoon.governance.loaded_policy import LoadedMemoryPolicy
from kubeballoon.vocabulary import AgentAction, NodeState

_log = logging.getLogger(__name__)


def may_be_needed(state: NodeState, workers: Sequence[MemoryWorker]) -> bool:
    """Whether emergency targets may have to be set or ended; this cheap test saves composing a report each time."""
    helping = any(worker.emergency_target is not None or worker.urgent for worker in workers)
    return helping or state.only_minimums_hold or any(map(_may_be_short, workers))


def set_emergency_targets(name: str, status: NodePressureStatus, workers: Sequence[MemoryWorker]) -> bool:
    """Decide an emergency target, or none, for each VM of the node ``name``, and pass it to the VM's worker.

    Returns:
        Whether any VM has another emergency target than before.
    """
    requests = {
        worker.instance.uid: worker.target
        for worker in workers
        if worker.target is not None and worker.backing.policy is not None
    }
    node = _node(name, status, workers, requests.keys())
    targets, urgent = emergency_targets(node, requests), is_urgent(node)
    changed = False
    for worker in workers:
        worker.urgent = urgent
        target = targets.get(worker.instance.uid)
        if target != worker.emergency_target:
            changed = True
            _log_target(worker, target)
            worker.set_emergency_target(target)
    return changed


def _node(
    name: str, status: NodePressureStatus, workers: Sequence[MemoryWorker], requested: AbstractSet[str]
) -> MemoryNode:
    """Translate the node; only VMs whose uids are ``requested`` may be moved."""
    policies = {worker.instance.uid: worker.backing.policy for worker in workers}

    def governing(report: VirtualMachineReport) -> LoadedMemoryPolicy | None:
        return policies[report.uid] if report.uid in requested else None

    # While not all policies are known, requests hold that no known policy stands behind: such VMs are left as they are,
    # and count as what they hold. Counted as without a request, each would be set aside whole.
    believed = {worker.instance.uid for worker in workers if worker.target is not None} - requested
    node = memory_node(name, status, governing)
    vms = tuple(
        replace(vm, agent_action=AgentAction.HOLDS)
        if vm.uid in believed and vm.agent_action is AgentAction.FOLLOWS
        else vm
        for vm in node.vms
    )
    return replace(node, vms=vms)


def _may_be_short(worker: MemoryWorker) -> bool:
    """Whether a guest may be short of memory, by its last sample."""
    view = worker.view
    if view.need is None or view.sample is None or not view.responsive:
        return False
    held = view.sample.statistics.actual
    return is_short(view.sample.size, held, view.need.value, troubled=view.need.troubled)


def _log_target(worker: MemoryWorker, target: int | None) -> None:
    vm, fields = worker.instance.domain, worker.instance.log_fields
    if target is None:
        _log.info("%s: back to its request", vm, extra=fields)
    else:
        _log.info("%s: %s in place of its request, without waiting", vm, human(target), extra=fields)
