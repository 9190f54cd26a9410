"""Helps node and guests in trouble before the controller does, by what it would decide.

What is decided here takes the place of a VM's request until the controller asks something else of that VM, or until
the two are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from kubeballoon.agent.keeper import Keeper
from kubeballoon.api.v1alpha1 import MemoryPolicy, NodePressureStatus, VirtualMachineReport
from kubeballoon.cluster.snapshot import Requested, core_node
from kubeballoon.core.model import Course, State
from kubeballoon.core.relief import is_short, relieve
from kubeballoon.core.wording import human

_log = logging.getLogger(__name__)


class Reliever:
    """Remembers what it decided for which request."""

    def __init__(self, node: str) -> None:
        """Help on ``node``."""
        self._node = node
        self._decided: dict[str, tuple[int, int]] = {}  # uid -> the request at that time, and the goal instead

    def recall(self, status: NodePressureStatus) -> None:
        """Remember what was last reported as decided."""
        self._decided = {
            report.uid: (report.target, report.relief)
            for report in status.virtual_machines
            if report.target is not None and report.relief is not None
        }

    def needed(self, state: State, keepers: Sequence[Keeper]) -> bool:
        """Whether there may be anything to decide or to end: a cheap look before the careful one."""
        return bool(self._decided) or state.desperate or any(map(_short, keepers))

    def relieve(self, status: NodePressureStatus, keepers: Sequence[Keeper]) -> bool:
        """Decide for each VM, and tell its keeper; whether anything changed by that."""
        policies = {keeper.instance.uid: keeper.mandate.policy for keeper in keepers}
        requests = {
            keeper.instance.uid: keeper.target
            for keeper in keepers
            if keeper.target is not None and keeper.mandate.policy is not None
        }
        present = {uid: goal for uid, (asked, goal) in self._decided.items() if requests.get(uid) == asked}

        def governing(report: VirtualMachineReport) -> MemoryPolicy | None:
            return policies[report.uid] if report.uid in requests else None

        in_force = {uid: Requested(present.get(uid, asked)) for uid, asked in requests.items()}
        # While not all policies are known, requests hold that none is known to stand behind.
        believed = {keeper.instance.uid for keeper in keepers if keeper.target is not None} - requests.keys()
        node = core_node(self._node, status, governing, in_force)
        vms = tuple(
            replace(vm, course=Course.STAYS) if vm.uid in believed and vm.course is Course.REQUEST else vm
            for vm in node.vms
        )
        goals = relieve(replace(node, vms=vms), requests)
        self._decided = {uid: (requests[uid], goal) for uid, goal in goals.items()}
        changed = False
        for keeper in keepers:
            goal = goals.get(keeper.instance.uid)
            if goal != keeper.relief:
                changed = True
                _say(keeper, goal)
                keeper.relieve(goal)
        return changed


def _short(keeper: Keeper) -> bool:
    """Whether a guest may be in trouble, by what its keeper sees."""
    view = keeper.view
    if view.need is None or view.sample is None or not view.responsive:
        return False
    held = view.sample.statistics.actual
    return is_short(view.sample.size, held, view.need.value, troubled=view.need.troubled)


def _say(keeper: Keeper, goal: int | None) -> None:
    if goal is None:
        _log.info("%s: back to its request", keeper.instance.domain)
    else:
        _log.info("%s: %s in place of its request, without waiting", keeper.instance.domain, human(goal))
