"""This module judges whether something changed enough to look at the node, or to write a report.

Figures that waver a little, and texts for people, are no news: every report is a write to the API server, and wakes the
controller.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from kubeballoon.agent.node.memory import HostMemory
from kubeballoon.agent.vm.guest_processors import ProcessorView
from kubeballoon.agent.vm.memory_view import MemoryView
from kubeballoon.api.v1alpha1 import (
    NodeMemory,
    NodePressureStatus,
    NodeProcessors,
    ProcessorReport,
    VirtualMachineReport,
)
from kubeballoon.vocabulary import NodeState

_PART = 100  # a figure is news when it moved by more than this part of the node's memory, or of the VM's size
_NEEDY_PART = 32  # a guest needs more if its need rose by more than this part of its size: less is covered by headroom
_NODE_FIGURES = tuple(NodeMemory.model_fields)
# What whoever may edit a VM may change as often as they like: that has the report of the whole node written each time.
_TENANTS_OWN = ("labels", "labels_cut", "owner_excluded")
_DRIFTING = ("resident", "need", "present_need")  # figures of a VM that move all the time
_PERCENT = 20  # by which the usage or stall of the node's processors is news: far less than policies' thresholds differ


def view_changed(before: MemoryView, now: MemoryView) -> bool:
    """Whether a VM's memory changed enough for the agent to look at the whole node."""
    old, new = before.sample, now.sample
    if old is None or new is None or before.problem != now.problem or before.responsive != now.responsive:
        return True
    if before.working_set.ability is not now.working_set.ability:
        return True
    if (before.need is None) != (now.need is None) or bool(before.excess) != bool(now.excess):
        return True
    figures = [
        (old.statistics.actual, new.statistics.actual),
        (old.resident, new.resident),
        (old.size, new.size),
    ]
    if before.need is not None and now.need is not None:
        if before.need.troubled != now.need.troubled:
            return True
        figures.append((before.need.value, now.need.value))
    return any(_moved(*figure, new.size) for figure in figures)


def processor_view_changed(before: ProcessorView, now: ProcessorView) -> bool:
    """Whether a VM's processors changed otherwise than in their usage, which changes all the time."""
    return replace(before, usage=None) != replace(now, usage=None)


def node_changed(written: NodePressureStatus | None, memory: HostMemory, processors: NodeProcessors | None) -> bool:
    """Whether the node's own memory or processors changed enough since the report that was ``written`` last."""
    if written is None or _moved(written.memory.available, memory.least_available, memory.total):
        return True
    return _processors_moved(written.processors, processors)


class News(IntEnum):
    """News says how soon a report is worth a write: not at all, some seconds after the last one, soon, or at once."""

    NONE = 0
    DRIFT = 1
    MOVED = 2
    URGENT = 3


def report_news(before: NodePressureStatus | None, now: NodePressureStatus) -> News:
    """Judge what the report ``now`` tells the controller that the report ``before`` did not.

    While the node has memory to spare, figures that drift can wait for some seconds, and balloons that move for one. A
    guest that needs more memory waits for nothing. What tenants write on their VMs waits like balloons that move,
    however short of memory the node is.
    """
    if before is None or before.state is not now.state or before.conditions != now.conditions:
        return News.URGENT
    if (before.limits, before.labels, before.labels_cut) != (now.limits, now.labels, now.labels_cut):
        return News.URGENT
    moved = _processors_moved(before.processors, now.processors) or any(
        _moved(getattr(before.memory, name), getattr(now.memory, name), now.memory.total) for name in _NODE_FIGURES
    )
    known = {vm.uid: vm for vm in before.virtual_machines}
    if len(known) != len(now.virtual_machines):
        return News.URGENT
    news = max((_vm_news(known.get(vm.uid), vm) for vm in now.virtual_machines), default=News.NONE)
    drift = max(news, News.DRIFT if moved else News.NONE)
    if drift and now.state is not NodeState.AMPLE:
        return News.URGENT
    written_on = any(_tenants_own(known[vm.uid]) != _tenants_own(vm) for vm in now.virtual_machines if vm.uid in known)
    return max(drift, News.MOVED if written_on else News.NONE)


def texts_changed(before: NodePressureStatus, now: NodePressureStatus) -> bool:
    """Whether a report explains anything otherwise to people; that alone is not worth a report."""
    texts = {vm.uid: (vm.message, vm.processors and vm.processors.message) for vm in before.virtual_machines}
    return any(
        texts.get(vm.uid) != (vm.message, vm.processors and vm.processors.message) for vm in now.virtual_machines
    )


def _vm_news(before: VirtualMachineReport | None, now: VirtualMachineReport) -> News:
    if before is None or _steady(before.processors) != _steady(now.processors):
        return News.URGENT
    judged_apart = {"actual", *_DRIFTING, *_TENANTS_OWN, "guest", "message", "processors"}
    if before.model_dump(exclude=judged_apart) != now.model_dump(exclude=judged_apart):
        return News.URGENT
    if before.need is not None and now.need is not None and now.need - before.need > now.size // _NEEDY_PART:
        return News.URGENT
    if _moved(before.actual, now.actual, now.size):
        return News.MOVED
    drifted = any(_moved(getattr(before, name), getattr(now, name), now.size) for name in _DRIFTING)
    return News.DRIFT if drifted else News.NONE


def _tenants_own(report: VirtualMachineReport) -> list[object]:
    """Return what a VM's tenant writes on it."""
    return [getattr(report, name) for name in _TENANTS_OWN]


def _steady(report: ProcessorReport | None) -> ProcessorReport | None:
    """Leave out of a VM's processors what changes all the time."""
    return None if report is None else report.model_copy(update={"usage": None, "message": None})


def _processors_moved(before: NodeProcessors | None, now: NodeProcessors | None) -> bool:
    if before is None or now is None:
        return before is not now
    return any(abs(getattr(before, name) - getattr(now, name)) >= _PERCENT for name in ("usage", "stall"))


def _moved(before: int | None, now: int | None, whole: int) -> bool:
    """Whether a figure, which is a part of ``whole``, became known or unknown, or moved by more than a hundredth."""
    if before is None or now is None:
        return before is not now
    return abs(before - now) * _PART > whole
